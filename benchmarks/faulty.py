"""A mock engine with faults: `python -m benchmarks.faulty`.

It prints `{"port": ...}`. Each line of its standard input sets faults (`{}` sets none) and is answered with what it has
seen: `calls`, how many chat requests have come in all, and `closed`, which of them lost their connection, unanswered,
since the last such line, and when (`time.monotonic_ns`). A request goes by the number of chunks it asks for.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from .answers import LAST_EVENTS, framed, framed_stamp, wanted
from .child import LIFETIME_S, run_child, say
from .engine import STREAM_HEAD, EngineProtocol

SLOW_FACTOR = 10.0
_ERROR = b'{"error":{"message":"out of order","type":"server_error"}}'
_REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
    len(_ERROR),
    _ERROR,
)


@dataclass(slots=True, kw_only=True)
class Faults:
    """What is wrong with it, and what it has seen."""

    refuse: bool = False
    """Answer 503 at once."""
    silent: bool = False
    """Take requests and never answer."""
    first_token_s: float = 0.0
    """Over 0: the usual time to a first token, which varies by a fifth both ways."""
    slow_share: float = 0.0
    """So many of them take `SLOW_FACTOR` as long."""
    calls: int = 0
    closed: list[tuple[int, int]] = field(default_factory=list)
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    def told(self, line: bytes) -> dict[str, Any]:
        """Take a line of orders and return what has been seen."""
        for name, value in json.loads(line).items():
            setattr(self, name, value)
        closed, self.closed = self.closed, []
        return {"calls": self.calls, "closed": closed}

    def next_first_token_s(self) -> float:
        """Say how long the next first token takes."""
        usual_s = self.first_token_s * self.chance.uniform(0.8, 1.2)
        return usual_s * SLOW_FACTOR if self.chance.random() < self.slow_share else usual_s


class FaultyProtocol(EngineProtocol):
    """One connection."""

    __slots__ = ("_faults", "_number")

    def __init__(self, loop: asyncio.AbstractEventLoop, faults: Faults) -> None:
        super().__init__(loop)
        self._faults = faults
        self._number = 0

    def connection_lost(self, exc: Exception | None) -> None:
        if self._number and (self._timer is not None or self._faults.silent):
            self._faults.closed.append((self._number, time.monotonic_ns()))
        super().connection_lost(exc)

    def answer(self, request: bytes) -> None:
        faults, stream = self._faults, wanted(request)
        if not request.startswith(b"POST"):
            super().answer(request)
            return
        faults.calls += 1
        self._number = stream[0] if stream is not None else 0
        if faults.refuse:
            self._write(_REFUSAL)
        elif faults.silent:
            return
        elif stream is not None and faults.first_token_s > 0:
            self._write(STREAM_HEAD)
            self._timer = self._loop.call_later(faults.next_first_token_s(), self._speak, stream[0])
        else:
            super().answer(request)

    def _speak(self, chunks: int) -> None:
        """Give all chunks of a stream that has kept its client waiting."""
        self._timer = None
        self._write(b"".join((*[framed_stamp() for _ in range(chunks)], framed(LAST_EVENTS), b"0\r\n\r\n")))


async def serve() -> None:
    loop, faults, gone = asyncio.get_running_loop(), Faults(), asyncio.Event()
    server = await loop.create_server(lambda: FaultyProtocol(loop, faults), "127.0.0.1", 0, backlog=2048)
    say({"port": server.sockets[0].getsockname()[1]})

    def hear() -> None:
        lines = os.read(sys.stdin.fileno(), 65536)  # the parent waits for each answer: a line comes whole, and alone
        if lines:
            say(faults.told(lines))
        else:
            gone.set()

    loop.add_reader(sys.stdin.fileno(), hear)
    try:
        async with asyncio.timeout(LIFETIME_S):
            await gone.wait()
    except TimeoutError:
        pass
    finally:
        loop.remove_reader(sys.stdin.fileno())
    server.close()


if __name__ == "__main__":
    run_child(serve)
