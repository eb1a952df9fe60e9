"""Scripts of OpenAI-compatible engines for `RawServer`; the shapes are OpenAI's own, bytes as they go over the wire."""

from __future__ import annotations

import json
from typing import Any

from .servers import Exchange

ANSWER = {
    "id": "chatcmpl-9",
    "object": "chat.completion",
    "created": 1760000000,
    "model": "engine-model",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}


def chunk(content: str | None = None, *, role: str | None = None, finish: str | None = None, **extra: Any) -> bytes:
    """One chat chunk as a server-sent event."""
    delta: dict[str, Any] = {}
    if role is not None:
        delta["role"] = role
    if content is not None:
        delta["content"] = content
    body = {
        "id": "chatcmpl-9",
        "object": "chat.completion.chunk",
        "created": 1760000000,
        "model": "engine-model",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        **extra,
    }
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
ROLE = chunk("", role="assistant")
STREAM = [ROLE, chunk("Hel"), chunk("lo"), chunk(finish="stop"), DONE]


async def good(exchange: Exchange) -> None:
    """Answer as a healthy engine does: a list of models, a plain answer, a stream."""
    if exchange.path.endswith("/models"):
        models = {"object": "list", "data": [{"id": "engine-model", "object": "model", "owned_by": "test"}]}
        await exchange.answer(200, json.dumps(models).encode())
        return
    request = json.loads(exchange.body)
    if not request.get("stream"):
        await exchange.answer(200, json.dumps(ANSWER).encode())
        return
    await exchange.start_stream()
    for event in STREAM:
        await exchange.chunk(event)
    await exchange.end_stream()
