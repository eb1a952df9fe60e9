"""The base of all backends that speak HTTP."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import anyio
import msgspec

from ..deployment import Capabilities, Deployment
from ..exceptions import AttemptError, FailureKind, FramingError
from ..transport.http import HTTPAnswer, HTTPRequest, Transport, header
from ..types import Headers
from ..wire.call import Call
from ..wire.decoding import JSON_ERRORS
from ..wire.retry_after import parse_retry_after
from ..wire.stream import Piece, StreamCodec, Usage
from ..wire.upstream_errors import classify_answer, redact
from .base import BackendSpec, BaseBackend, PlainAnswer

MAX_ANSWER_BYTES = 64 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
LIST_TIMEOUT_S = 5.0
ERROR_BODY_TIMEOUT_S = 2.0  # the status says enough to go on with
MIN_SECRET_LENGTH = 6  # anything shorter would take common words out of messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A call in an engine's language: the request, and how to read its answer. Pure data."""

    path: str
    body: bytes = field(repr=False)
    decode: Callable[[bytes], PlainAnswer]
    """Turns a 2xx body into OpenAI shape. Raises `AttemptError`."""
    codec: Callable[[], StreamCodec]
    stream_type: bytes = b"text/event-stream"
    """The content type of a streamed answer."""
    ignored: tuple[str, ...] = ()


class HTTPBackend(BaseBackend):
    """Base of the backends that speak HTTP: subclasses say how a call is written (`prepare`) and what lists look like.

    Translation stays pure: `prepare` gets a call and returns an `Exchange`; this class does the I/O around it.
    """

    type = "http"
    capabilities = Capabilities()

    def __init__(self, spec: BackendSpec, transport: Transport) -> None:
        super().__init__(spec.name)
        self.spec = spec
        self._transport = transport
        self._headers = self.base_headers()
        hidden = (*spec.api_keys, *spec.headers.values())
        self._secrets = tuple(secret.reveal() for secret in hidden if len(secret.reveal()) >= MIN_SECRET_LENGTH)

    def base_headers(self) -> Headers:
        """Headers of every request: the backend's own key, never anything of the client's."""
        headers: Headers = [
            (b"content-type", b"application/json"),
            (b"accept-encoding", b"identity"),
            (b"user-agent", b"smartrouter-asgi"),
        ]
        if self.spec.api_keys:
            headers.append((b"authorization", b"Bearer " + self.spec.api_keys[0].reveal().encode()))
        headers.extend((k.lower().encode(), v.reveal().encode()) for k, v in self.spec.headers.items())
        return headers

    def prepare(self, call: Call, deployment: Deployment) -> Exchange:
        """Write a call in the engine's language. Raises `UnsupportedParameterError` (400)."""
        raise NotImplementedError

    async def open(self, call: Call, deployment: Deployment) -> HTTPUpstream:
        """Send a call and wait for the head of the answer; see `Backend.open`."""
        exchange = self.prepare(call, deployment)
        answer = await self._transport.open(self.request("POST", exchange.path, exchange.body))
        try:
            if answer.status != 200:
                raise await self._failure(answer)
            self._check_head(answer, exchange.stream_type if call.stream else None)
        except BaseException:
            await answer.aclose()
            raise
        return HTTPUpstream(answer, exchange, streamed=call.stream, secrets=self._secrets)

    def url_of(self, path: str) -> str:
        """Return the full URL of one of the engine's paths."""
        return self.spec.url + path

    def request(self, method: str, path: str, body: bytes = b"") -> HTTPRequest:
        """Build a request to this backend."""
        return HTTPRequest(backend=self.name, method=method, url=self.url_of(path), headers=self._headers, body=body)

    async def call_json(
        self, method: str, path: str, payload: Any = None, *, timeout_s: float = 10.0, limit: int = 16 * 1024 * 1024
    ) -> Any:
        """Do one small request of the management kind and decode its JSON answer. Raises `AttemptError`."""
        body = b"" if payload is None else msgspec.json.encode(payload)
        with anyio.move_on_after(timeout_s):
            answer = await self._transport.open(self.request(method, path, body))
            try:
                if answer.status != 200:
                    raise await self._failure(answer)
                data = await answer.read(limit)
            finally:
                await answer.aclose()
            try:
                return msgspec.json.decode(data) if data else None
            except JSON_ERRORS as exc:
                raise AttemptError(
                    f"backend '{self.name}' answered {path} with something that is not JSON",
                    kind=FailureKind.PROTOCOL,
                    code="upstream_protocol",
                ) from exc
        raise AttemptError(
            f"backend '{self.name}' did not answer {path} within {timeout_s:g} s",
            kind=FailureKind.FIRST_TOKEN_TIMEOUT,
            status=504,
            code="deadline_exceeded",
            type="timeout_error",
        )

    def classify(self, status: int, headers: Headers, body: bytes) -> AttemptError:
        """Say what an answer that is not 200 means; engines with habits of their own extend this."""
        retry_after_s = parse_retry_after(headers, now_wall=time.time())
        return classify_answer(self.name, status, body, retry_after_s=retry_after_s)

    async def _failure(self, answer: HTTPAnswer) -> AttemptError:
        body = b""
        try:
            with anyio.move_on_after(ERROR_BODY_TIMEOUT_S):
                body = await answer.read(MAX_ERROR_BYTES)
        except AttemptError:
            pass
        error = self.classify(answer.status, answer.headers, body)
        redact(error, self._secrets)
        return error

    def _check_head(self, answer: HTTPAnswer, stream_type: bytes | None) -> None:
        """Refuse what was not asked for: a compressed body, or anything but a stream where a stream was wanted."""
        found, wanted = None, "plain bytes"
        encoding = header(answer.headers, b"content-encoding")
        if encoding is not None and encoding.lower() != b"identity":
            found = encoding
        elif stream_type is not None:
            kind = header(answer.headers, b"content-type") or b"nothing"
            # Errors in a 200 come as JSON; the codec reads those.
            if not kind.lower().startswith((stream_type, b"application/json")):
                found, wanted = kind, "a stream"
        if found is not None:
            raise AttemptError(
                f"backend '{self.name}' answered with {found.decode('latin-1')[:60]!r} instead of {wanted}",
                kind=FailureKind.PROTOCOL,
                code="upstream_protocol",
            )


class HTTPUpstream:
    """An answer under way over HTTP."""

    __slots__ = ("_answer", "_codec", "_exchange", "_secrets", "_usage", "ignored")

    def __init__(
        self, answer: HTTPAnswer, exchange: Exchange, *, streamed: bool, secrets: tuple[str, ...] = ()
    ) -> None:
        self._secrets = secrets
        self._answer = answer
        self._exchange = exchange
        self._codec = exchange.codec() if streamed else None
        self._usage: Usage | None = None
        self.ignored = exchange.ignored

    @property
    def usage(self) -> Usage | None:
        """Token counts, once the engine has told them."""
        return self._codec.usage if self._codec is not None else self._usage

    async def read(self) -> PlainAnswer:
        """Read the whole answer."""
        body = await self._answer.read(MAX_ANSWER_BYTES)
        try:
            answer = self._exchange.decode(body)
        except AttemptError as exc:
            redact(exc, self._secrets)
            raise
        self._usage = answer.usage
        return answer

    async def pieces(self) -> AsyncGenerator[list[Piece], None]:
        """Yield what each read of the upstream completes."""
        codec = self._codec
        if codec is None:
            raise FramingError("a plain answer was asked for, not a stream", code="upstream_protocol")
        async with aclosing(self._answer.chunks()) as chunks:
            async for data in chunks:
                try:
                    pieces = codec.feed(data)
                except FramingError as exc:
                    if exc.before:
                        yield list(exc.before)
                    raise
                if pieces:
                    yield self._redacted(pieces)
        pieces = codec.finish()
        if pieces:
            yield self._redacted(pieces)

    def _redacted(self, pieces: list[Piece]) -> list[Piece]:
        error = pieces[-1].error
        if error is not None:
            redact(error, self._secrets)
        return pieces

    async def aclose(self) -> None:
        """Give the connection back, or cut it."""
        await self._answer.aclose()
