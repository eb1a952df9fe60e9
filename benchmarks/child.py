"""What every process started by a benchmark does: print its port, leave when its parent does, live for minutes only."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import Awaitable, Callable

LIFETIME_S = 1200.0


def new_loop() -> asyncio.AbstractEventLoop:
    """Make the event loop that uvicorn would choose: uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def run_child(main: Callable[[], Awaitable[None]]) -> None:
    """Run the mock engine or the load generator: without garbage collection, which would only add noise."""
    gc.disable()

    async def body() -> None:
        await main()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        gc.freeze()
        runner.run(body())


def say(value: object) -> None:
    """Tell the parent something: one line of JSON."""
    print(json.dumps(value), flush=True)


async def served(port: int) -> None:
    """Say that a port is served, then wait for the parent to go or the time to be over."""
    say({"port": port})
    await parent_gone()


async def parent_gone() -> None:
    """Wait for the end of standard input, at most `LIFETIME_S`."""
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), gone.set)
    try:
        async with asyncio.timeout(LIFETIME_S):
            await gone.wait()
    except TimeoutError:
        pass
    finally:
        loop.remove_reader(sys.stdin.fileno())
