"""What the guard counts: layers in process, and requests and chunks over sockets, one after the other."""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from .answers import CHAT_PATH, STAMP, chat_body
from .guard_counts import START_S, Counted
from .processes import module

SERVERS = {"hello": ("hello",), "direct": ("router", "direct"), "httpx": ("router", "httpx")}
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: *(\d+)")
PACE_MS = 20
Found = Iterator[tuple[str, Counter[str], int]]


class Client:
    """One connection that asks and waits for the whole answer."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=START_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, chunks: int = 0, pace_ms: int = 0) -> None:
        """Raise `RuntimeError` when the answer is not what was asked for."""
        body = chat_body(chunks, pace_ms)
        head = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._socket.sendall(head % (CHAT_PATH.encode(), len(body)) + body)
        answer = b""
        while not self._whole(answer, chunks):
            data = self._socket.recv(1 << 20)
            answer += data
            if not data or not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"the server answered {answer[:300]!r}")
        if len(STAMP.findall(answer)) != chunks:
            raise RuntimeError(f"a stream had not the {chunks} chunks asked for")

    @staticmethod
    def _whole(answer: bytes, chunks: int) -> bool:
        if chunks:
            return answer.endswith(b"\r\n0\r\n\r\n")
        length, (head, end, rest) = _LENGTH.search(answer), answer.partition(b"\r\n\r\n")
        return bool(end) and length is not None and len(rest) >= int(length[1])

    def close(self) -> None:
        self._socket.close()


def difference(few: Counter[str], many: Counter[str]) -> Counter[str]:
    """Take off what both windows have, be it the mark or the start of a stream."""
    left = Counter(many)
    left.subtract(few)
    return left


def in_process(counted: Counted, wanted: Callable[[str], bool], scale: float) -> Found:
    """Count each layer: `(case, what was counted, by how many calls)`."""
    names = counted.child.hear(START_S)["cases"]
    assert isinstance(names, list)
    for case in names:
        name = "in process: " + case.partition(" - ")[0]
        if not wanted(name):
            continue
        few, many = max(int(20 * scale), 2), max(int(120 * scale), 4)
        counted.window([case, few], 2)
        yield name, difference(counted.window([case, few], 2), counted.window([case, many], 2)), many - few


def over_sockets(counted: Counted, kind: str, wanted: Callable[[str], bool], scale: float) -> Found:
    """Count a server's requests and chunks."""
    client = Client(int(str(counted.child.port)))

    def window(times: int, chunks: int = 0, pace_ms: int = 0) -> Counter[str]:
        for _ in range(times):
            client.ask(chunks, pace_ms)
        return counted.window("mark", 1)

    size = scale * (0.25 if kind == "httpx" else 1)
    few, many, streams = max(int(100 * size), 2), max(int(500 * size), 4), max(int(20 * size), 1)
    try:
        window(max(int(100 * size), 5))
        if wanted(name := f"{kind}: plain request"):
            yield name, difference(window(few), window(many)), many - few
        if wanted(name := f"{kind}: chunk of a burst"):
            window(streams, 50)
            yield name, difference(window(streams, 50), window(streams, 250)), streams * 200
        if wanted(name := f"{kind}: chunk at {PACE_MS} ms"):
            window(1, 10, PACE_MS)
            yield name, difference(window(1, 20, PACE_MS), window(1, 120, PACE_MS)), 100
    finally:
        client.close()


def count(folder: Path | None, wanted: Callable[[str], bool], scale: float = 1.0) -> Found:
    """Count everything wanted; with `folder` None Python's calls, else instructions, by dumps in that folder."""
    kinds = [kind for kind in SERVERS if wanted(f"{kind}: ")]
    with ExitStack() as stack:
        engine = stack.enter_context(module("engine", core=None))
        started: dict[str, Counted] = {}
        for kind in (*kinds, *(["layers"] if wanted("in process: ") else [])):
            if kind == "layers":
                arguments: tuple[str, ...] = ("layers",)
            else:
                arguments = (SERVERS[kind][0], f"http://127.0.0.1:{engine.port}", *SERVERS[kind][1:])
            started[kind] = Counted(*arguments, folder=folder and folder / kind)
            stack.callback(started[kind].child.stop)
        for kind in kinds:
            started[kind].child.port = int(str(started[kind].child.hear(START_S)["port"]))
            yield from over_sockets(started[kind], kind, wanted, scale)
        if "layers" in started:
            yield from in_process(started["layers"], wanted, scale)
