"""The transport over httpx: the only module that imports it.

httpx 0.28 loses connections when a request is cancelled by other means than an anyio scope, or while its pool is at its
limit (encode/httpcore#1093). So the pool is unlimited here (limits on concurrency stand in front of it), and whoever
calls in cancels by anyio scopes only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

import anyio
import httpx

from ..exceptions import AttemptError, FailureKind
from ..types import Headers
from .causes import (
    connect_error,
    connect_timeout_error,
    cut_off_error,
    disconnected_error,
    is_own_limit,
    local_error,
    oversized_error,
    protocol_error,
)
from .http import HTTPRequest, header

KEEPALIVE_EXPIRY_S = 4.0  # below the 5 s after which uvicorn and llama.cpp close an idle connection


class HttpxTransport:
    """Speaks HTTP/1.1 through an `httpx.AsyncClient`, its own or one it was given (which it never closes)."""

    def __init__(self, client: httpx.AsyncClient | None = None, *, connect_timeout_s: float = 5.0) -> None:
        self._owns_client = client is None
        self._client = client
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timeout = httpx.Timeout(None, connect=connect_timeout_s)

    async def open(self, request: HTTPRequest) -> HttpxAnswer:
        """Send a request and wait for the head of its answer; see `Transport.open`."""
        trace = _Trace()
        try:
            client = self._client_of_this_loop()
            # Built by hand: `client.build_request` would add headers, and cookies an earlier answer had set.
            sent = httpx.Request(
                request.method,
                request.url,
                headers=request.headers,
                content=request.body or None,
                extensions={"timeout": self._timeout.as_dict(), "trace": trace},
            )
            response = await client.send(sent, stream=True, follow_redirects=False, auth=None)
        except httpx.HTTPError as exc:
            raise _failure_before_answer(exc, request, trace) from exc
        except (httpx.InvalidURL, UnicodeError, OSError, ExceptionGroup) as exc:
            raise connect_error(request.backend, exc) from exc
        answer = HttpxAnswer(response, request.backend)
        if header(answer.headers, b"transfer-encoding") and header(answer.headers, b"content-length"):
            await answer.aclose()  # where one answer ends and the next begins is anybody's guess
            raise protocol_error(request.backend)
        return answer

    async def aclose(self) -> None:
        """Close the connections, unless the client was handed in."""
        client, self._client = (self._client, None) if self._owns_client else (None, self._client)
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.aclose()

    def _client_of_this_loop(self) -> httpx.AsyncClient:
        """Return a client whose connections live on the running loop: those of another loop died with it."""
        loop = asyncio.get_running_loop()
        if self._client is None or (self._owns_client and self._loop is not loop):
            self._client = self._new_client()
            self._loop = loop
        return self._client

    def _new_client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            trust_env=False,
            follow_redirects=False,
            timeout=self._timeout,
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=100, keepalive_expiry=KEEPALIVE_EXPIRY_S
            ),
        )


class HttpxAnswer:
    """An answer under way."""

    __slots__ = ("_backend", "_response", "headers", "status")

    def __init__(self, response: httpx.Response, backend: str) -> None:
        self._response = response
        self._backend = backend
        self.status = response.status_code
        self.headers: Headers = [(name.lower(), value) for name, value in response.headers.raw]

    async def read(self, limit: int) -> bytes:
        """Read the whole body; see `HTTPAnswer.read`."""
        parts: list[bytes] = []
        size = 0
        async with aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                size += len(chunk)
                if size > limit:
                    raise oversized_error(self._backend, limit)
                parts.append(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it arrives; see `HTTPAnswer.chunks`."""
        response = self._response
        try:
            if response.is_stream_consumed:  # a mock's body, already in memory
                yield response.content
                return
            # Not `aiter_raw`: it would give the connection back before one could look at what is left on it.
            async for chunk in cast(httpx.AsyncByteStream, response.stream):
                yield chunk
        except httpx.HTTPError as exc:
            raise to_attempt_error(exc, self._backend, reused=False) from exc

    async def aclose(self) -> None:
        """Close the exchange, shielded so that a cancelled request still frees its socket."""
        with anyio.CancelScope(shield=True):
            if _has_leftovers(self._response):  # the next request must not take them for its answer
                await self._response.extensions["network_stream"].aclose()
            await self._response.aclose()


class _Trace:
    """Learns from httpcore's trace whether the request travels on a new connection."""

    __slots__ = ("connected",)

    def __init__(self) -> None:
        self.connected = False

    async def __call__(self, name: str, info: dict[str, Any]) -> None:
        if name.startswith("connection.connect"):
            self.connected = True


def _has_leftovers(response: httpx.Response) -> bool:
    """Tell whether bytes came after the end of an answer, in the same read.

    httpcore 1.0 keeps them and reads the next answer on that connection from them. There is no public way to them;
    where the private one is gone, nothing is known of any.
    """
    held: Any = response.stream
    for name in ("_stream", "_httpcore_stream", "_stream", "_connection", "_h11_state", "trailing_data"):
        held = getattr(held, name, None)
    return bool(held and held[0])


def _failure_before_answer(exc: httpx.HTTPError, request: HTTPRequest, trace: _Trace) -> AttemptError:
    """Say what the end of an exchange means of which no answer was seen."""
    if is_own_limit(exc):
        return local_error(request.backend)
    return to_attempt_error(exc, request.backend, reused=not trace.connected, body_bytes=len(request.body))


def to_attempt_error(exc: httpx.HTTPError, backend: str, *, reused: bool, body_bytes: int = 0) -> AttemptError:
    """Map an httpx error to the failure it means; the text names the backend, never its URL."""
    if isinstance(exc, httpx.ConnectTimeout):
        return connect_timeout_error(backend)
    if isinstance(exc, (httpx.ConnectError, httpx.PoolTimeout, httpx.UnsupportedProtocol)):
        return connect_error(backend, exc)
    if isinstance(exc, (httpx.ReadError, httpx.WriteError, httpx.CloseError)) or (
        isinstance(exc, httpx.RemoteProtocolError) and "disconnected" in str(exc)
    ):
        return disconnected_error(backend, reused=reused, body_bytes=body_bytes)
    if isinstance(exc, httpx.RemoteProtocolError) and "peer closed" in str(exc):
        return cut_off_error(backend)
    if isinstance(exc, httpx.TimeoutException):
        return AttemptError(
            f"backend '{backend}' did not answer in time",
            kind=FailureKind.FIRST_TOKEN_TIMEOUT,
            status=504,
            code="first_token_timeout",
            type="timeout_error",
            engine_busy=True,
        )
    return protocol_error(backend)
