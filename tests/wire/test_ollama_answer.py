"""Ollama's plain answers become OpenAI's, nothing lost and nothing made up."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion

from smartrouter_asgi.exceptions import AttemptError, FailureKind
from smartrouter_asgi.types import Operation
from smartrouter_asgi.wire.ollama_answer import translate_answer, translate_embeddings, unix_seconds
from smartrouter_asgi.wire.stream import Usage

DONE = {
    "model": "m:latest",
    "created_at": "2026-01-01T00:00:00.123456789Z",
    "done": True,
    "done_reason": "stop",
    "total_duration": 9,
    "load_duration": 1,
    "prompt_eval_count": 5,
    "prompt_eval_duration": 2,
    "eval_count": 7,
    "eval_duration": 5,
}


def translate(operation: Operation, answer: Any) -> tuple[dict[str, Any], Usage]:
    body, usage = translate_answer("b", operation, json.dumps(answer).encode(), answer_id="chatcmpl-abc")
    return json.loads(body), usage


def chat(message: dict[str, Any], **members: Any) -> dict[str, Any]:
    translated, _ = translate("chat", {**DONE, "message": {"role": "assistant", **message}, **members})
    ChatCompletion.model_validate(translated, strict=True)
    return translated


def test_a_chat_answer_is_a_chat_completion() -> None:
    translated, usage = translate("chat", {**DONE, "message": {"role": "assistant", "content": "Hé"}})
    assert translated == {
        "id": "chatcmpl-abc",
        "object": "chat.completion",
        "created": 1767225600,
        "model": "m:latest",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hé", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
    }
    assert usage == Usage(prompt_tokens=5, completion_tokens=7)


def test_thinking_is_reasoning_content() -> None:
    message = chat({"content": "4", "thinking": "2+2"})["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "4", "refusal": None, "reasoning_content": "2+2"}


def test_tool_calls_keep_their_ids_and_get_string_arguments() -> None:
    calls = [
        {"id": "call_x", "function": {"index": 0, "name": "a", "arguments": {"city": "Köln <b>", "n": [1, 2.5, None]}}},
        {"function": {"index": 1, "name": "b", "arguments": {}}},
        {"function": {"name": "c"}},
    ]
    choice = chat({"content": "", "tool_calls": calls})["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    found = choice["message"]["tool_calls"]
    assert [call["type"] for call in found] == ["function"] * 3
    assert found[0] == {
        "id": "call_x",
        "type": "function",
        "function": {"name": "a", "arguments": '{"city":"Köln <b>","n":[1,2.5,null]}'},
    }
    assert [call["function"]["arguments"] for call in found[1:]] == ["{}", "{}"]
    assert len({call["id"] for call in found}) == 3


def test_text_beside_tool_calls_is_kept() -> None:
    calls = [{"function": {"name": "a", "arguments": {}}}]
    assert chat({"content": "Let me look", "tool_calls": calls})["choices"][0]["message"]["content"] == "Let me look"


@pytest.mark.parametrize(
    ("reason", "called", "expected"),
    [
        ("stop", False, "stop"),
        ("stop", True, "tool_calls"),
        ("length", False, "length"),
        ("length", True, "length"),
        ("load", False, "stop"),
        ("unload", False, "stop"),
        (None, False, "stop"),
        (None, True, "tool_calls"),
    ],
)
def test_the_done_reason_is_the_finish_reason(reason: str | None, called: bool, expected: str) -> None:
    calls = {"tool_calls": [{"function": {"name": "a", "arguments": {}}}]} if called else {}
    assert chat({"content": "", **calls}, done_reason=reason)["choices"][0]["finish_reason"] == expected


def test_an_absent_count_is_zero() -> None:
    answer = {key: value for key, value in DONE.items() if not key.endswith("_count")}
    translated, usage = translate("chat", {**answer, "message": {"role": "assistant", "content": "x"}})
    assert translated["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert usage == Usage()


def test_chat_logprobs_keep_their_shape() -> None:
    top = [{"token": "H", "logprob": -0.5, "bytes": [72]}, {"token": "J", "logprob": -2.0}]
    logprobs = [{"token": "H", "logprob": -0.5, "bytes": [72], "top_logprobs": top}, {"token": "i", "logprob": -1.5}]
    assert chat({"content": "Hi"}, logprobs=logprobs)["choices"][0]["logprobs"] == {
        "content": [
            {
                "token": "H",
                "logprob": -0.5,
                "bytes": [72],
                "top_logprobs": [top[0], {**top[1], "bytes": None}],
            },
            {"token": "i", "logprob": -1.5, "bytes": None, "top_logprobs": []},
        ],
        "refusal": None,
    }


def test_a_generate_answer_is_a_text_completion() -> None:
    logprobs = [
        {"token": "On", "logprob": -1.0, "top_logprobs": [{"token": "On", "logprob": -1.0}]},
        {"token": "ce", "logprob": -0.5},
    ]
    answer = {**DONE, "response": "Once", "thinking": "hm", "context": [1, 2, 3], "logprobs": logprobs}
    translated, usage = translate("completions", answer)
    assert translated == {
        "id": "chatcmpl-abc",
        "object": "text_completion",
        "created": 1767225600,
        "model": "m:latest",
        "choices": [
            {
                "index": 0,
                "text": "Once",
                "reasoning_content": "hm",
                "logprobs": {
                    "tokens": ["On", "ce"],
                    "token_logprobs": [-1.0, -0.5],
                    "top_logprobs": [{"On": -1.0}, {}],
                    "text_offset": [0, 2],
                },
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
    }
    assert usage == Usage(prompt_tokens=5, completion_tokens=7)
    Completion.model_validate(translated, strict=True)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"oops", b'{"done":1}', b'{"message":5}', b'"text"', b"[" * 10000, b"\xff"]
)
@pytest.mark.parametrize(
    "read",
    [
        partial(translate_answer, "b", "chat", answer_id="x"),
        partial(translate_embeddings, "b", inputs=1, as_base64=False),
    ],
)
def test_what_is_no_answer_of_ollamas_fails_as_protocol(body: bytes, read: Callable[..., Any]) -> None:
    with pytest.raises(AttemptError) as caught:
        read(body=body)
    assert (caught.value.kind, caught.value.status) == (FailureKind.PROTOCOL, 502)


def test_an_answer_that_is_not_done_was_broken_off() -> None:
    with pytest.raises(AttemptError) as caught:
        translate("chat", {"model": "m", "message": {"role": "assistant", "content": "He"}, "done": False})
    assert (caught.value.kind, caught.value.code) == (FailureKind.PROTOCOL, "upstream_truncated")


@pytest.mark.parametrize("error", ["CUDA error: out of memory", {"message": "CUDA error: out of memory"}])
def test_an_error_under_200_is_a_failure(error: Any) -> None:
    with pytest.raises(AttemptError) as caught:
        translate("chat", {"error": error})
    assert (caught.value.kind, caught.value.code) == (FailureKind.MODEL_FAILED, "vram_exhausted")


def test_embeddings_keep_their_numbers_to_the_digit() -> None:
    body = b'{"model":"e","embeddings":[[0.010071029,-1e-7],[1,0]],"total_duration":1,"prompt_eval_count":3}'
    translated, usage = translate_embeddings("b", body, inputs=2, as_base64=False)
    assert b"[0.010071029,-1e-7]" in translated
    assert json.loads(translated) == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.010071029, -1e-7]},
            {"object": "embedding", "index": 1, "embedding": [1, 0]},
        ],
        "model": "e",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    assert usage == Usage(prompt_tokens=3)
    CreateEmbeddingResponse.model_validate(json.loads(translated))


def test_base64_embeddings_are_little_endian_float32() -> None:
    body = b'{"model":"e","embeddings":[[0.5,-2,1e-3]]}'
    translated, usage = translate_embeddings("b", body, inputs=1, as_base64=True)
    answer = json.loads(translated)
    packed = base64.b64decode(answer["data"][0]["embedding"], validate=True)
    assert packed == struct.pack("<3f", 0.5, -2, 1e-3)
    assert answer["usage"] == {"prompt_tokens": 0, "total_tokens": 0}
    assert usage == Usage()


@pytest.mark.parametrize("body", [b'{"embeddings":[]}', b'{"embeddings":[[1],[2]]}', b'{"model":"m"}'])
def test_there_is_one_vector_for_each_text(body: bytes) -> None:
    with pytest.raises(AttemptError, match="for 1 texts") as caught:
        translate_embeddings("b", body, inputs=1, as_base64=False)
    assert caught.value.kind is FailureKind.PROTOCOL


@pytest.mark.parametrize("vector", [b'"x"', b"{}", b'["x"]', b"null"])
def test_a_vector_that_is_none_fails_as_protocol(vector: bytes) -> None:
    with pytest.raises(AttemptError) as caught:
        translate_embeddings("b", b'{"embeddings":[' + vector + b"]}", inputs=1, as_base64=True)
    assert caught.value.kind is FailureKind.PROTOCOL


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [
        ("2026-01-01T00:00:00Z", 1767225600),
        ("2026-01-01T00:00:00.1Z", 1767225600),
        ("2026-01-01T00:00:00.999999999Z", 1767225600),
        ("2026-01-01T02:00:00.123456789+02:00", 1767225600),
        ("2025-12-31T17:00:00-07:00", 1767225600),
        ("", 0),
        ("soon", 0),
        (None, 0),
    ],
)
def test_a_timestamp_is_whole_unix_seconds(timestamp: str | None, expected: int) -> None:
    assert unix_seconds(timestamp) == expected


@pytest.mark.parametrize("reason", ["stop", "length"])
@pytest.mark.parametrize("calls", [None, [{"function": {"name": "time", "arguments": {}}}]])
def test_an_answer_without_the_call_it_must_make_is_a_failure_of_the_model(calls: Any, reason: str) -> None:
    """Neutral for the breaker, and another candidate may obey."""
    message = {"role": "assistant", "content": "Sunny", "tool_calls": calls}
    body = json.dumps({**DONE, "done_reason": reason, "message": message}).encode()
    with pytest.raises(AttemptError) as caught:
        translate_answer("b", "chat", body, answer_id="x", must_call=("weather",))
    assert (caught.value.kind, caught.value.status) == (FailureKind.MODEL_FAILED, 502)
    assert caught.value.code == "upstream_error"
    assert "tool_choice" in caught.value.message


def test_an_answer_with_the_call_it_must_make_passes() -> None:
    message = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "weather", "arguments": {}}}]}
    body = json.dumps({**DONE, "message": message}).encode()
    translated, _ = translate_answer("b", "chat", body, answer_id="x", must_call=("weather", "time"))
    assert json.loads(translated)["choices"][0]["finish_reason"] == "tool_calls"
