"""What a router costs before and beside its requests: memory, cold start, import."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from .figures import ROOT, figure
from .processes import Child, cores, first_answer, module, pinned
from .usage import rss_bytes, tree


def measure_memory(children: Mapping[str, Child], load: Child, *, streams: int, seconds: float = 0.5) -> dict[str, Any]:
    """Measure resident memory, idle and with open slow streams, of processes that have just started."""
    found: dict[str, Any] = {}
    for variant, child in children.items():
        if variant == "direct":
            continue
        load.tell({"port": child.port, "pid": child.pid, "connections": 1, "warmup_s": 0, "seconds": seconds})
        load.hear(40)
        idle = rss_bytes(tree(child.pid))
        load.tell(
            {
                "port": child.port,
                "pid": child.pid,
                "connections": streams,
                "chunks": 100,
                "pace_ms": int(seconds * 1000),
                "hold": True,
                "warmup_s": 0,
                "seconds": seconds,
            }
        )
        held = load.hear(60)
        found[variant] = {
            "idle_mb": figure([idle / 1e6], "MB"),
            "per_stream_kb": figure([max(0.0, float(str(held["rss_bytes"])) - idle) / streams / 1e3], "KB"),
            "streams_open": held["streams"],
            "streams_asked": streams,
            "errors": held["errors"],
        }
    return found


def measure_startup(engine_port: int, *, times: int) -> dict[str, Any]:
    """Measure the time from command to first answer, and that of importing the package."""
    tested, _ = cores()
    commands = {
        "python": "pass",
        "import_package": "import smartrouter_asgi",
        "import_router": "from smartrouter_asgi import SmartRouter, Settings",
    }
    cold: dict[str, list[float]] = {"hello": [], "router": []}
    imported: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(times):
        for kind, seconds in cold.items():
            began = time.perf_counter()
            with module("serve", kind, str(engine_port), core=tested) as child:
                first_answer(child.port)
                seconds.append(time.perf_counter() - began)
        for name, code in commands.items():
            imported[name].append(_run(code, tested))
    bare = min(imported["python"])
    return {
        **{f"first_answer_{kind}": figure([s * 1e3 for s in seconds], "ms") for kind, seconds in cold.items()},
        "python": figure([s * 1e3 for s in imported.pop("python")], "ms"),
        **{name: figure([max(0.0, s - bare) * 1e3 for s in seconds], "ms") for name, seconds in imported.items()},
    }


def _run(code: str, core: set[int] | None) -> float:
    began = time.perf_counter()
    with pinned(core):
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60, env={**os.environ})
    return time.perf_counter() - began
