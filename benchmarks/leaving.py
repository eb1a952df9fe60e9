"""Clients that leave: how long after a client has closed its connection the engine's one is closed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from .answers import CHAT_PATH, STAMP, chat_body
from .child import new_loop
from .processes import Child

PATIENCE_S = 10.0
WAVE = 10
"""So many streams run at a time; they leave one after the other, while the rest goes on."""
GAP_S = 0.005
PACE_MS = 20
FIRST_NUMBER = 10_000
"""A stream goes by the number of chunks it asks for, more than it will ever get."""


def delays_ms(router: Child, engine: Child, streams: int, *, first_token: bool) -> list[float]:
    """Let clients leave, in the middle of a stream or (`first_token` false) before the engine has said anything.

    Returns the delay of each. Raises `RuntimeError` when the engine's connection is still open after `PATIENCE_S`.
    """
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(_waves(router, engine, streams, first_token=first_token))


async def _waves(router: Child, engine: Child, streams: int, *, first_token: bool) -> list[float]:
    found: list[float] = []
    _ask(engine, silent=not first_token)
    for begun in range(0, streams, WAVE):
        found += await _wave(router, engine, range(begun, min(begun + WAVE, streams)), first_token=first_token)
    return found


async def _wave(router: Child, engine: Child, numbers: range, *, first_token: bool) -> list[float]:
    before = _calls(engine)
    async with asyncio.timeout(PATIENCE_S):
        clients = [await _open(router, FIRST_NUMBER + number) for number in numbers]
        for reader, _ in clients:
            if first_token:
                await _speaks(reader)
    await _until(lambda: _calls(engine) - before == len(clients), "a stream never came to the engine")
    left: dict[int, int] = {}
    closed: dict[int, int] = {}

    def all_closed() -> bool:
        closed.update({int(number): int(at) for number, at in _ask(engine)["closed"]})  # type: ignore[attr-defined]
        return closed.keys() >= left.keys()

    for number, (_, writer) in zip(numbers, clients, strict=True):
        await asyncio.sleep(GAP_S)
        left[FIRST_NUMBER + number] = time.monotonic_ns()
        writer.close()
    for _, writer in clients:
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    await _until(all_closed, "an engine's connection was never closed")
    return [(closed[number] - at) / 1e6 for number, at in left.items()]


async def _open(router: Child, number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    body = chat_body(number, PACE_MS)
    writer.write(
        b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
        % (CHAT_PATH.encode(), len(body), body)
    )
    return reader, writer


async def _speaks(reader: asyncio.StreamReader) -> None:
    """Wait for the first chunk. Raises `RuntimeError` when the stream ends before it."""
    text = b""
    while STAMP.search(text) is None:
        data = await reader.read(65536)
        if not data:
            raise RuntimeError(f"a stream ended at once: {text[:300]!r}")
        text += data


def _ask(engine: Child, **faults: object) -> dict[str, object]:
    engine.tell(faults)
    return engine.hear(PATIENCE_S)


def _calls(engine: Child) -> int:
    return int(str(_ask(engine)["calls"]))


async def _until(true: Callable[[], bool], otherwise: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > until:
            raise RuntimeError(otherwise)
        await asyncio.sleep(0.005)
