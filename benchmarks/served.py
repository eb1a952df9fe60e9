"""The gateway as its users start it: `smartrouter-asgi serve`, in processes of its own."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .apps import router_settings
from .processes import READY_TIMEOUT_S, Child, cores, free_port, stranger


@contextlib.contextmanager
def served(engine: Child, *, workers: int = 1) -> Iterator[Child]:
    """Run the command over an engine; several workers may use every core there is."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "smartrouter.yaml")
        config.write_text(json.dumps(router_settings(f"http://127.0.0.1:{engine.port}")))  # JSON is YAML
        command = (
            *(sys.executable, "-m", "smartrouter_asgi", "serve", "--config", str(config), "--port", str(port)),
            *("--workers", str(workers), "--log-level", "WARNING"),
        )
        core = cores()[0] if workers == 1 else None
        with stranger(*command, port=port, core=core, ready_s=READY_TIMEOUT_S) as child:
            yield child
