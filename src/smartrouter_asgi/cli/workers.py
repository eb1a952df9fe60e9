"""`serve --workers N`: several processes behind one address, each with a router of its own."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from uvicorn.supervisors import Multiprocess

from ..app import SmartRouter, create_app
from .errors import CommandError
from .memory import gated_or_unknown
from .server import calm_collector, run_loop, uvicorn_config
from .signals import SIGNALS, DrainingOnSignals
from .start import SURVEY_WITHIN_S, Start
from .survey import survey

if TYPE_CHECKING:
    from collections.abc import Generator

    from ..config import Settings

STEP_S = 0.1

START_FAILED = 3
"""uvicorn's exit code for an app that does not start."""


def serve_with_workers(start: Start, file: str | None) -> int:
    """Serve until a signal comes; raises `CommandError` (exit code 2) when a backend is gated.

    The workers get their settings through the environment; `file` is the configuration that the command line named.
    """
    settings = run_loop(lambda: _look(start))
    os.environ["ROUTER_LOG_LEVEL"] = settings.logging.level
    if file:
        os.environ["ROUTER_CONFIG"] = str(Path(file).expanduser().resolve())
    with ExitStack() as stack:
        if settings is not start.settings:
            os.environ["ROUTER_CONFIG"] = stack.enter_context(_file_of(settings))
        for sock in start.sockets:
            sock.listen()  # who follows the printed lines at once waits until a worker is there
        config = uvicorn_config(
            f"{__name__}:{create_worker.__name__}", settings, factory=True, workers=settings.server.workers
        )
        supervisor = Supervisor(config, sockets=start.sockets)
        supervisor.run()
    stopped = (0, None, -signal.SIGTERM, -signal.SIGINT)
    return 0 if all(process.exitcode in stopped for process in supervisor.processes) else START_FAILED


def create_worker() -> DrainingOnSignals:
    """Make a worker's app from the environment."""
    app = DrainingOnSignals(create_app())
    calm_collector()
    return app


class Supervisor(Multiprocess):
    """uvicorn's supervisor, which passes on what it hears while its workers drain: a second signal ends them too."""

    def join_all(self) -> None:
        """Wait until all workers have ended."""
        while running := [process for process in self.processes if process.exitcode is None]:
            running[0].process.join(STEP_S)
            while self.signal_queue:
                number = self.signal_queue.pop(0)
                for process in running:
                    if number in SIGNALS and process.pid is not None and process.exitcode is None:
                        os.kill(process.pid, number)


async def _look(start: Start) -> Settings:
    """Look at the backends once for all workers, and print the first lines."""
    settings = await start.find_engines()
    router = SmartRouter(settings)
    try:
        seen = await survey(router, within_s=SURVEY_WITHIN_S)
        if router.gate is not None and (names := gated_or_unknown(router)):
            raise CommandError(
                f"--workers {settings.server.workers} does not go with gated backends ({', '.join(names)}): each "
                "process would give out the whole of the GPU memory.\n"
                "  Use --workers 1, or `gated: false` for the backends whose memory need not be watched."
            )
        start.announce(router, seen)
    finally:
        await router.aclose()
    return settings


@contextmanager
def _file_of(settings: Settings) -> Generator[str]:
    """Write the backends that were found to a file, for the workers to read."""
    backends = {
        name: {
            "type": section.type,
            "url": section.base_url,
            "keep_alive": section.keep_alive_s,
            "model_prefix": section.model_prefix,
        }
        for name, section in settings.backends.items()
    }
    with tempfile.NamedTemporaryFile("w", prefix="smartrouter-", suffix=".yaml") as file:
        json.dump({"backends": backends}, file)
        file.flush()
        yield file.name
