"""A backend from outside the package: here a "model" in this very process, which counts the words of the last message.

    python examples/05_custom_backend.py
    curl -N http://127.0.0.1:8000/v1/chat/completions -d @request.json

where request.json is {"model": "word-count", "stream": true, "messages": [{"role": "user", "content": "one two"}]}

A package can offer its backend to configuration files too, by an entry point:

    [project.entry-points."smartrouter_asgi.backends"]
    word-count = "my_package:create_backend"      # called with a BackendSpec and a Transport

and users then write `backends: {mine: {type: word-count, options: {...}}}`. A backend that speaks HTTP is less work:
subclass `HTTPBackend` and say in `prepare` how a call is written in the engine's language.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

from smartrouter_asgi import (
    BaseBackend,
    Call,
    Capabilities,
    Deployment,
    ModelInfo,
    Piece,
    PieceKind,
    PlainAnswer,
    Settings,
    SmartRouter,
    Usage,
)


class WordCountBackend(BaseBackend):
    """An engine says what it can do, how a call is made, and which models it has; the base has all the rest."""

    type = "word-count"
    capabilities = Capabilities(completions=False, embeddings=False, tools=False, vision=False)

    async def open(self, call: Call, deployment: Deployment) -> WordCountAnswer:
        # An engine that cannot be reached raises `AttemptError(..., kind=FailureKind.CONNECT)` here: the router then
        # retries, falls back, and opens its breaker.
        messages = call.value("messages")
        return WordCountAnswer(deployment.model, str(messages[-1].get("content", "")).split())

    async def list_models(self) -> tuple[ModelInfo, ...]:
        return (ModelInfo(id="word-count", owned_by="examples"),)


class WordCountAnswer:
    """One answer under way: `read` when it is wanted whole, `pieces` when streamed."""

    ignored: tuple[str, ...] = ()  # names of request fields that were accepted without effect

    def __init__(self, model: str, words: list[str]) -> None:
        self._model = model
        self._words = words
        self.usage = Usage(prompt_tokens=len(words), completion_tokens=len(words) + 1)

    async def read(self) -> PlainAnswer:
        text = " ".join([*self._words, f"({len(self._words)} words)"])
        message = {"role": "assistant", "content": text}
        return PlainAnswer(body=json.dumps(self._object("chat.completion", message=message)).encode(), usage=self.usage)

    async def pieces(self) -> AsyncGenerator[list[Piece], None]:
        for word in self._words:
            yield [self._chunk({"content": word + " "}, PieceKind.CONTENT)]
        yield [
            self._chunk({"content": f"({len(self._words)} words)"}, PieceKind.CONTENT),
            self._chunk({}, PieceKind.CONTENT, finish="stop"),
        ]
        yield [Piece(PieceKind.END, b"data: [DONE]\n\n")]

    async def aclose(self) -> None:
        """The gateway has what it wanted, or its client has left: a real engine would stop working here."""

    def _chunk(self, delta: dict[str, str], kind: PieceKind, finish: str | None = None) -> Piece:
        event = self._object("chat.completion.chunk", finish=finish, delta=delta)
        return Piece(kind, b"data: " + json.dumps(event).encode() + b"\n\n")

    def _object(self, kind: str, *, finish: str | None = "stop", **said: Any) -> dict[str, Any]:
        choice = {"index": 0, **said, "finish_reason": finish}
        return {"id": "wc-1", "object": kind, "created": 0, "model": self._model, "choices": [choice]}


def create_app() -> SmartRouter:
    # Its models are discovered by `list_models`; configured names may refer to the backend as to any other.
    return SmartRouter(Settings(aliases={"counter": "word-count"}), backends={"mine": WordCountBackend("mine")})


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(create_app(), host="127.0.0.1", port=8000)
