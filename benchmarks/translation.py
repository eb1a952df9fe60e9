"""What does speaking Ollama's language cost? `python -m benchmarks.translation [--quick] [--rounds N] ...`.

The same requests and answers through `OllamaBackend`, which translates, and `OpenAICompatBackend`, which passes
bytes on: the part of each that is no I/O, in process. A request is `check` and `prepare`, for Ollama two translations;
parsing its body, which both share, is not in it. Streams come with one line or event a read. Times are CPU time of the
thread.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from typing import Any, cast

from smartrouter_asgi.backends.base import BackendSpec
from smartrouter_asgi.backends.http import HTTPBackend
from smartrouter_asgi.backends.registry import create_backend
from smartrouter_asgi.deployment import Deployment
from smartrouter_asgi.transport.http import Transport
from smartrouter_asgi.wire.call import parse_call

from . import layer_report
from .answers import ENGINE_MODEL, MODEL
from .figures import assemble, commit, figure
from .layers import time_operation
from .processes import cores, pinned
from .progress import Progress
from .question import Options, Question, ask

CHUNKS = 200
NATIVE, PASSED = "ollama", "openai"
TEXT = " a word"

_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather at a place.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}


def _bodies() -> dict[str, bytes]:
    """Requests of the sizes that clients send."""

    def body(messages: list[dict[str, Any]], **fields: Any) -> bytes:
        return json.dumps(
            {"model": MODEL, "messages": messages, "temperature": 0.7, "max_tokens": 100, **fields}
        ).encode()

    user = {"role": "user", "content": "x" * 900}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 200_000}}
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"place":"Paris"}'}}
    turns = [
        {"role": "user", "content": "How is the weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "fair"},
    ]
    return {
        "request, 1 KB": body([user]),
        "request, 20 turns of 1 KB": body([user] * 20),
        "request, 5 tools and 15 turns with calls": body(turns * 5, tools=[_TOOL] * 5),
        "request, an image of 200 KB": body([{"role": "user", "content": [image]}]),
    }


def _ollama_line(content: str, **last: Any) -> bytes:
    line = {"model": ENGINE_MODEL, "created_at": "2026-01-01T00:00:00.123456789Z"}
    return (
        json.dumps({**line, "message": {"role": "assistant", "content": content}, "done": False, **last}).encode()
        + b"\n"
    )


def _openai_event(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1760000000, "model": ENGINE_MODEL}
    return b"data: " + json.dumps({**chunk, "choices": [choice]}, separators=(",", ":")).encode() + b"\n\n"


_END = {"done": True, "done_reason": "stop", "prompt_eval_count": 12, "eval_count": 70}
STREAMS = {
    NATIVE: [_ollama_line(TEXT)] * CHUNKS + [_ollama_line("", **_END)],
    PASSED: [
        _openai_event({"role": "assistant", "content": ""}),
        *[_openai_event({"content": TEXT})] * CHUNKS,
        _openai_event({}, "stop"),
        b"data: [DONE]\n\n",
    ],
}
ANSWERS = {
    NATIVE: _ollama_line(TEXT * 70, **_END),
    PASSED: json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1760000000,
            "model": ENGINE_MODEL,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT * 70}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 12, "completion_tokens": 70, "total_tokens": 82},
        }
    ).encode(),
}


def operations() -> dict[str, dict[str, tuple[Callable[[], object], int]]]:
    """Return what is measured, by name and backend type, with how many units one call of it does."""
    found: dict[str, dict[str, tuple[Callable[[], object], int]]] = {}
    for kind in (NATIVE, PASSED):
        spec = BackendSpec(name="engine", type=kind, url="http://127.0.0.1:9/v1")
        backend = cast("HTTPBackend", create_backend(spec, cast("Transport", None)))  # no request is ever sent
        for name, body in _bodies().items():
            found.setdefault(name, {})[kind] = (_request(backend, body), 1)
        found.setdefault("plain answer, 600 bytes", {})[kind] = (_answer(backend, ANSWERS[kind]), 1)
        found.setdefault("chunk of a stream", {})[kind] = (_stream(backend, STREAMS[kind]), CHUNKS)
    return found


def _request(backend: HTTPBackend, body: bytes) -> Callable[[], object]:
    call, deployment = parse_call("chat", body), Deployment(backend="engine", model=ENGINE_MODEL)

    def run() -> object:
        backend.check(call, deployment)
        return backend.prepare(call, deployment)

    return run


def _answer(backend: HTTPBackend, body: bytes) -> Callable[[], object]:
    call = parse_call("chat", _bodies()["request, 1 KB"])
    exchange = backend.prepare(call, Deployment(backend="engine", model=ENGINE_MODEL))
    return lambda: exchange.decode(body)


def _stream(backend: HTTPBackend, reads: list[bytes]) -> Callable[[], object]:
    body = _bodies()["request, 1 KB"].replace(b'{"model"', b'{"stream": true, "model"')
    exchange = backend.prepare(parse_call("chat", body), Deployment(backend="engine", model=ENGINE_MODEL))

    def run() -> object:
        codec = exchange.codec()
        for data in reads:
            codec.feed(data)
        return codec.finish()

    return run


def measure(options: Options) -> dict[str, Any]:
    """Measure both ways one right after the other, round by round; the difference is made inside each round."""
    rounds, seconds, revision = options.rounds_or(7, quick=2), 0.01 if options.quick else 0.2, commit()
    cases, spent = operations(), dict[str, dict[str, list[float]]]()
    progress = Progress(QUESTION.name, rounds * len(cases))
    with pinned(cores()[0]):
        for number in range(rounds):
            for name, ways in cases.items():
                progress.step(f"round {number + 1} of {rounds}, {name}")
                for kind, (operation, units) in ways.items():
                    us = time_operation(operation, seconds) / units
                    spent.setdefault(name, {}).setdefault(kind, []).append(us)
            gc.collect()
    progress.end()
    method = {"rounds": rounds, "seconds_per_case": seconds, "quick": options.quick, "chunks": CHUNKS}
    return assemble(QUESTION.name, revision, method, {}, operations=[_row(name, ways) for name, ways in spent.items()])


def _row(name: str, ways: dict[str, list[float]]) -> dict[str, Any]:
    added = [native - passed for native, passed in zip(ways[NATIVE], ways[PASSED], strict=True)]
    found = {kind: figure(values, "us") for kind, values in ways.items()}
    return {"name": name, **found, "added": figure(added, "us")}


QUESTION = Question(
    name="translation",
    asks="what translating for Ollama costs against passing bytes on",
    takes_s=20,
    measure=measure,
    render=layer_report.translation,
)

if __name__ == "__main__":
    ask(QUESTION)
