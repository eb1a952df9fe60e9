"""What the rest of the package needs of an HTTP client, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from ..types import Closable, Headers


class HTTPRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request to an upstream. `headers` are raw pairs and hold nothing that the client sent."""

    backend: str
    """Name for messages; the URL never appears in one."""
    method: str
    url: str
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes = b""
    control: bool = False
    """The gateway asks on its own behalf, for a list or a load: no client's answer passes through."""

    def __repr__(self) -> str:  # neither headers nor body: keys, and what people say
        return f"HTTPRequest(backend={self.backend!r}, method={self.method!r}, url={self.url!r})"


class HTTPAnswer(Protocol):
    """An upstream's answer, its body not yet read."""

    status: int
    headers: Headers

    async def read(self, limit: int) -> bytes:
        """Read the whole body, at most `limit` bytes. Raises `AttemptError` (502) when it breaks or is larger."""

    def chunks(self) -> Closable[bytes]:
        """Yield the body as it arrives. Raises `AttemptError` of kind `RESET` when the connection breaks."""

    async def aclose(self) -> None:
        """Give the connection back, or close it when the body was not read to its end. Safe to call twice."""


class Transport(Protocol):
    """Opens requests. Calls are cancelled by anyio scopes; a connection under way is then closed.

    One that has a true `cancels_natively` keeps in order whatever cancels it.
    """

    async def open(self, request: HTTPRequest) -> HTTPAnswer:
        """Send a request and wait for the head of its answer.

        Raises `AttemptError` of kind `CONNECT` when nothing was sent, `LOCAL` when the gateway lacks the means to,
        `STALE` when a reused connection was found dead, `UPLOAD` when one was cut under a large body, `RESET` or
        `PROTOCOL` otherwise.
        """

    async def aclose(self) -> None:
        """Close every connection that this transport owns."""


def header(headers: Headers, name: bytes) -> bytes | None:
    """Return the first value of a header; names are lower case."""
    for key, value in headers:
        if key == name:
            return value
    return None
