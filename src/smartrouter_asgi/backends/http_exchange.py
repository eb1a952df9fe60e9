"""An exchange with an engine over HTTP: what is asked, and how its answer is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from ..exceptions import AttemptError, FramingError
from ..transport.http import HTTPAnswer
from ..types import Closable
from ..wire.stream import Piece, StreamCodec, Usage
from ..wire.upstream_errors import redact
from .base import PlainAnswer
from .credentials import KeyLease

MAX_ANSWER_BYTES = 64 * 1024 * 1024


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """A call in an engine's language: the request, and how to read its answer. Pure data."""

    path: str
    body: bytes
    decode: Callable[[bytes], PlainAnswer]
    """Turns a 2xx body into OpenAI shape. Raises `AttemptError`."""
    codec: Callable[[], StreamCodec]
    stream_type: bytes = b"text/event-stream"
    """The content type of a streamed answer."""
    ignored: tuple[str, ...] = ()

    def __repr__(self) -> str:  # not the body: what people say
        return f"Exchange(path={self.path!r})"


def without(body: bytes, secrets: Sequence[str]) -> bytes:
    """Take credentials out of what an engine says of an error, before anything of it is cut or changed."""
    for secret in secrets:
        found = secret.encode()
        if found in body:
            body = body.replace(found, b"[key]")
    return body


class HTTPUpstream:
    """An answer under way over HTTP."""

    __slots__ = ("_answer", "_codec", "_decode", "_lease", "_secrets", "_usage", "ignored")

    def __init__(
        self,
        answer: HTTPAnswer,
        exchange: Exchange,
        streamed: bool,
        secrets: Callable[[], tuple[str, ...]],
        lease: KeyLease | None = None,
    ) -> None:
        self._lease = lease
        self._secrets = secrets
        self._answer = answer
        self._decode = exchange.decode  # and not the exchange, whose body may be large
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
        if body.find(b'"error"') >= 0:
            body = without(body, self._secrets())
        try:
            answer = self._decode(body)
        except AttemptError as exc:
            redact(exc, self._secrets())
            raise
        self._usage = answer.usage
        return answer

    def pieces(self) -> HTTPPieces:
        """Yield what each read of the upstream completes."""
        if self._codec is None:
            raise FramingError("a plain answer was asked for, not a stream", code="upstream_protocol")
        return HTTPPieces(self._answer.chunks(), self._codec, self._secrets)

    async def aclose(self) -> None:
        """Give the connection back, or cut it, and the key with it."""
        if self._lease is not None:
            self._lease.release()
        await self._answer.aclose()


class HTTPPieces:
    """The pieces of a streamed answer, as each read of the upstream completes some."""

    __slots__ = ("_broken", "_chunks", "_codec", "_ended", "_secrets")

    def __init__(self, chunks: Closable[bytes], codec: StreamCodec, secrets: Callable[[], tuple[str, ...]]) -> None:
        self._chunks = chunks
        self._codec = codec
        self._secrets = secrets
        self._ended = False
        self._broken: FramingError | None = None
        """To be raised next: what was whole before it went first."""

    def __aiter__(self) -> HTTPPieces:
        return self

    async def __anext__(self) -> list[Piece]:
        if self._broken is not None:
            broken, self._broken = self._broken, None
            self._ended = True
            raise broken
        chunks, feed = self._chunks, self._codec.feed
        while not self._ended:
            try:
                data = await chunks.__anext__()
            except StopAsyncIteration:
                self._ended = True
                return self._redacted(self._codec.finish())
            if data.find(b"error") >= 0:
                data = without(data, self._secrets())
            try:
                pieces = feed(data)
            except FramingError as exc:
                if not exc.before:
                    self._ended = True
                    raise
                self._broken = exc
                return list(exc.before)
            if pieces:
                return pieces if pieces[-1].error is None else self._redacted(pieces)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Ask for no more."""
        self._ended = True
        await self._chunks.aclose()

    def _redacted(self, pieces: list[Piece]) -> list[Piece]:
        if not pieces:
            raise StopAsyncIteration
        error = pieces[-1].error
        if error is not None:
            redact(error, self._secrets())
        return pieces
