"""`serve`: settings, address, engines, then the gateway until a signal ends it."""

from __future__ import annotations

import os
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from .. import __version__
from ..app import SmartRouter
from ..config import load_settings
from .errors import FAILED, OK, CommandError
from .output import Screen
from .sockets import bind, refuse_open_door
from .start import SURVEY_WITHIN_S, Start
from .survey import survey

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from ..testing.ollama import SimulatedOllama

NO_SERVER = "serving needs uvicorn: pip install 'smartrouter-asgi[server]'"


def serve(options: argparse.Namespace) -> int:
    """Serve until a signal comes. Raises `ConfigurationError` and `CommandError`."""
    if options.demo and (options.config or options.workers):
        raise CommandError("--demo brings its own engine: only --host, --port and --log-level go with it")
    overrides = {
        "server.host": options.host,
        "server.port": options.port,
        "server.workers": options.workers,
        "logging.level": options.log_level,
    }
    environ: Mapping[str, str] = os.environ
    if options.demo:
        from .demo import demo_environ

        environ = demo_environ(environ)
    settings = load_settings(file=options.config, environ=environ, overrides=overrides)
    refuse_open_door(settings.server.host, allowed=options.allow_unauthenticated)
    _need_server()
    start = Start(
        settings=settings, sockets=bind(settings.server.host, settings.server.port), screen=Screen(sys.stdout)
    )
    start.screen.line(f"smartrouter-asgi {__version__}", "bold")
    from .server import run_loop
    from .workers import serve_with_workers

    try:
        if settings.server.workers > 1:
            return serve_with_workers(start, options.config)
        return run_loop(lambda: _serve_here(start, overrides if options.demo else None))
    except KeyboardInterrupt:  # a signal, before the server took care of them
        return OK


def _need_server() -> None:
    try:
        import uvicorn  # noqa: F401
    except ImportError:
        raise CommandError(NO_SERVER, exit_code=FAILED) from None


async def _serve_here(start: Start, demo: Mapping[str, object] | None) -> int:
    """Serve in this process and event loop; `demo` are the command line's settings when it is one."""
    from .server import RouterServer, uvicorn_config
    from .signals import DrainingOnSignals

    async with AsyncExitStack() as stack:
        engine: SimulatedOllama | None = None
        if demo is not None:
            from .demo import demo_engine, demo_settings

            engine = await stack.enter_async_context(demo_engine())
            settings = demo_settings(engine, os.environ, demo)
        else:
            settings = await start.find_engines()
        router = SmartRouter(settings)

        async def on_listening() -> None:
            start.announce(router, await survey(router, within_s=SURVEY_WITHIN_S), engine)

        server = RouterServer(uvicorn_config(DrainingOnSignals(router), settings), on_listening=on_listening)
        try:
            await server.serve(sockets=start.sockets)
        except KeyboardInterrupt:  # uvicorn raises the signal that ended it once more
            if not server.started:
                raise
    return OK
