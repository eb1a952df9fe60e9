"""A process whose instructions or calls the guard counts: `python -m benchmarks.guard_child callgrind|calls KIND ...`.

`layers` runs the cases of `layer_cases` by itself; `hello` and `router` serve with uvicorn. Each line of standard input
is a job and each line of standard output its answer; a mark ends a window and begins the next one. What depends on time
and not on requests is left out: uvicorn's tick, the collection of garbage.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from .child import new_loop, say

Mark = Callable[[], object]


def callgrind_mark() -> None:
    """End the window: callgrind writes a dump whenever the C library's `getloadavg` is entered; see `guard_counts`."""
    os.getloadavg()


async def serve_layers(mark: Mark) -> None:
    """Run in-process cases on demand; a job is `[name, calls]`."""
    from .layer_cases import layer_cases

    cases, closers = await layer_cases()
    loop = asyncio.get_running_loop()
    say({"cases": list(cases)})
    gc.disable()
    for line in sys.stdin:
        name, calls = json.loads(line)
        mark()
        for _ in range(calls):
            await loop.create_task(cases[name]())
        say({"marked": mark()})
    for close in closers:
        await close()


def server_app(kind: str, engine: str, transport: str) -> Any:
    """Make what is served: `hello` or the router with its defaults and a transport by name."""
    from . import apps
    from .answers import ENGINE_MODEL, MODEL

    if kind == "hello":
        return apps.hello(engine)
    settings = {
        "backends": {"engine": {"type": "openai", "url": engine + "/v1"}},
        "models": [{"name": MODEL, "deployments": [{"backend": "engine", "model": ENGINE_MODEL}]}],
        "transport": transport,
    }
    return apps.configured(json.dumps(settings))


def serve_sockets(mark: Mark, kind: str, engine: str, transport: str) -> None:
    """Serve with uvicorn; every line of standard input is a mark."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    say({"port": listener.getsockname()[1]})
    import uvicorn

    gone = asyncio.Event()

    class Server(uvicorn.Server):
        async def main_loop(self) -> None:
            await self.on_tick(0)
            await gone.wait()

    def heard() -> None:
        if os.read(0, 4096):
            say({"marked": mark()})
        else:
            asyncio.get_running_loop().remove_reader(0)
            gone.set()

    config = uvicorn.Config(
        server_app(kind, engine, transport), log_level="warning", access_log=False, timeout_graceful_shutdown=1
    )

    async def serve() -> None:
        asyncio.get_running_loop().add_reader(0, heard)
        gc.disable()
        await Server(config).serve(sockets=[listener])

    run(serve)


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def body() -> None:
        await main()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(body())


def main() -> None:
    how, kind, *arguments = sys.argv[1:]
    mark: Mark = callgrind_mark
    if how == "calls":
        from .guard_calls import CallCounter

        mark = CallCounter().mark
    if kind == "layers":
        run(lambda: serve_layers(mark))
    else:
        engine, transport = (*arguments, "", "")[:2]
        serve_sockets(mark, kind, engine, transport)


if __name__ == "__main__":
    main()
