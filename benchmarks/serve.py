"""The servers under test, each one uvicorn worker: `python -m benchmarks.serve APP ENGINE_PORT`, an app of `apps`.

`python -m benchmarks.serve configured JSON` is a router with the settings given.

The port is bound and printed before anything heavy is imported: a request sent at once waits in the backlog, and its
answer marks the end of a cold start.
"""

from __future__ import annotations

import socket
import sys

from .child import say


def is_router(kind: str) -> bool:
    """Tell whether it is a router, which runs as `serve` runs it; all else has uvicorn's defaults."""
    return kind == "configured" or kind.startswith("router")


def main() -> None:
    kind, argument = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "0"
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    say({"port": listener.getsockname()[1]})

    import asyncio

    import uvicorn

    from . import apps
    from .child import parent_gone

    app = getattr(apps, kind)(argument if kind == "configured" else f"http://127.0.0.1:{argument}")
    options = {"proxy_headers": False, "server_header": False} if is_router(kind) else {}
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", access_log=False, backlog=2048, timeout_graceful_shutdown=1, **options)
    )
    if is_router(kind):
        from smartrouter_asgi.cli.server import calm_collector

        calm_collector()

    async def serve() -> None:
        watch = asyncio.create_task(parent_gone())
        watch.add_done_callback(lambda _: setattr(server, "should_exit", True))
        await server.serve(sockets=[listener])
        watch.cancel()

    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(serve())


if __name__ == "__main__":
    main()
