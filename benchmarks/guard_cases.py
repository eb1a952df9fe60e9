"""What the guard counts: layers in process, and requests and chunks over sockets, one after the other."""

from __future__ import annotations

import re
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from .answers import CHAT_PATH, STAMP, chat_body
from .guard_counts import START_S, Counted
from .processes import module

SERVERS = {"hello": ("hello",), "direct": ("router", "direct"), "httpx": ("router", "httpx")}
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: *(\d+)")
PACE_MS = 20
PLAIN, BURST, PACED = "plain request", "chunk of a burst", f"chunk at {PACE_MS} ms"
SOCKET_CASES = tuple(f"{kind}: {what}" for kind in SERVERS for what in (PLAIN, BURST, PACED))
Found = Iterator[tuple[str, Counter[str], int]]


class Client:
    """One connection that asks, and waits for the whole answer and for the server to have nothing left to do."""

    def __init__(self, port: int, pid: int) -> None:
        self._stat = Path(f"/proc/{pid}/stat")
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
        self._until_asleep()

    def _until_asleep(self) -> None:
        """Wait until the server waits: a request that comes earlier saves it a turn of its loop, now and then."""
        until = time.monotonic() + START_S
        while self._stat.read_text().rpartition(")")[2].split()[0] != "S":
            if time.monotonic() > until:
                raise RuntimeError("the server did not come to rest")
            time.sleep(0.0002)

    @staticmethod
    def _whole(answer: bytes, chunks: int) -> bool:
        if chunks:
            return answer.endswith(b"\r\n0\r\n\r\n")
        length, (_, end, rest) = _LENGTH.search(answer), answer.partition(b"\r\n\r\n")
        return bool(end) and length is not None and len(rest) >= int(length[1])

    def close(self) -> None:
        self._socket.close()


def chosen(only: Sequence[str], name: str) -> bool:
    """Say whether a case is wanted: all are, or those whose name has one of the texts."""
    return not only or any(part in name for part in only)


def difference(few: Counter[str], many: Counter[str]) -> Counter[str]:
    """Take off what both windows have, be it the mark or the start of a stream."""
    left = Counter(many)
    left.subtract(few)
    return left


def in_process(counted: Counted, only: Sequence[str], scale: float) -> Found:
    """Count each layer: `(case, what was counted, by how many calls)`."""
    names = counted.child.hear(START_S)["cases"]
    assert isinstance(names, list)
    for case in names:
        name = "in process: " + case.partition(" - ")[0]
        if not chosen(only, name):
            continue
        few, many = max(int(20 * scale), 2), max(int(120 * scale), 4)
        counted.window([case, few], 2)
        yield name, difference(counted.window([case, few], 2), counted.window([case, many], 2)), many - few


def over_sockets(counted: Counted, kind: str, only: Sequence[str], scale: float) -> Found:
    """Count a server's requests and chunks."""
    client = Client(counted.child.port, counted.child.pid)

    def window(times: int, chunks: int = 0, pace_ms: int = 0) -> Counter[str]:
        for _ in range(times):
            client.ask(chunks, pace_ms)
        return counted.window("mark", 1)

    size = scale * (0.25 if kind == "httpx" else 1)
    few, many, streams = max(int(100 * size), 2), max(int(500 * size), 4), max(int(20 * size), 1)
    try:
        window(max(int(100 * size), 5))
        if chosen(only, name := f"{kind}: {PLAIN}"):
            yield name, difference(window(few), window(many)), many - few
        if chosen(only, name := f"{kind}: {BURST}"):
            window(streams, 50)
            yield name, difference(window(streams, 50), window(streams, 250)), streams * 200
        if chosen(only, name := f"{kind}: {PACED}"):
            window(1, 10, PACE_MS)
            yield name, difference(window(1, 20, PACE_MS), window(1, 120, PACE_MS)), 100
    finally:
        client.close()


def count(folder: Path | None, only: Sequence[str], scale: float = 1.0) -> Found:
    """Count every case wanted: `(case, what was counted, of how many)`.

    With `folder` None Python's calls are counted, else instructions, by dumps in that folder.
    """
    kinds = [kind for kind in SERVERS if any(chosen(only, name) for name in SOCKET_CASES if name.startswith(kind))]
    if not only or any(not any(part in name for name in SOCKET_CASES) for part in only):
        kinds.append("layers")
    with ExitStack() as stack:
        engine = stack.enter_context(module("engine", core=None))
        started: dict[str, Counted] = {}
        for kind in kinds:  # all at once: counts do not depend on who else runs
            if kind == "layers":
                arguments: tuple[str, ...] = ("layers",)
            else:
                arguments = (SERVERS[kind][0], f"http://127.0.0.1:{engine.port}", *SERVERS[kind][1:])
            started[kind] = Counted(*arguments, folder=folder and folder / kind)
            stack.callback(started[kind].child.stop)
        for kind, counted in started.items():
            if kind == "layers":
                yield from in_process(counted, only, scale)
            else:
                counted.child.port = int(str(counted.child.hear(START_S)["port"]))
                yield from over_sockets(counted, kind, only, scale)
