"""OpenAI to Ollama and back keeps the meaning: of a conversation, of an answer, of a turn that is sent again."""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from smartrouter_asgi.wire.call import parse_call
from smartrouter_asgi.wire.ollama_answer import translate_answer
from smartrouter_asgi.wire.ollama_options import Residency
from smartrouter_asgi.wire.ollama_request import translate_request
from smartrouter_asgi.wire.ollama_stream import OllamaStreamCodec

JSON = dict[str, Any]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
arguments = st.dictionaries(texts, values, max_size=3)
images = st.binary(min_size=1, max_size=9).map(lambda data: base64.b64encode(data).decode())


@st.composite
def calls(draw: st.DrawFn, number: int) -> list[JSON]:
    """Tool calls of one turn, with ids that no other turn has."""
    return [
        {
            "id": f"call_{number}_{position}",
            "type": "function",
            "function": {"name": draw(names), "arguments": json.dumps(draw(arguments))},
        }
        for position in range(draw(st.integers(0, 2)))
    ]


@st.composite
def user_turns(draw: st.DrawFn) -> JSON:
    """Text, or parts of text and images in any order."""
    if draw(st.booleans()):
        return {"role": "user", "content": draw(texts)}
    parts: list[JSON] = [{"type": "text", "text": text} for text in draw(st.lists(texts, max_size=3))]
    for data in draw(st.lists(images, max_size=2)):
        part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
        parts.insert(draw(st.integers(0, len(parts))), part)
    return {"role": "user", "content": parts}


@st.composite
def conversations(draw: st.DrawFn) -> list[JSON]:
    """Turns as clients send them: a system turn perhaps, then users, assistants that think and call, tool results."""
    turns: list[JSON] = []
    if draw(st.booleans()):
        turns.append({"role": draw(st.sampled_from(["system", "developer"])), "content": draw(texts)})
    for number in range(draw(st.integers(1, 3))):
        turns.append(draw(user_turns()))
        assistant: JSON = {"role": "assistant", "content": draw(texts)}
        if draw(st.booleans()):
            assistant["reasoning_content"] = draw(texts.filter(bool))
        made = draw(calls(number))
        if made:
            assistant["tool_calls"] = made
            assistant["content"] = draw(st.none() | texts)
        turns.append(assistant)
        turns.extend({"role": "tool", "tool_call_id": call["id"], "content": draw(texts)} for call in made)
    return turns


def to_ollama(body: JSON) -> JSON:
    call = parse_call("chat", json.dumps({"model": "asked", **body}).encode())
    sent: JSON = json.loads(translate_request(call, model="m:latest", residency=Residency()).body)
    return sent


def back(message: JSON) -> JSON:
    """An Ollama message as OpenAI has it, by the reverse table of the facts, independent of the code under test."""
    turn: JSON = {"role": message["role"], "content": message["content"]}
    if message.get("images"):
        turn["images"] = message["images"]
    if message.get("thinking"):
        turn["reasoning_content"] = message["thinking"]
    if message.get("tool_calls"):
        turn["tool_calls"] = [
            {"id": call["id"], "type": "function", "function": call["function"]} for call in message["tool_calls"]
        ]
    if message["role"] == "tool":
        turn["tool_call_id"], turn["name"] = message["tool_call_id"], message["tool_name"]
    return turn


def meaning(turn: JSON, tool_names: dict[str, str]) -> JSON:
    """An OpenAI message freed of its spellings: developer is system, parts are texts and images, arguments JSON."""
    content, pictures = turn["content"], []
    if isinstance(content, list):
        pictures = [p["image_url"]["url"].partition(",")[2] for p in content if p["type"] == "image_url"]
        content = "\n".join(p["text"] for p in content if p["type"] == "text")
    found: JSON = {"role": "system" if turn["role"] == "developer" else turn["role"], "content": content or ""}
    if pictures:
        found["images"] = pictures
    if "reasoning_content" in turn:
        found["reasoning_content"] = turn["reasoning_content"]
    if "tool_calls" in turn:
        found["tool_calls"] = [
            {**c, "function": {**c["function"], "arguments": json.loads(c["function"]["arguments"])}}
            for c in turn["tool_calls"]
        ]
        tool_names.update({call["id"]: call["function"]["name"] for call in turn["tool_calls"]})
    if turn["role"] == "tool":
        found["tool_call_id"], found["name"] = turn["tool_call_id"], tool_names[turn["tool_call_id"]]
    return found


@given(conversations())
@settings(max_examples=150, deadline=None)
def test_a_conversation_keeps_its_meaning(turns: list[JSON]):
    """Every text, image, thought, call (id, name, arguments) and result is there, in its turn, and nothing else is."""
    known: dict[str, str] = {}
    assert [back(message) for message in to_ollama({"messages": turns})["messages"]] == [
        meaning(turn, known) for turn in turns
    ]


numbers = st.floats(-2, 2, allow_nan=False) | st.integers(0, 2)
sampling = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("temperature", "top_p", "frequency_penalty", "presence_penalty", "min_p"), numbers),
        "seed": st.integers(-(2**31), 2**31),
        "top_k": st.integers(1, 100),
        "max_completion_tokens": st.integers(1, 10**6),
        "stop": texts | st.lists(texts, min_size=1, max_size=4),
    },
)


@given(sampling)
@settings(max_examples=100, deadline=None)
def test_sampling_keeps_its_numbers(fields: JSON):
    """What is given arrives with its value, what is not given is not sent: the model's own defaults hold."""
    options = to_ollama({"messages": [{"role": "user", "content": "x"}], **fields}).get("options", {})
    limit = {"max_completion_tokens": options.pop("num_predict")} if "num_predict" in options else {}
    stop = fields.get("stop")
    assert {**options, **limit} == {**fields, **({"stop": [stop]} if isinstance(stop, str) else {})}


@st.composite
def answers(draw: st.DrawFn) -> JSON:
    """What Ollama says, as one message."""
    said: JSON = {"role": "assistant", "content": draw(texts)}
    if draw(st.booleans()):
        said["thinking"] = draw(texts.filter(bool))
    called = [
        {"id": f"call_{position}", "function": {"name": draw(names), "arguments": draw(arguments)}}
        for position in range(draw(st.integers(0, 2)))
    ]
    if called:
        said["tool_calls"] = called
    return said


def whole(said: JSON) -> JSON:
    line = {"model": "m", "created_at": "2026-01-01T00:00:00Z", "message": said, "done": True, "done_reason": "stop"}
    body, _ = translate_answer("b", "chat", json.dumps(line).encode(), answer_id="chatcmpl-1")
    choice: JSON = json.loads(body)["choices"][0]
    return choice


@given(answers())
@settings(max_examples=150, deadline=None)
def test_an_answer_sent_back_is_what_the_engine_said(said: JSON):
    """Ollama to OpenAI and, as the next request's history, to Ollama again."""
    turn = whole(said)["message"]
    returned = to_ollama({"messages": [{"role": "user", "content": "x"}, turn]})["messages"][1]
    assert returned == said


@given(answers(), st.data())
@settings(max_examples=150, deadline=None)
def test_a_stream_says_what_the_plain_answer_says(said: JSON, data: st.DataObject):
    """However the engine spreads its answer over lines: joined by the rules for OpenAI's deltas it is the same."""
    lines: list[JSON] = [{"thinking": part} for part in pieces(said.get("thinking", ""), data)]
    lines += [{"content": part} for part in pieces(said["content"], data)]
    lines += [{"tool_calls": [call]} for call in said.get("tool_calls", ())]
    codec = OllamaStreamCodec("b", answer_id="chatcmpl-1")
    stamp = {"model": "m", "created_at": "2026-01-01T00:00:00Z"}
    sent = [{**stamp, "message": {"role": "assistant", "content": "", **line}, "done": False} for line in lines]
    sent.append({**stamp, "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"})
    told = [p for line in sent for p in codec.feed(json.dumps(line).encode() + b"\n")] + codec.finish()
    message: JSON = {"role": None, "content": "", "refusal": None}
    reason = None
    for event in b"".join(piece.data for piece in told).split(b"\n\n"):
        if not event or event == b"data: [DONE]":
            continue
        choice = json.loads(event.removeprefix(b"data: "))["choices"][0]
        delta, reason = choice["delta"], choice["finish_reason"]
        message["role"] = delta.get("role", message["role"])
        message["content"] += delta.get("content") or ""
        if "reasoning_content" in delta:
            message["reasoning_content"] = message.get("reasoning_content", "") + delta["reasoning_content"]
        for call in delta.get("tool_calls", ()):
            made = message.setdefault("tool_calls", [])
            assert call.pop("index") == len(made)
            made.append(call)
    plain = whole(said)
    assert message == {**plain["message"], "content": plain["message"]["content"] or ""}
    assert reason == plain["finish_reason"]


def pieces(text: str, data: st.DataObject) -> list[str]:
    """The text cut in two somewhere."""
    cut = data.draw(st.integers(0, len(text)))
    return [part for part in (text[:cut], text[cut:]) if part]
