"""The bytes that engines and clients of the benchmarks exchange, rendered once; and the stamp inside each chunk.

A request says in fields that OpenAI clients know what it wants: `max_tokens` is the number of chunks, `seed` the pace
between two of them in milliseconds. The router passes both on untouched.
"""

from __future__ import annotations

import json
import re
import time

MODEL = "chat"
ENGINE_MODEL = "engine-model"
CHAT_PATH = "/v1/chat/completions"
MAX_CHUNKS = 20_000


def _dumps(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


ANSWER = _dumps(
    {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion",
        "created": 1760000000,
        "model": ENGINE_MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "All work and no play makes a dull benchmark. " * 7},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 12, "completion_tokens": 70, "total_tokens": 82},
    }
)
MODELS = _dumps({"object": "list", "data": [{"id": ENGINE_MODEL, "object": "model", "owned_by": "benchmark"}]})


def _event(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1760000000,
        "model": ENGINE_MODEL,
        "choices": [choice],
    }
    return b"data: " + _dumps(chunk) + b"\n\n"


ROLE_EVENT = _event({"role": "assistant", "content": ""})
LAST_EVENTS = _event({}, "stop") + b"data: [DONE]\n\n"
_BEFORE, _AFTER = _event({"content": "?"}).split(b"?")
STAMP = re.compile(rb'"content":"t(\d{19})"')


def stamped_event(now_ns: int) -> bytes:
    """Return one content chunk that says when it was made (`time.monotonic_ns`, one clock for the whole machine)."""
    return b"%st%019d%s" % (_BEFORE, now_ns, _AFTER)


def framed(data: bytes) -> bytes:
    """Put bytes into one chunk of the chunked transfer encoding."""
    return b"%x\r\n%s\r\n" % (len(data), data)


_SIZE = b"%x\r\n" % len(stamped_event(0))


def framed_stamp() -> bytes:
    """Return a content chunk made now, framed: what an engine does for each token."""
    return b"%s%st%019d%s\r\n" % (_SIZE, _BEFORE, time.monotonic_ns(), _AFTER)


def chat_body(chunks: int = 0, pace_ms: int = 0, *, model: str = MODEL, padding: int = 0) -> bytes:
    """Return a chat request: plain with `chunks` 0, else a stream; `padding` bytes of prompt make it larger."""
    prompt = "How much does a gateway cost? " + "x" * padding
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}]
    body: dict[str, object] = {"model": model, "temperature": 0.7, "max_tokens": chunks or 100}
    if chunks:
        body |= {"seed": pace_ms, "stream": True}
    return _dumps({**body, "messages": messages})


def chat_body_of(size_bytes: int) -> bytes:
    """Return a plain chat request of a size, or the smallest there is."""
    return chat_body(padding=max(0, size_bytes - len(chat_body())))


_FIELDS_WITHIN = 4096
_CHUNKS = re.compile(rb'"max_tokens": ?(\d+)')
_PACE = re.compile(rb'"seed": ?(\d+)')


def wanted(body: bytes) -> tuple[int, float] | None:
    """Read a chat request: None for a plain answer, else how many chunks at which pace in seconds."""
    body = body[:_FIELDS_WITHIN]  # the prompt comes last: an engine of this kind does not read it
    if b'"stream":true' not in body and b'"stream": true' not in body:
        return None
    chunks, pace = _CHUNKS.search(body), _PACE.search(body)
    return min(int(chunks[1]) if chunks else 1, MAX_CHUNKS), int(pace[1]) / 1000 if pace else 0.0
