"""What is asked and in which order."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from smartrouter_asgi.bench.plan import SIDES, Plan, request_body, rounds_needed, schedule


def test_each_side_is_first_equally_often_and_in_no_fixed_pattern():
    rounds = list(schedule(Plan(rounds=100, warmup=0)))
    assert Counter(turn.order[0] for turn in rounds) == {"direct": 50, "routed": 50}
    assert all(sorted(turn.order) == sorted(SIDES) for turn in rounds)
    begins = [turn.order[0] for turn in rounds[::2]]
    assert len(set(begins)) == 2
    assert len({tuple(begins[n : n + 3]) for n in range(0, 48, 3)}) > 2


def test_warm_ups_come_first_and_have_numbers_below_zero():
    assert [turn.number for turn in schedule(Plan(rounds=3, warmup=2))] == [-2, -1, 0, 1, 2]


def test_no_prompt_comes_twice():
    """Neither within a pair nor between rounds or connections: a prompt cache knows none of them."""
    plan = Plan(rounds=50, concurrency=4)
    marks = [mark for turn in schedule(plan) for side in turn.marks for mark in side]
    assert len(marks) == len(set(marks)) == 2 * 4 * (50 + plan.warmup)
    prompts = {json.loads(request_body(plan, "m", mark))["messages"][0]["content"][:14] for mark in marks}
    assert len(prompts) == len(marks)


def test_a_seed_gives_the_same_run_again():
    assert list(schedule(Plan(seed=7))) == list(schedule(Plan(seed=7)))
    assert list(schedule(Plan(seed=7))) != list(schedule(Plan(seed=8)))


@pytest.mark.parametrize(("requests", "concurrency", "rounds"), [(20, 1, 20), (20, 8, 3), (1, 8, 1)])
def test_requests_are_rounded_up_to_whole_rounds(requests: int, concurrency: int, rounds: int):
    assert rounds_needed(requests, concurrency) == rounds


def test_both_languages_ask_for_the_same():
    plan = Plan(max_tokens=9, prompt="Say it.")
    openai = json.loads(request_body(plan, "m", "abc"))
    ollama = json.loads(request_body(plan, "m", "abc", "ollama"))
    assert openai["messages"] == ollama["messages"] == [{"role": "user", "content": "[abc] Say it."}]
    assert openai["stream"] is ollama["stream"] is True
    assert openai["max_tokens"] == ollama["options"]["num_predict"] == 9
    assert openai["stream_options"] == {"include_usage": True}
