"""Every field of a request to Ollama is translated, refused by name, or listed as ignored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from smartrouter_asgi.exceptions import RequestError, UnsupportedParameterError
from smartrouter_asgi.types import Operation
from smartrouter_asgi.wire.call import parse_call
from smartrouter_asgi.wire.ollama_options import Residency
from smartrouter_asgi.wire.ollama_request import OllamaRequest, translate_request

USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
NEEDED: dict[Operation, dict[str, Any]] = {
    "chat": {"messages": [USER]},
    "completions": {"prompt": "Once"},
    "embeddings": {"input": "text"},
}


def translate(
    operation: Operation, fields: dict[str, Any], *, residency: Residency | None = None, can_think: bool | None = None
) -> OllamaRequest:
    body = {"model": "asked", **NEEDED[operation], **fields}
    call = parse_call(operation, json.dumps(body).encode())
    return translate_request(call, model="m:latest", residency=residency or Residency(), can_think=can_think)


def sent(operation: Operation, fields: dict[str, Any], **how: Any) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(translate(operation, fields, **how).body)
    return decoded


PLAIN: dict[Operation, dict[str, Any]] = {
    "chat": {"model": "m:latest", "stream": False, "messages": [USER]},
    "completions": {"model": "m:latest", "stream": False, "prompt": "Once"},
    "embeddings": {"model": "m:latest", "input": "text"},
}
PATHS = {"chat": "/api/chat", "completions": "/api/generate", "embeddings": "/api/embed"}

BOTH: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"stream": True}, {"stream": True}),
    ({"temperature": 0}, {"options": {"temperature": 0}}),
    ({"top_p": 0.5}, {"options": {"top_p": 0.5}}),
    ({"top_k": 7}, {"options": {"top_k": 7}}),
    ({"min_p": 0.1}, {"options": {"min_p": 0.1}}),
    ({"typical_p": 0.9}, {"options": {"typical_p": 0.9}}),
    ({"repeat_penalty": 1.1}, {"options": {"repeat_penalty": 1.1}}),
    ({"repeat_last_n": 64}, {"options": {"repeat_last_n": 64}}),
    ({"seed": -3}, {"options": {"seed": -3}}),
    ({"frequency_penalty": -1.5}, {"options": {"frequency_penalty": -1.5}}),
    ({"presence_penalty": 2}, {"options": {"presence_penalty": 2}}),
    ({"max_tokens": 5}, {"options": {"num_predict": 5}}),
    ({"max_completion_tokens": 6}, {"options": {"num_predict": 6}}),
    ({"max_completion_tokens": 6, "max_tokens": 5}, {"options": {"num_predict": 6}}),
    ({"stop": "x"}, {"options": {"stop": ["x"]}}),
    ({"stop": ["x", "y"]}, {"options": {"stop": ["x", "y"]}}),
    ({"stop": []}, {}),
    ({"reasoning_effort": "none"}, {"think": False}),
    ({"reasoning_effort": "minimal"}, {"think": "low"}),
    ({"reasoning_effort": "low"}, {"think": "low"}),
    ({"reasoning_effort": "medium"}, {"think": "medium"}),
    ({"reasoning_effort": "high"}, {"think": "high"}),
    ({"reasoning_effort": "xhigh"}, {"think": "max"}),
    ({"reasoning_effort": "max"}, {"think": "max"}),
]
TRANSLATED: list[tuple[Operation, dict[str, Any], dict[str, Any]]] = [
    *(("chat", fields, expected) for fields, expected in BOTH),
    *(("completions", fields, expected) for fields, expected in BOTH),
    ("chat", {"tools": [TOOL]}, {"tools": [TOOL]}),
    ("chat", {"tools": [TOOL], "tool_choice": "auto"}, {"tools": [TOOL]}),
    ("chat", {"tools": [TOOL], "tool_choice": "none"}, {}),
    ("chat", {"tools": []}, {}),
    ("chat", {"response_format": {"type": "text"}}, {}),
    ("chat", {"response_format": {"type": "json_object"}}, {"format": "json"}),
    (
        "chat",
        {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
        {"format": SCHEMA},
    ),
    ("chat", {"logprobs": True}, {"logprobs": True}),
    ("chat", {"logprobs": True, "top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
    ("chat", {"logprobs": False, "top_logprobs": 0}, {}),
    ("completions", {"prompt": ["Once"]}, {}),
    ("completions", {"suffix": "end"}, {"suffix": "end"}),
    ("completions", {"suffix": ""}, {}),
    ("completions", {"logprobs": 0}, {"logprobs": True}),
    ("completions", {"logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
    ("completions", {"echo": False}, {}),
    ("embeddings", {"input": ["a", "b"]}, {"input": ["a", "b"]}),
    ("embeddings", {"dimensions": 8}, {"dimensions": 8}),
    ("embeddings", {"truncate": False}, {"truncate": False}),
    ("embeddings", {"encoding_format": "base64"}, {}),
    ("embeddings", {"encoding_format": "float"}, {}),
]


@pytest.mark.parametrize(("operation", "fields", "expected"), TRANSLATED)
def test_a_field_that_ollama_knows_is_translated(
    operation: Operation, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    request = translate(operation, fields)
    assert request.path == PATHS[operation]
    assert json.loads(request.body) == {**PLAIN[operation], **expected}
    assert request.ignored == (("max_tokens",) if len(fields) == 2 and "max_tokens" in fields else ())


IGNORED: list[tuple[Operation, dict[str, Any], str]] = [
    *(
        (operation, {name: value}, name)
        for operation in ("chat", "completions", "embeddings")
        for name, value in (
            ("user", "u"),
            ("metadata", {"a": "b"}),
            ("store", True),
            ("service_tier", "auto"),
            ("safety_identifier", "s"),
            ("prediction", {"type": "content", "content": "x"}),
            ("prompt_cache_key", "k"),
            ("prompt_cache_retention", "24h"),
            ("prompt_cache_options", {"mode": "auto"}),
        )
    ),
    ("chat", {"n": 1}, "n"),
    ("completions", {"n": 1}, "n"),
    ("completions", {"best_of": 1}, "best_of"),
    ("chat", {"logit_bias": {}}, "logit_bias"),
    ("completions", {"logit_bias": {}}, "logit_bias"),
    ("chat", {"modalities": ["text"]}, "modalities"),
    ("chat", {"verbosity": "medium"}, "verbosity"),
    ("chat", {"parallel_tool_calls": True}, "parallel_tool_calls"),
    ("chat", {"parallel_tool_calls": False}, "parallel_tool_calls"),  # without tools nothing is called
    ("chat", {"stream_options": {"include_usage": True}}, "stream_options"),  # not a stream
    ("chat", {"stream": True, "stream_options": {"include_obfuscation": False}}, "stream_options.include_obfuscation"),
    ("chat", {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]}, "tools.function.strict"),
    (
        "chat",
        {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA, "name": "s"}}},
        "response_format.json_schema.name",
    ),
]


@pytest.mark.parametrize(("operation", "fields", "name"), IGNORED)
def test_a_field_without_effect_on_the_answer_is_listed_and_not_sent(
    operation: Operation, fields: dict[str, Any], name: str
) -> None:
    request = translate(operation, fields)
    assert request.ignored == (name,)
    assert name not in json.loads(request.body)


REFUSED: list[tuple[Operation, dict[str, Any], str]] = [
    *(
        (operation, {name: value}, name)
        for operation in ("chat", "completions", "embeddings")
        for name, value in (
            ("temprature", 1),
            ("keep_alive", "5m"),
            ("num_ctx", 4096),
            ("options", {"num_ctx": 1}),
            ("think", True),
            ("format", "json"),
            ("images", ["x"]),
        )
    ),
    ("chat", {"n": 2}, "n"),
    ("completions", {"n": 2}, "n"),
    ("embeddings", {"n": 1}, "n"),
    ("embeddings", {"temperature": 1}, "temperature"),
    ("chat", {"logit_bias": {"50256": -100}}, "logit_bias"),
    ("chat", {"audio": {"voice": "x", "format": "wav"}}, "audio"),
    ("chat", {"modalities": ["text", "audio"]}, "modalities"),
    ("chat", {"verbosity": "low"}, "verbosity"),
    ("chat", {"web_search_options": {}}, "web_search_options"),
    ("chat", {"functions": []}, "functions"),
    ("chat", {"function_call": "auto"}, "function_call"),
    ("chat", {"tools": [TOOL], "tool_choice": {"type": "custom", "custom": {"name": "x"}}}, "tool_choice.type"),
    ("chat", {"tools": [TOOL], "parallel_tool_calls": False}, "parallel_tool_calls"),
    ("chat", {"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
    ("chat", {"tools": [{**TOOL, "unknown": 1}]}, "tools[0].unknown"),
    ("chat", {"response_format": {"type": "grammar"}}, "response_format.type"),
    ("chat", {"response_format": {"type": "json_object", "schema": SCHEMA}}, "response_format.schema"),
    ("chat", {"stream": True, "stream_options": {"more": 1}}, "stream_options.more"),
    ("completions", {"echo": True}, "echo"),
    ("completions", {"best_of": 2}, "best_of"),
    ("completions", {"prompt": ["a", "b"]}, "prompt"),
    ("completions", {"prompt": [1, 2]}, "prompt"),
    ("completions", {"prompt": [[1, 2]]}, "prompt"),
    ("completions", {"prompt": []}, "prompt"),
    ("completions", {"prompt": ""}, "prompt"),
    ("completions", {"tools": [TOOL]}, "tools"),
    ("embeddings", {"input": [1, 2]}, "input"),
    ("embeddings", {"input": [[1], [2]]}, "input"),
    ("embeddings", {"stream": True}, "stream"),
]


@pytest.mark.parametrize(("operation", "fields", "param"), REFUSED)
def test_a_field_that_ollama_cannot_honour_is_refused_by_name(
    operation: Operation, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(UnsupportedParameterError) as caught:
        translate(operation, fields)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "unsupported_parameter", param)
    assert f"'{param}' is not supported by Ollama: " in caught.value.message


WRONG: list[tuple[Operation, dict[str, Any], str]] = [
    ("chat", {"messages": []}, "messages"),
    ("chat", {"temperature": "hot"}, "temperature"),
    ("chat", {"temperature": True}, "temperature"),
    ("chat", {"max_tokens": 0}, "max_tokens"),
    ("chat", {"max_tokens": -1}, "max_tokens"),
    ("chat", {"max_tokens": 5.5}, "max_tokens"),
    ("chat", {"max_tokens": True}, "max_tokens"),
    ("chat", {"max_completion_tokens": "5"}, "max_completion_tokens"),
    ("chat", {"seed": 1.5}, "seed"),
    ("chat", {"stop": 5}, "stop"),
    ("chat", {"stop": ["x", 5]}, "stop"),
    ("chat", {"n": 0}, "n"),
    ("chat", {"n": "1"}, "n"),
    ("chat", {"logit_bias": []}, "logit_bias"),
    ("chat", {"logprobs": 1}, "logprobs"),
    ("chat", {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ("chat", {"top_logprobs": 2}, "top_logprobs"),
    ("chat", {"reasoning_effort": "huge"}, "reasoning_effort"),
    ("chat", {"reasoning_effort": 3}, "reasoning_effort"),
    ("chat", {"modalities": "text"}, "modalities"),
    ("chat", {"verbosity": 1}, "verbosity"),
    ("chat", {"tools": {}}, "tools"),
    ("chat", {"tools": [5]}, "tools[0]"),
    ("chat", {"tools": [{"type": "function"}]}, "tools[0].function"),
    ("chat", {"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    (
        "chat",
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": 1}}]},
        "tools[0].function.parameters",
    ),
    ("chat", {"tools": [TOOL], "tool_choice": 5}, "tool_choice"),
    ("chat", {"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
    ("chat", {"tool_choice": "required"}, "tool_choice"),
    ("chat", {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
    ("chat", {"tools": [TOOL], "tool_choice": {"type": "function", "function": {}}}, "tool_choice.function.name"),
    ("chat", {"parallel_tool_calls": "yes"}, "parallel_tool_calls"),
    ("chat", {"response_format": "json"}, "response_format"),
    ("chat", {"response_format": {}}, "response_format.type"),
    ("chat", {"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ("chat", {"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema"),
    ("chat", {"stream": True, "stream_options": []}, "stream_options"),
    ("chat", {"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ("completions", {"suffix": 1}, "suffix"),
    ("completions", {"logprobs": True}, "logprobs"),
    ("completions", {"echo": 1}, "echo"),
    ("completions", {"best_of": 0}, "best_of"),
    ("embeddings", {"input": ""}, "input"),
    ("embeddings", {"input": []}, "input"),
    ("embeddings", {"dimensions": 0}, "dimensions"),
    ("embeddings", {"truncate": "no"}, "truncate"),
    ("embeddings", {"encoding_format": "int8"}, "encoding_format"),
]


@pytest.mark.parametrize(("operation", "fields", "param"), WRONG)
def test_a_value_of_the_wrong_type_or_range_is_a_400_that_names_the_field(
    operation: Operation, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(RequestError) as caught:
        translate(operation, fields)
    assert not isinstance(caught.value, UnsupportedParameterError)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_request", param)
    assert f"'{param}' must be " in caught.value.message


@pytest.mark.parametrize("operation", ["chat", "completions", "embeddings"])
def test_null_counts_as_absent_whatever_the_field(operation: Operation) -> None:
    names = {name for table in (IGNORED, REFUSED, WRONG) for op, fields, _ in table for name in fields}
    names |= {name for _, fields, _ in TRANSLATED for name in fields}
    nulls = dict.fromkeys(names - NEEDED[operation].keys())
    request = translate(operation, nulls)
    assert json.loads(request.body) == PLAIN[operation]
    assert request.ignored == ()


@pytest.mark.parametrize("operation", ["chat", "completions", "embeddings"])
@pytest.mark.parametrize(
    ("keep_alive_s", "expected"), [(300.0, 300), (-1.0, -1), (-0.5, -1), (float("inf"), -1), (0.0, 0), (0.5, 1)]
)
def test_keep_alive_and_the_pinned_context_size_go_into_every_request(
    operation: Operation, keep_alive_s: float, expected: int
) -> None:
    body = sent(operation, {}, residency=Residency(keep_alive_s=keep_alive_s, num_ctx=8192))
    assert body == {**PLAIN[operation], "keep_alive": expected, "options": {"num_ctx": 8192}}
    assert isinstance(body["keep_alive"], int)


def test_a_model_known_not_to_think_gets_no_think_and_the_field_is_listed() -> None:
    request = translate("chat", {"reasoning_effort": "high"}, can_think=False)
    assert "think" not in json.loads(request.body)
    assert request.ignored == ("reasoning_effort",)
    assert sent("chat", {"reasoning_effort": "high"}, can_think=True)["think"] == "high"


@pytest.mark.parametrize("operation", ["chat", "completions"])
def test_usage_is_asked_for_only_in_a_stream(operation: Operation) -> None:
    wanted = {"stream_options": {"include_usage": True}}
    assert translate(operation, {"stream": True, **wanted}).include_usage
    assert not translate(operation, {"stream": True}).include_usage
    assert not translate(operation, wanted).include_usage


def test_an_embeddings_request_says_how_many_vectors_to_expect() -> None:
    assert translate("embeddings", {"input": ["a", "b"], "encoding_format": "base64"}).inputs == 2
    assert translate("embeddings", {"encoding_format": "base64"}).base64
    assert not translate("embeddings", {}).base64


def test_the_name_of_an_unknown_field_is_cut_before_it_goes_into_an_answer() -> None:
    with pytest.raises(UnsupportedParameterError) as caught:
        translate("chat", {"x" * 5000: 1})
    assert len(caught.value.message) < 300


def test_arguments_nested_to_the_limit_are_a_400_and_no_crash() -> None:
    refused = 0
    for depth in range(800, 1050):
        arguments = '{"a":' * depth + "1" + "}" * depth
        turn = {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": arguments}}]}
        try:
            translate("chat", {"messages": [turn]})
        except RequestError:
            refused += 1
    assert refused


@pytest.mark.parametrize(
    ("choice", "sent_names", "must_call"),
    [
        ("auto", ["weather", "time"], ()),
        ("required", ["weather", "time"], ("weather", "time")),
        ({"type": "function", "function": {"name": "time"}}, ["time"], ("time",)),
    ],
)
def test_tools_are_narrowed_to_those_of_which_one_must_be_called(
    choice: Any, sent_names: list[str], must_call: tuple[str, ...]
) -> None:
    """Ollama knows no `tool_choice`: what it demands is asked of the answer."""
    tools = [{"type": "function", "function": {"name": name}} for name in ("weather", "time")]
    request = translate("chat", {"tools": tools, "tool_choice": choice})
    body = json.loads(request.body)
    assert [tool["function"]["name"] for tool in body["tools"]] == sent_names
    assert "tool_choice" not in body
    assert request.must_call == must_call
