"""What a request needs, and who lacks it: only what may matter is decoded."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from smartrouter_asgi.deployment import Capabilities
from smartrouter_asgi.routing.needs import CHARACTERS_PER_TOKEN, needs
from smartrouter_asgi.types import Operation
from smartrouter_asgi.wire.call import Call, parse_call

HELLO = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
SEEN = [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, IMAGE]}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}
LONG = "x" * (100 * CHARACTERS_PER_TOKEN + 1)


def call(operation: Operation = "chat", **fields: Any) -> Call:
    needed: dict[str, dict[str, Any]] = {
        "chat": {"messages": HELLO},
        "completions": {"prompt": "x"},
        "embeddings": {"input": "x"},
    }
    return parse_call(operation, json.dumps({"model": "m", **needed[operation], **fields}).encode())


@pytest.mark.parametrize(
    ("operation", "fields", "lacking", "param"),
    [
        ("chat", {"tools": TOOLS}, {"tools": False}, "tools"),
        ("chat", {"tools": TOOLS, "tool_choice": "auto"}, {"tools": False}, "tools"),
        ("chat", {"messages": SEEN}, {"vision": False}, "messages"),
        ("chat", {"response_format": SCHEMA}, {"json_schema": False}, "response_format"),
        ("chat", {}, {"chat": False}, "model"),
        ("completions", {}, {"completions": False}, "model"),
        ("completions", {"suffix": "y"}, {"insert": False}, "suffix"),
        ("embeddings", {}, {"embeddings": False}, "model"),
    ],
)
def test_what_a_model_lacks_is_refused_by_the_name_of_the_field(
    operation: Operation, fields: dict[str, Any], lacking: dict[str, bool], param: str
) -> None:
    wanted = needs(call(operation, **fields))
    refusal = wanted.refusal(Capabilities(**lacking), by="b/m")
    assert refusal is not None
    assert (refusal.status, refusal.code, refusal.param) == (400, "unsupported_parameter", param)
    assert "'b/m'" in refusal.message
    assert wanted.refusal(Capabilities(), by="b/m") is None


NOTHING = Capabilities(
    embeddings=False, tools=False, vision=False, json_schema=False, insert=False, thinking=False, context_length=100
)


@pytest.mark.parametrize(
    ("operation", "fields"),
    [
        ("chat", {}),
        ("chat", {"tools": []}),
        ("chat", {"tools": None}),
        ("chat", {"tools": TOOLS, "tool_choice": "none"}),
        ("chat", {"messages": [{"role": "user", "content": 'about "image_url" and images'}]}),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "text", "text": "image"}]}, "no message"]}),
        ("chat", {"response_format": {"type": "json_object"}}),
        ("chat", {"response_format": None}),
        ("chat", {"messages": [{"role": "user", "content": LONG[1:]}]}),
        ("completions", {"suffix": ""}),
        ("completions", {"prompt": [LONG[1:], LONG[1:]]}),
        ("completions", {"prompt": [[1, 2]] * 1000}),
    ],
)
def test_what_asks_for_nothing_special_is_for_every_model(operation: Operation, fields: dict[str, Any]) -> None:
    assert needs(call(operation, **fields)).refusal(NOTHING, by="b/m") is None


@pytest.mark.parametrize(
    ("operation", "fields", "param"),
    [
        ("chat", {"messages": [{"role": "user", "content": LONG}]}, "messages"),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "text", "text": LONG}]}]}, "messages"),
        ("completions", {"prompt": LONG}, "prompt"),
        ("completions", {"prompt": ["x", LONG]}, "prompt"),
    ],
)
def test_a_prompt_that_is_clearly_too_long(operation: Operation, fields: dict[str, Any], param: str) -> None:
    refusal = needs(call(operation, **fields)).refusal(Capabilities(context_length=100), by="b/m")
    assert refusal is not None
    assert (refusal.status, refusal.code, refusal.param) == (400, "context_length_exceeded", param)


def test_an_empty_list_with_blanks_in_it_is_nothing() -> None:
    asked = parse_call("chat", b'{"model": "m", "messages": [], "tools": [ \n ]}')
    assert needs(asked).refusal(NOTHING, by="b/m") is None


def test_an_image_is_no_text() -> None:
    """Its bytes say nothing about the number of tokens."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    asked = call(messages=[{"role": "user", "content": [image]}])
    assert needs(asked).refusal(Capabilities(context_length=100), by="b/m") is None


def test_nothing_is_decoded_that_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    monkeypatch.setattr(Call, "value", lambda self, name: decoded.append(name))
    asked = call(messages=SEEN, tools=TOOLS, response_format=SCHEMA)
    assert needs(asked).refusal(Capabilities(context_length=8192), by="b/m") is None
    assert needs(asked).refusal(Capabilities(embeddings=False, insert=False), by="b/m") is None
    assert decoded == []


def test_capabilities_are_limited_by_any_lack() -> None:
    assert not Capabilities().is_limited
    assert not Capabilities(thinking=False, can_load=True).is_limited
    for name in ("chat", "completions", "embeddings", "tools", "vision", "json_schema", "insert"):
        assert dataclasses.replace(Capabilities(), **{name: False}).is_limited
    assert Capabilities(context_length=1).is_limited
