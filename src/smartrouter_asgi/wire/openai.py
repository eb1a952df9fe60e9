"""OpenAI's own wire form, looked at and not rebuilt: what a plain answer and each event of a stream mean."""

from __future__ import annotations

from typing import Any

import msgspec

from ..exceptions import AttemptError, FailureKind, FramingError
from ..transport.framing import MAX_FRAME_BYTES, SSESplitter, sse_data
from .decoding import JSON_ERRORS, decode_json
from .stream import Piece, PieceKind, Usage, truncated
from .upstream_errors import ErrorBody, classify_error, read_error, scrub

DONE_EVENT = b"data: [DONE]\n\n"

LARGE_READ_BYTES = 2048
"""Of a read of so much the text is told from what ends it; a smaller one is a few events, read one by one."""

_TELLING = (b'"finish_reason":"', b'"finish_reason": "', b'"usage":{', b'"usage": {', b'"error"', b"[DONE]")
"""Beginnings of what ends a text, as most engines write them."""

_CONTENT = PieceKind.CONTENT  # looking a member up in its enumeration takes longer than all else that is done with it


class _PlainPeek(msgspec.Struct):
    error: Any = None
    usage: Usage | None = None


_plain = msgspec.json.Decoder(_PlainPeek)


def read_plain(backend: str, body: bytes) -> Usage | None:
    """Check a 2xx body and return its token counts. Raises `AttemptError` when it is an error or no JSON object."""
    if not is_utf8(body):
        raise _not_json(backend)
    try:
        peek = _plain.decode(body)
    except (msgspec.DecodeError, RecursionError):  # types that are not as they should be, half surrogate pairs, no JSON
        try:
            value = decode_json(body)
        except JSON_ERRORS as exc:
            raise _not_json(backend) from exc
        if not isinstance(value, dict):
            raise _not_json(backend) from None
        peek = _PlainPeek(error=value.get("error"), usage=read_usage(value.get("usage")))
    if peek.error:
        found = read_error({"error": peek.error})
        if found is not None:
            raise classify_error(backend, found.status or 502, found)
    usage = peek.usage
    if usage is not None and (usage.prompt_tokens < 0 or usage.completion_tokens < 0):
        usage = Usage(prompt_tokens=max(0, usage.prompt_tokens), completion_tokens=max(0, usage.completion_tokens))
    return usage


def read_usage(value: Any) -> Usage | None:
    """Read a `usage` object leniently: what is not a number counts as zero."""
    if not isinstance(value, dict):
        return None
    prompt, completion = value.get("prompt_tokens"), value.get("completion_tokens")
    return Usage(
        prompt_tokens=max(0, prompt) if isinstance(prompt, int) else 0,
        completion_tokens=max(0, completion) if isinstance(completion, int) else 0,
    )


def is_utf8(data: bytes) -> bool:
    """Tell whether bytes are UTF-8, which a decoder that skips what it does not need may not."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _not_json(backend: str) -> AttemptError:
    return AttemptError(
        f"backend '{backend}' answered with something that is no JSON object", kind=FailureKind.PROTOCOL
    )


def _two_events(data: bytes) -> int:
    """Return how many bytes the first two events of a large read take; 0 for a small one, and where lines end oddly."""
    if len(data) < LARGE_READ_BYTES:
        return 0
    first = data.find(b"\n\n")
    second = data.find(b"\n\n", first + 2) if first >= 0 else -1
    return second + 2 if second >= 0 else 0


class OpenAIStreamCodec:
    """Reads an OpenAI-compatible event stream: the bytes pass, what they mean is told beside them.

    `choices` is how many answers were asked for: the stream is whole once each has its `finish_reason`, or with
    `[DONE]`; a missing `[DONE]` is then added.
    """

    __slots__ = ("_backend", "_choices", "_done", "_finished", "_splitter", "_spoken", "usage")

    def __init__(self, backend: str, *, choices: int = 1) -> None:
        self._backend = backend
        self._choices = choices
        self._splitter = SSESplitter()
        self._spoken = False
        self._done = False
        self._finished: set[int] = set()
        self.usage: Usage | None = None

    def feed(self, data: bytes) -> list[Piece]:
        """Take what was read and return the events it completes."""
        begun = 0 if self._spoken else _two_events(data)
        if not begun:
            return self._feed(data)
        # A stream speaks with its first event or its second: of a large first read the rest is told as of any other.
        pieces = self._feed(data[:begun])
        if not pieces or pieces[-1].kind < PieceKind.END:
            try:
                pieces += self._feed(data[begun:])
            except FramingError as exc:
                exc.before = [*pieces, *exc.before]
                raise
        return pieces

    def _feed(self, data: bytes) -> list[Piece]:
        pieces: list[Piece] = []
        if self._done:
            return pieces
        if self._spoken and self._splitter.is_empty:
            if self._is_mere_text(data):
                return [Piece(_CONTENT, data)]
            text = self._text_before(data)
            if text:
                pieces.append(Piece(_CONTENT, data[:text]))
                data = data[text:]
        try:
            for event in self._splitter.feed(data):
                if self._spoken and event.startswith(b"data:") and self._says_no_more(event):
                    pieces.append(Piece(_CONTENT, event))
                    continue
                pieces.append(piece := self._read(event))
                if piece.kind >= PieceKind.END:
                    break  # nothing follows it
        except FramingError as exc:
            exc.before = pieces
            raise
        return pieces

    def _is_mere_text(self, data: bytes) -> bool:
        """Tell from its bytes whether a read is whole events that carry more text, and nothing else."""
        count = data.count
        return (
            data.startswith(b"data:")
            and data.endswith(b"\n\n")
            and len(data) <= MAX_FRAME_BYTES
            and not count(b"\r")
            and count(b"\n\n") == count(b"\n\ndata:") + 1
            and self._says_no_more(data)
        )

    def _says_no_more(self, data: bytes) -> bool:
        """Tell whether nothing in some events could say more than text does.

        In JSON text a quote is escaped, so these marks cannot come from inside a string; where one is present, events
        are parsed to be sure. They are counted because `in` takes more than twice as long on bytes.
        """
        count = data.count
        if count(b'"error"') or count(b"[DONE]"):
            return False
        marks = count(b'"usage"')
        if marks and marks != count(b'"usage":null'):
            return False
        marks = count(b'"finish_reason"')
        if marks and (self._choices != 1 or marks != count(b'"finish_reason":null')):
            return False
        return data.isascii() or is_utf8(data)

    def _text_before(self, data: bytes) -> int:
        """Return how many bytes of a large read are mere text, before the first event that says something else."""
        if len(data) < LARGE_READ_BYTES:
            return 0
        found = [at for at in map(data.find, _TELLING) if at >= 0]
        end = data.rfind(b"\n\n", 0, min(found, default=len(data))) + 2
        return end if end > 1 and self._is_mere_text(data[:end]) else 0

    def finish(self) -> list[Piece]:
        """Say that the upstream ended."""
        rest = self._splitter.finish().strip()
        if self._done:
            return []
        if rest in (b"data: [DONE]", b"data:[DONE]") or len(self._finished) >= self._choices:
            self._done = True
            return [Piece(PieceKind.END, DONE_EVENT)]
        if rest.startswith(b"{"):  # a JSON error under 200
            found = self._error_in(rest)
            if found is not None:
                return [self._failed(found)]
        raise truncated()

    def _read(self, event: bytes) -> Piece:
        if not is_utf8(event):
            raise FramingError("the engine sent bytes that are not UTF-8", code="upstream_protocol")
        data, name, stray_error = sse_data(event)
        if stray_error is not None:  # llama.cpp before the `data:` form
            found = self._error_in(stray_error) or ErrorBody(scrub(stray_error.decode("utf-8", "replace")), *[None] * 4)
            return self._failed(found)
        if data is None:
            return Piece(PieceKind.PING, event)
        if data.strip() == b"[DONE]":
            self._done = True
            return Piece(PieceKind.END, event)
        try:
            chunk = decode_json(data)
        except JSON_ERRORS as exc:
            raise FramingError("the engine sent an event that is not JSON", code="upstream_protocol") from exc
        if not isinstance(chunk, dict):
            return Piece(PieceKind.HELD, event)
        if name == b"error" or chunk.get("error"):
            return self._failed(read_error(chunk) or read_error({"error": chunk}) or _silent_error())
        if chunk.get("usage"):
            self.usage = read_usage(chunk["usage"])
        return Piece(PieceKind.CONTENT if self._note(chunk) else PieceKind.HELD, event)

    def _note(self, chunk: dict[str, Any]) -> bool:
        """Note what a chunk says and return whether it says anything yet."""
        real = False
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            if choice.get("finish_reason") is not None:
                index = choice.get("index")
                self._finished.add(index if isinstance(index, int) else 0)
                real = True
            delta = choice.get("delta")
            said = delta if isinstance(delta, dict) else {"text": choice.get("text")}
            real = real or any(value for key, value in said.items() if key != "role")
        self._spoken = self._spoken or real
        return real or self._spoken

    def _error_in(self, data: bytes) -> ErrorBody | None:
        try:
            value = decode_json(data)
        except JSON_ERRORS:
            return None
        return read_error(value) or read_error({"error": value})

    def _failed(self, found: ErrorBody) -> Piece:
        error = classify_error(self._backend, found.status or 502, found)
        return Piece(PieceKind.ERROR, b"", error)


def _silent_error() -> ErrorBody:
    return ErrorBody("the engine reported an error without a message", None, None, None, None)
