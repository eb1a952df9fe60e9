"""The lane as a transport of httpx, for clients that are built on it: `httpx.AsyncClient(transport=...)`."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

import anyio
import httpx

from ...exceptions import AttemptError, FailureKind
from ..http import HTTPRequest
from .exchange import Exchange
from .transport import DirectTransport


class DirectHTTPXTransport(httpx.AsyncBaseTransport):
    """Sends the requests of an `httpx.AsyncClient` over connections of our own, and the SDKs' that are given one.

    A request's body is read whole before it is sent. Of httpx's timeouts `read` is kept, and `connect` is said here.
    What fails is raised as httpx does.
    """

    def __init__(self, *, connect_timeout_s: float = 5.0, tls: ssl.SSLContext | None = None) -> None:
        self._transport = DirectTransport(connect_timeout_s=connect_timeout_s, tls=tls)
        self._connect_timeout_s = connect_timeout_s

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return its answer, the body not yet read."""
        url = request.url
        timeout_s = request.extensions.get("timeout", {}).get("read")
        sent = HTTPRequest(
            backend=url.host,
            method=request.method,
            url=f"{url.scheme}://{url.netloc.decode()}{url.raw_path.decode()}",
            headers=request.headers.raw,
            body=await request.aread(),
        )
        with anyio.move_on_after(None if timeout_s is None else timeout_s + self._connect_timeout_s):
            try:
                answer = await self._transport.open(sent)
            except AttemptError as exc:
                raise _as_httpx(exc, request) from exc
            return httpx.Response(
                answer.status,
                headers=answer.headers,
                stream=_Body(answer, request, timeout_s),
                extensions={"http_version": b"HTTP/1.1"},
            )
        raise httpx.ReadTimeout("no answer in time", request=request)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, answer: Exchange, request: httpx.Request, timeout_s: float | None) -> None:
        self._answer = answer
        self._request = request
        self._timeout_s = timeout_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = self._answer.chunks()
        try:
            while True:
                with anyio.move_on_after(self._timeout_s) as clock:
                    chunk = await anext(chunks, None)
                if clock.cancelled_caught:
                    raise httpx.ReadTimeout("nothing more came in time", request=self._request)
                if chunk is None:
                    return
                yield chunk
        except AttemptError as exc:
            raise _as_httpx(exc, self._request) from exc

    async def aclose(self) -> None:
        await self._answer.aclose()


def _as_httpx(exc: AttemptError, request: httpx.Request) -> httpx.TransportError:
    """Return what httpx raises where a request fails in this way."""
    if exc.kind in (FailureKind.CONNECT, FailureKind.LOCAL):
        timed_out = exc.code == "upstream_connect_timeout"
        return (httpx.ConnectTimeout if timed_out else httpx.ConnectError)(exc.message, request=request)
    if exc.kind is FailureKind.PROTOCOL:
        return httpx.RemoteProtocolError(exc.message, request=request)
    return httpx.ReadError(exc.message, request=request)
