"""OpenAI messages and tool calls keep their meaning on the way to Ollama."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartrouter_asgi.exceptions import RequestError, SmartRouterError, UnsupportedParameterError
from smartrouter_asgi.wire.ollama_fields import RequestFields
from smartrouter_asgi.wire.ollama_messages import translate_messages

PNG = "iVBORw0KGgo="
DATA_URI = f"data:image/png;base64,{PNG}"


def translate(*messages: Any) -> tuple[list[dict[str, Any]], list[str]]:
    fields = RequestFields({"messages": list(messages)})
    return translate_messages(fields), list(fields.ignored)


def call(arguments: Any = "{}", *, name: str = "weather", call_id: str | None = "call_1") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def image(url: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image_url", "image_url": url}]}


TRANSLATED = [
    ({"role": "system", "content": "s"}, {"role": "system", "content": "s"}),
    ({"role": "developer", "content": "d"}, {"role": "system", "content": "d"}),
    ({"role": "user", "content": "  kept as it is \n"}, {"role": "user", "content": "  kept as it is \n"}),
    ({"role": "user", "content": None}, {"role": "user", "content": ""}),
    ({"role": "assistant"}, {"role": "assistant", "content": ""}),
    ({"role": "user", "content": []}, {"role": "user", "content": ""}),
    (
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "user", "content": "a\nb"},
    ),
    (
        {
            "role": "user",
            "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": DATA_URI}}],
        },
        {"role": "user", "content": "a", "images": [PNG]},
    ),
    (image(DATA_URI), {"role": "user", "content": "", "images": [PNG]}),
    (
        image({"url": f"DATA:image/webp;charset=x;BASE64,{PNG}"}),
        {"role": "user", "content": "", "images": [PNG]},
    ),
    (
        {"role": "assistant", "content": "a", "reasoning_content": "r"},
        {"role": "assistant", "thinking": "r", "content": "a"},
    ),
    ({"role": "assistant", "content": "a", "reasoning": "r"}, {"role": "assistant", "thinking": "r", "content": "a"}),
    ({"role": "assistant", "content": None, "refusal": "no"}, {"role": "assistant", "content": "no"}),
    ({"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, {"role": "assistant", "content": "no"}),
    ({"role": "assistant", "content": "a", "tool_calls": []}, {"role": "assistant", "content": "a"}),
    (
        {"role": "assistant", "content": None, "tool_calls": [call('{"city": "Köln"}')]},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "call_1", "function": {"name": "weather", "arguments": {"city": "Köln"}}}],
        },
    ),
    ({"role": "tool", "content": "22", "name": "weather"}, {"role": "tool", "content": "22", "tool_name": "weather"}),
    ({"role": "tool", "content": "22", "tool_call_id": "x"}, {"role": "tool", "content": "22", "tool_call_id": "x"}),
]


@pytest.mark.parametrize(("message", "expected"), TRANSLATED)
def test_a_message_is_translated(message: dict[str, Any], expected: dict[str, Any]) -> None:
    assert translate(message) == ([expected], [])


@pytest.mark.parametrize("arguments", ["", None, "{}", {}])
def test_no_arguments_are_an_empty_object(arguments: Any) -> None:
    messages, _ = translate({"role": "assistant", "tool_calls": [call(arguments)]})
    assert messages[0]["tool_calls"][0]["function"]["arguments"] == {}


def test_a_tool_result_finds_its_tool_by_the_id_of_an_earlier_call() -> None:
    messages, _ = translate(
        {"role": "assistant", "tool_calls": [call(call_id="a", name="one"), call(call_id="b", name="two")]},
        {"role": "tool", "tool_call_id": "b", "content": "2"},
        {"role": "tool", "tool_call_id": "a", "name": "given", "content": "1"},
        {"role": "tool", "tool_call_id": "unknown", "content": "?"},
    )
    assert [message.get("tool_name") for message in messages] == [None, "two", "given", None]
    assert [message.get("tool_call_id") for message in messages] == [None, "b", "a", "unknown"]


IGNORED = [
    ({"role": "user", "content": "a", "name": "ann"}, "messages.name"),
    ({"role": "assistant", "content": "a", "annotations": []}, "messages.annotations"),
    ({"role": "assistant", "content": "a", "id": "msg_1"}, "messages.id"),
    (
        {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {}}]},
        "messages.content.cache_control",
    ),
    (image({"url": DATA_URI, "detail": "low"}), "messages.content.image_url.detail"),
    ({"role": "assistant", "tool_calls": [{**call(), "index": 0}]}, "messages.tool_calls.index"),
]


@pytest.mark.parametrize(("message", "name"), IGNORED)
def test_what_has_no_effect_is_listed_once_for_all_messages(message: dict[str, Any], name: str) -> None:
    assert translate(message, message)[1] == [name]


REFUSED = [
    (image({"url": "https://example.com/a.png"}), "messages[1].content[0].image_url.url"),
    (image({"url": "file:///etc/passwd"}), "messages[1].content[0].image_url.url"),
    ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "messages[1].content[0].type"),
    ({"role": "user", "content": [{"type": "file", "file": {}}]}, "messages[1].content[0].type"),
    ({"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]}, "messages[1].content[0].x"),
    ({"role": "function", "name": "f", "content": "1"}, "messages[1].role"),
    ({"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}, "messages[1].function_call"),
    ({"role": "assistant", "audio": {"id": "a"}}, "messages[1].audio"),
    ({"role": "user", "content": "a", "images": [PNG]}, "messages[1].images"),
    ({"role": "user", "content": "a", "reasoning_content": "r"}, "messages[1].reasoning_content"),
    ({"role": "user", "content": "a", "mood": "good"}, "messages[1].mood"),
    ({"role": "assistant", "tool_calls": [{"type": "custom", "custom": {}}]}, "messages[1].tool_calls[0].type"),
]


@pytest.mark.parametrize(("message", "param"), REFUSED)
def test_what_ollama_has_no_place_for_is_refused_by_its_path(message: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameterError) as caught:
        translate({"role": "user", "content": "a"}, message)
    assert caught.value.param == param


ARGUMENTS = "messages[1].tool_calls[0].function.arguments"
WRONG = [
    ("text", "messages[1]"),
    ({"content": "a"}, "messages[1].role"),
    ({"role": 5, "content": "a"}, "messages[1].role"),
    ({"role": "robot", "content": "a"}, "messages[1].role"),
    ({"role": "user", "content": 5}, "messages[1].content"),
    ({"role": "user", "content": {"type": "text"}}, "messages[1].content"),
    ({"role": "user", "content": ["a"]}, "messages[1].content[0]"),
    ({"role": "user", "content": [{"text": "a"}]}, "messages[1].content[0].type"),
    ({"role": "user", "content": [{"type": "text"}]}, "messages[1].content[0].text"),
    ({"role": "user", "content": [{"type": "text", "text": 5}]}, "messages[1].content[0].text"),
    (image(None), "messages[1].content[0].image_url"),
    (image({}), "messages[1].content[0].image_url.url"),
    (image("data:image/png;base64,"), "messages[1].content[0].image_url.url"),
    (image("data:text/plain;base64,aGk="), "messages[1].content[0].image_url.url"),
    (image("data:image/svg+xml,<svg/>"), "messages[1].content[0].image_url.url"),
    ({"role": "assistant", "tool_calls": {}}, "messages[1].tool_calls"),
    ({"role": "assistant", "tool_calls": [5]}, "messages[1].tool_calls[0]"),
    ({"role": "assistant", "tool_calls": [{"id": "a"}]}, "messages[1].tool_calls[0].function"),
    ({"role": "assistant", "tool_calls": [call(name="")]}, "messages[1].tool_calls[0].function.name"),
    ({"role": "assistant", "tool_calls": [call("{")]}, ARGUMENTS),
    ({"role": "assistant", "tool_calls": [call("[1]")]}, ARGUMENTS),
    ({"role": "assistant", "tool_calls": [call("5")]}, ARGUMENTS),
    ({"role": "assistant", "tool_calls": [call(5)]}, ARGUMENTS),
    ({"role": "assistant", "tool_calls": [call("[" * 100_000)]}, ARGUMENTS),
    ({"role": "assistant", "reasoning_content": 5}, "messages[1].reasoning_content"),
    ({"role": "tool", "tool_call_id": 5, "content": "a"}, "messages[1].tool_call_id"),
]


@pytest.mark.parametrize(("message", "param"), WRONG)
def test_a_malformed_message_is_a_400_that_names_the_place(message: Any, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        translate({"role": "user", "content": "a"}, message)
    assert not isinstance(caught.value, UnsupportedParameterError)
    assert caught.value.param == param


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)
arguments_objects = st.dictionaries(st.text(), json_values, max_size=4)
calls = st.builds(
    lambda name, call_id, arguments: call(json.dumps(arguments), name=name, call_id=call_id),
    st.text(min_size=1),
    st.text(min_size=1),
    arguments_objects,
)
texts = st.text()
contents = st.none() | texts | st.lists(texts.map(lambda text: {"type": "text", "text": text}), max_size=3)
turns = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "developer", "user"]), "content": contents}),
    st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": contents},
        optional={"tool_calls": st.lists(calls, max_size=3), "reasoning_content": texts},
    ),
    st.fixed_dictionaries({"role": st.just("tool"), "content": contents, "tool_call_id": texts}),
)


def plain_text(content: Any) -> str:
    return "\n".join(part["text"] for part in content) if isinstance(content, list) else content or ""


@given(st.lists(turns, min_size=1, max_size=6))
def test_every_turn_keeps_its_text_its_calls_and_its_place(messages: list[dict[str, Any]]) -> None:
    translated, ignored = translate(*messages)
    assert ignored == []
    assert len(translated) == len(messages)
    for before, after in zip(messages, translated, strict=True):
        assert after["role"] == {"developer": "system"}.get(before["role"], before["role"])
        assert after["content"] == plain_text(before["content"])
        assert after.get("thinking", "") == before.get("reasoning_content", "")
        assert after.get("tool_call_id", "") == before.get("tool_call_id", "")
        given_calls = before.get("tool_calls", [])
        assert [one["id"] for one in after.get("tool_calls", [])] == [one["id"] for one in given_calls]
        assert [one["function"] for one in after.get("tool_calls", [])] == [
            {"name": one["function"]["name"], "arguments": json.loads(one["function"]["arguments"])}
            for one in given_calls
        ]


@given(st.lists(json_values | st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "name"]), json_values)))
def test_whatever_stands_in_messages_the_only_error_is_one_for_the_client(messages: list[Any]) -> None:
    try:
        translate(*messages)
    except SmartRouterError as exc:
        assert exc.status == 400  # noqa: PT017
        assert (exc.param or "").startswith("messages")  # noqa: PT017
