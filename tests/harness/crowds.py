"""Many clients at once, each on a plain socket of its own: an HTTP client's pool would be slower than what it tests."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

AT_ONCE = 100


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str | None:
        """The code of an error."""
        error = json.loads(self.body).get("error")
        return None if error is None else error["code"]


class Crowd:
    """So many equal requests, a hundred of them at any time; `answers` grows while they are answered."""

    def __init__(self, url: str, body: dict[str, Any], size: int) -> None:
        self.answers: list[Answer] = []
        self._changed = asyncio.Condition()
        host, port = url.removeprefix("http://").split(":")
        payload = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(payload)}"
        request = head.encode() + b"\r\n\r\n" + payload
        turn = asyncio.Semaphore(AT_ONCE)

        async def one() -> None:
            async with turn:
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(request)
                answer = _parse(await reader.read())
                writer.close()
            async with self._changed:
                self.answers.append(answer)
                self._changed.notify_all()

        self._all = asyncio.gather(*(one() for _ in range(size)))

    async def answered(self, count: int) -> None:
        """Wait until so many have their answer."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.answers) >= count)

    async def gone(self) -> list[Answer]:
        """Wait until all have their answer."""
        await self._all
        return self.answers


def _parse(data: bytes) -> Answer:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return Answer(int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}, body)
