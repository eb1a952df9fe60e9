"""What answers amount to."""

from __future__ import annotations

import json

import pytest

from smartrouter_asgi.bench.client import Answer
from smartrouter_asgi.bench.reading import SHOWN, failed, read

from ..harness.engines import DONE, ROLE, chunk
from .answers import OLLAMA, OPENAI, answer, line

USAGE = b'data: {"choices": [], "usage": {"completion_tokens": 5}}\n\n'


def test_the_first_token_is_the_first_event_with_content():
    """A role alone is none, wherever the bytes of an event are cut."""
    whole = chunk("Hel")
    found = read(
        answer(
            (10.1, ROLE),
            (10.2, whole[:9]),
            (10.5, whole[9:]),
            (10.75, chunk("lo") + chunk("!")),
            (11.0, chunk(finish="stop") + USAGE + DONE),
        ),
        OPENAI,
    )
    assert found.failure == ""
    assert found.ttft_s == 0.5
    assert found.total_s == 10
    assert found.gaps_s == (0.25, 0)
    assert (found.events, found.tokens) == (3, 5)
    assert found.spoken_s == 0.25


def test_an_engine_that_tells_no_usage_leaves_the_events():
    found = read(answer((11.0, chunk("Hi")), (12.0, DONE)), OPENAI)
    assert (found.events, found.tokens) == (1, None)


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "x"},
        {"reasoning_content": "x"},
        {"reasoning": "x"},
        {"tool_calls": [{"index": 0}]},
    ],
)
def test_whatever_the_model_says_is_content(delta: dict[str, object]):
    data = b"data: " + json.dumps({"choices": [{"delta": delta}]}).encode() + b"\n\n"
    assert read(answer((11.0, data), (12.0, DONE)), OPENAI).ttft_s == 1


def test_ollama_in_its_own_language():
    found = read(
        answer(
            (10.5, line(message={"role": "assistant", "content": ""}, done=False)),
            (11.0, line(message={"thinking": "hm"}, done=False) + line(message={"content": "Hi"}, done=False)),
            (12.0, line(message={"content": ""}, done=True, eval_count=7)),
        ),
        OLLAMA,
    )
    assert (found.ttft_s, found.gaps_s, found.tokens, found.failure) == (1.0, (0.0,), 7, "")


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (answer((11.0, b'{"error": {"message": "no such\\nmodel"}}'), status=404), "status 404: no such model"),
        (answer((11.0, b'{"error": "no such model"}'), status=404), "status 404: no such model"),
        (answer((11.0, b"<html>"), status=502), "status 502: <html>"),
        (answer(status=500), "status 500: an empty answer"),
        (answer((11.0, chunk("Hi"))), "the stream ended too early: cut off"),
        (answer((11.0, b'{"choices": []}')), "the stream ended too early"),
        (answer((11.0, b"")), "the stream ended too early: an empty answer"),
        (answer((11.0, ROLE + DONE)), "an answer without content"),
        (answer((11.0, chunk("Hi") + b'data: {"error": {"message": "out of memory"}}\n\n')), "out of memory"),
        (answer((11.0, chunk("Hi") + b"error: out of memory\n\n")), "out of memory"),
        (answer((11.0, b"data: {\n\n")), "an event that is no JSON"),
        (answer((11.0, b"data: 7\n\n")), "an event that is no JSON object"),
        (answer((11.0, b"data: " + b"x" * 1_100_000 + b"\n\n")), "event over"),
    ],
)
def test_what_does_not_count_says_why(told: Answer, reason: str):
    assert reason in read(told, OPENAI).failure


def test_an_error_of_ollamas_in_the_middle():
    told = answer((11.0, line(message={"content": "Hi"}, done=False)), (12.0, line(error="runner stopped")))
    assert "runner stopped" in read(told, OLLAMA).failure


def test_no_reason_holds_the_key_or_goes_on_for_ever():
    echoed = answer((11.0, b'{"error": {"message": "bad key sk-secret-word"}}'), status=401)
    assert read(echoed, OPENAI).failure == "status 401: bad key [key]"
    assert len(failed("x" * 5000).failure) == SHOWN
