"""Ollama's streams as OpenAI's: one JSON object a line becomes server-sent chunks.

A line is an `OllamaAnswer`; the last has `done: true`, its reason and the token counts. After a failure the last line
is `{"error": "text"}`; a stream that just ends was broken off.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..exceptions import FramingError
from ..transport.framing import LineSplitter
from ..types import Operation
from .decoding import JSON_ERRORS
from .ollama_answer import (
    Message,
    OllamaAnswer,
    answer_decoder,
    calls_one,
    chat_logprobs,
    engine_error,
    finish_reason,
    no_call_error,
    text_logprobs,
    tool_call_members,
    unix_seconds,
    usage_members,
)
from .stream import Piece, PieceKind, Usage, truncated

MAX_LINE_BYTES = 8 * 1024 * 1024
"""The last line of /api/generate lists the token ids of the whole context: 262144 of them take some 2 MiB."""

MAX_UNCALLED_BYTES = 4 * 1024 * 1024
"""How much an answer may think and say before it calls the tool it must call."""

DONE_EVENT = b"data: [DONE]\n\n"
_CHAT_OPEN = b'{"index":0,"delta":{"content":'
_CHAT_CLOSE = b'},"finish_reason":null}'
_TEXT_OPEN = b'{"index":0,"text":'
_TEXT_CLOSE = b',"logprobs":null,"finish_reason":null}'

_encode = msgspec.json.Encoder().encode


class OllamaStreamCodec:
    """Turns the lines of /api/chat or /api/generate into chunks, however their bytes were cut.

    All chunks have one id and one `created`; the role comes with the first. Tool calls come whole, numbered through the
    stream. `include_usage` asks for the usage chunk before `[DONE]`.

    With `must_call` everything is held back until one of these tools is called: an answer that calls none never
    begins, it is an error.
    """

    __slots__ = (
        "_answer_id",
        "_backend",
        "_calls",
        "_chat",
        "_done",
        "_head",
        "_held",
        "_include_usage",
        "_must_call",
        "_role_sent",
        "_splitter",
        "_tail",
        "_text_length",
        "usage",
    )

    def __init__(
        self,
        backend: str,
        *,
        answer_id: str,
        operation: Operation = "chat",
        include_usage: bool = False,
        must_call: tuple[str, ...] = (),
    ) -> None:
        self._backend = backend
        self._must_call = must_call
        self._held = bytearray()
        self._answer_id = answer_id
        self._chat = operation == "chat"
        self._include_usage = include_usage
        self._splitter = LineSplitter(MAX_LINE_BYTES)
        self._head = b""  # of every chunk; known with the first line
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._role_sent = not self._chat  # a completion has none
        self._calls = 0
        self._text_length = 0
        self._done = False
        self.usage: Usage | None = None

    def feed(self, data: bytes) -> list[Piece]:
        """Take what was read and return the chunks of the lines it completes."""
        pieces: list[Piece] = []
        for line in self._splitter.feed(data):
            if self._done:
                break
            try:
                answer = answer_decoder.decode(line)
            except JSON_ERRORS as exc:
                error = FramingError("the engine sent a line that is no answer", code="upstream_protocol")
                error.before = pieces
                raise error from exc
            self._read(answer, pieces)
        return pieces

    def finish(self) -> list[Piece]:
        """Say that the upstream ended. Raises `FramingError` (`upstream_truncated`) when it had not said `done`."""
        rest = self._splitter.finish()
        if self._done:
            return []
        pieces: list[Piece] = []
        if rest:
            try:
                self._read(answer_decoder.decode(rest), pieces)
            except JSON_ERRORS as exc:
                raise truncated() from exc
        if not pieces or pieces[-1].kind < PieceKind.END:
            raise truncated()
        return pieces

    def _read(self, answer: OllamaAnswer, pieces: list[Piece]) -> None:
        if answer.error:
            self._done = True
            pieces.append(Piece(PieceKind.ERROR, b"", engine_error(self._backend, answer.error)))
            return
        if not self._head:
            self._head = self._start(answer)
        said = answer.said()
        real = bool(said.content or said.thinking or said.tool_calls or answer.logprobs)
        data = self._chunk(answer, said) if real or not self._role_sent else b""
        if self._must_call:
            if not calls_one(said, self._must_call):
                self._hold(answer, data, pieces)
                return
            self._must_call = ()
            data, self._held = bytes(self._held) + data, bytearray()
        if not answer.done:  # an empty line is a sign of life
            pieces.append(Piece(PieceKind.CONTENT if real else PieceKind.HELD, data))
            return
        self._done = True
        pieces.append(Piece(PieceKind.CONTENT, data + self._last(answer)))
        pieces.append(Piece(PieceKind.END, DONE_EVENT))

    def _hold(self, answer: OllamaAnswer, data: bytes, pieces: list[Piece]) -> None:
        """Keep what comes before the call that must come; at the end, or at the limit, there was none."""
        self._held += data
        if not answer.done and len(self._held) <= MAX_UNCALLED_BYTES:
            pieces.append(Piece(PieceKind.HELD, b""))
            return
        self._done = True
        if answer.done:
            self.usage = answer.usage()
        error = no_call_error(self._backend, self._must_call, answer.done_reason)
        pieces.append(Piece(PieceKind.ERROR, b"", error))

    def _start(self, answer: OllamaAnswer) -> bytes:
        head = {
            "id": self._answer_id,
            "object": "chat.completion.chunk" if self._chat else "text_completion",
            "created": unix_seconds(answer.created_at),
            "model": answer.model,
        }
        return b"data: " + _encode(head)[:-1] + b',"choices":['

    def _chunk(self, answer: OllamaAnswer, said: Message) -> bytes:
        """Return the chunk that says what a line adds; mere text, nearly every line, is written around its bytes."""
        if said.thinking or said.tool_calls or answer.logprobs or not self._role_sent:
            choice = _encode(self._delta(answer, said) if self._chat else self._text(answer, said))
        elif self._chat:
            choice = _CHAT_OPEN + _encode(said.content) + _CHAT_CLOSE
        else:
            choice = _TEXT_OPEN + _encode(said.content) + _TEXT_CLOSE
        self._text_length += len(said.content or "")
        return self._head + choice + self._tail

    def _delta(self, answer: OllamaAnswer, said: Message) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        if not self._role_sent:
            self._role_sent = True
            delta = {"role": "assistant", "content": None if said.tool_calls else ""}
        if said.content:
            delta["content"] = said.content
        if said.thinking:
            delta["reasoning_content"] = said.thinking
        if said.tool_calls:
            delta["tool_calls"] = [
                {"index": index, **tool_call_members(call, index, self._answer_id)}
                for index, call in enumerate(said.tool_calls, self._calls)
            ]
            self._calls += len(said.tool_calls)
        choice: dict[str, Any] = {"index": 0, "delta": delta}
        if answer.logprobs:
            choice["logprobs"] = chat_logprobs(answer.logprobs)
        choice["finish_reason"] = None
        return choice

    def _text(self, answer: OllamaAnswer, said: Message) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "text": said.content or ""}
        if said.thinking:
            choice["reasoning_content"] = said.thinking
        choice["logprobs"] = text_logprobs(answer.logprobs, self._text_length) if answer.logprobs else None
        choice["finish_reason"] = None
        return choice

    def _last(self, answer: OllamaAnswer) -> bytes:
        """Return the chunk with the finish reason and, where it was asked for, the usage."""
        self.usage = answer.usage()
        said: dict[str, Any] = {"delta": {}} if self._chat else {"text": "", "logprobs": None}
        choice = {"index": 0, **said, "finish_reason": finish_reason(answer.done_reason, called=self._calls > 0)}
        last = self._head + _encode(choice) + self._tail
        if self._include_usage:
            last += self._head + b'],"usage":' + _encode(usage_members(self.usage)) + b"}\n\n"
        return last
