"""A backend whose engine counts the words of the last message."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from smartrouter_asgi import (
    AttemptError,
    BackendSpec,
    BaseBackend,
    Call,
    Capabilities,
    ConfigurationError,
    Deployment,
    FailureKind,
    ModelInfo,
    Piece,
    PieceKind,
    PlainAnswer,
    Usage,
)
from smartrouter_asgi.exceptions import UnsupportedParameterError
from smartrouter_asgi.transport.http import Transport

MODEL = "word-count"

HONOURED = frozenset({"model", "messages", "stream", "stream_options"})
WITHOUT_EFFECT = frozenset({"user", "metadata", "store", "max_tokens", "max_completion_tokens", "temperature", "seed"})


class WordCountBackend(BaseBackend):
    """Serves the model `word-count`. `options: {unit: words}` says what it calls what it counts."""

    type = "wordcount"
    capabilities = Capabilities(completions=False, embeddings=False, tools=False, vision=False, json_schema=False)

    def __init__(self, spec: BackendSpec, transport: Transport) -> None:
        super().__init__(spec.name)
        # An engine behind HTTP would keep `transport`, `spec.url` and `spec.api_keys`.
        unknown = set(spec.options) - {"unit"}
        if unknown:
            raise ConfigurationError(f"backends.{spec.name}.options: wordcount knows no {', '.join(sorted(unknown))}")
        self._unit = str(spec.options.get("unit", "words"))

    def check(self, call: Call, deployment: Deployment) -> None:
        """Refuse what it cannot honour: pure, quick, and before anything is queued for it."""
        super().check(call, deployment)
        for name in call.fields:
            if name not in HONOURED | WITHOUT_EFFECT:
                raise UnsupportedParameterError(f"backend '{self.name}' cannot honour '{name}'", param=name)
        _words(call)

    async def open(self, call: Call, deployment: Deployment) -> WordCountAnswer:
        """Begin an answer; what is the engine's fault is told by an `AttemptError`."""
        self.check(call, deployment)
        if deployment.model != MODEL:
            raise AttemptError(
                f"backend '{self.name}' has no model '{deployment.model}'",
                kind=FailureKind.MODEL_MISSING,
                status=404,
                code="model_not_found",
                param="model",
            )
        options = call.value("stream_options")
        return WordCountAnswer(
            words=_words(call),
            unit=self._unit,
            tells_usage=isinstance(options, dict) and options.get("include_usage") is True,
            ignored=tuple(name for name in call.fields if name in WITHOUT_EFFECT),
        )

    async def list_models(self) -> tuple[ModelInfo, ...]:
        """List its one model; the router's catalog is made of this."""
        return (ModelInfo(id=MODEL, owned_by="smartrouter-wordcount"),)


class WordCountAnswer:
    """One answer under way: `read` when it is wanted whole, `pieces` when streamed."""

    def __init__(self, *, words: list[str], unit: str, tells_usage: bool, ignored: tuple[str, ...]) -> None:
        self.ignored = ignored
        self.usage = Usage(prompt_tokens=len(words), completion_tokens=2)
        self._texts = [str(len(words)), f" {unit}"]
        self._tells_usage = tells_usage
        self._id = f"chatcmpl-{uuid.uuid4().hex}"

    async def read(self) -> PlainAnswer:
        """Return the whole answer."""
        message = {"role": "assistant", "content": "".join(self._texts)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = self._object("chat.completion", [choice], usage=self._counts())
        return PlainAnswer(body=json.dumps(answer).encode(), usage=self.usage)

    async def pieces(self) -> AsyncGenerator[list[Piece], None]:
        """Yield the answer as it comes: a role says nothing yet, text does, and the end comes once."""
        yield [self._piece(PieceKind.HELD, delta={"role": "assistant", "content": ""})]
        for text in self._texts:
            yield [self._piece(PieceKind.CONTENT, delta={"content": text})]
        yield [*self._farewell()]

    async def aclose(self) -> None:
        """Stop: the answer was read, or its client has left. A real engine would be told so here."""

    def _farewell(self) -> Iterator[Piece]:
        yield self._piece(PieceKind.CONTENT, delta={}, finish="stop")
        if self._tells_usage:
            yield _event(PieceKind.CONTENT, self._object("chat.completion.chunk", [], usage=self._counts()))
        yield Piece(PieceKind.END, b"data: [DONE]\n\n")

    def _piece(self, kind: PieceKind, *, delta: dict[str, str], finish: str | None = None) -> Piece:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return _event(kind, self._object("chat.completion.chunk", [choice]))

    def _object(self, kind: str, choices: list[dict[str, Any]], **extra: Any) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": 0, "model": MODEL, "choices": choices, **extra}

    def _counts(self) -> dict[str, int]:
        prompt, completion = self.usage.prompt_tokens, self.usage.completion_tokens
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _event(kind: PieceKind, value: dict[str, Any]) -> Piece:
    return Piece(kind, b"data: " + json.dumps(value).encode() + b"\n\n")


def _words(call: Call) -> list[str]:
    """Return the words of the last message, whose content is a text or parts of text."""
    messages = call.value("messages")
    last = messages[-1] if messages else None
    content = last.get("content") if isinstance(last, dict) else None
    if isinstance(content, str):
        return content.split()
    words: list[str] = []
    for part in content if isinstance(content, list) else [None]:
        text = part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str):
            raise UnsupportedParameterError("word-count reads text only", param="messages")
        words += text.split()
    return words
