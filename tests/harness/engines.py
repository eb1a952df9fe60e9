"""Scripts of OpenAI-compatible engines for `RawServer`; the shapes are OpenAI's own, bytes as they go over the wire."""

from __future__ import annotations

import json
from typing import Any

from .servers import Exchange, Script

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


async def silent(exchange: Exchange) -> None:
    """Take a request and say nothing until the other side has left."""
    await exchange.gone()


def answering(status: int, body: bytes = b'{"error": {"message": "boom"}}', extra: str = "") -> Script:
    """An engine that always gives this answer; `extra` are whole lines of its head."""

    async def script(exchange: Exchange) -> None:
        await exchange.answer(status, body, extra=extra)

    return script


def streaming(*events: bytes, end: str = "clean") -> Script:
    """An engine that sends these events and then ends: clean, fin, rst, half (of a chunk) or hang."""

    async def script(exchange: Exchange) -> None:
        await exchange.start_stream()
        for event in events:
            await exchange.chunk(event)
        if end == "clean":
            await exchange.end_stream()
        elif end == "half":
            await exchange.write(b"40\r\ndata: {")
            exchange.writer.close()
        elif end == "fin":
            exchange.writer.close()
        elif end == "rst":
            exchange.reset()
        else:
            await exchange.gone()

    return script


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
