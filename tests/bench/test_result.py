"""What a benchmark says of its measurements, as figures and in words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from smartrouter_asgi.bench.plan import Plan
from smartrouter_asgi.bench.report import report
from smartrouter_asgi.bench.run import Measured
from smartrouter_asgi.bench.terminal import lines
from smartrouter_asgi.bench.words import headline

from .made_up import KEY, measured, result


def text(found: Any) -> str:
    return "\n".join(line for line, _ in lines(found))


def test_a_difference_is_told_with_its_interval():
    found = result(measured(added_s=0.001))
    first = found["added"]["ttft_p50_ms"]
    assert first["low"] < 1 < first["high"]
    assert first["verdict"] == "more"
    assert headline(found).startswith(f"The router adds {first['value']:.2f} ms to the time to first token")
    assert "routed takes longer" in text(found)


def test_what_is_within_noise_is_called_so():
    found = result(measured(added_s=0.0))
    assert found["added"]["ttft_p50_ms"]["verdict"] == "noise"
    assert headline(found).startswith("No added time to the first token was shown")
    assert "within noise" in text(found)


def test_a_router_may_be_faster():
    assert " ms off the time to first token" in headline(result(measured(added_s=-0.001)))


def test_few_pairs_say_nothing():
    found = result(measured(pairs=3))
    assert "too few to tell a difference from noise" in headline(found)
    assert "too few rounds to say (3; it takes 6)" in text(found)


def test_what_runs_together_is_one_observation():
    """Hundreds of requests at a time are slow together: a difference of one round is no difference."""
    found = result(measured(pairs=192, at_a_time=64, shared_s=0.01), plan=Plan(rounds=3, concurrency=64))
    first = found["added"]["ttft_p50_ms"]
    assert (first["pairs"], first["rounds"], first["low"], first["verdict"]) == (192, 3, None, "few")
    assert headline(found).startswith("192 pairs in 3 rounds: too few to tell a difference from noise")
    assert "counts once" in text(found)
    assert result(measured(pairs=80, at_a_time=8))["added"]["ttft_p50_ms"]["verdict"] == "more"


def test_a_tail_takes_more_rounds_than_a_median():
    added = result(measured(pairs=19))["added"]
    assert added["ttft_p50_ms"]["verdict"] == "more"
    assert (added["ttft_p95_ms"]["verdict"], added["ttft_p95_ms"]["needs"]) == ("few", 20)
    assert result(measured(pairs=20))["added"]["ttft_p95_ms"]["low"] is not None


def test_names_and_reasons_are_printable():
    """An engine's words may end up on a terminal, in a file, in a page."""
    found = result(measured(failing=("status 500: \x1b[31m \u202e \ud800 red",)), model="m\ud800\x1b]0;x\x07")
    shown = json.dumps(found, ensure_ascii=False) + text(found)
    assert not {"\x1b", "\x07", "\u202e", "\ud800"} & set(shown)
    report(found).encode()


def test_the_figures_are_those_of_the_samples():
    found = result(measured(pairs=10))
    direct = found["sides"]["direct"]
    assert (direct["requests"], direct["failed"], found["pairs"]) == (10, 0, 10)
    assert 50 <= direct["ttft_ms"]["p50"] <= 60
    assert direct["tokens"] == 240
    assert direct["gap_ms"]["p50"] < direct["gap_ms"]["p95"] < direct["gap_ms"]["p99"] <= direct["gap_ms"]["high"]
    took_s = sum(sample["total_ms"] for sample in found["samples"] if sample["side"] == "direct") / 1000
    assert direct["tokens_per_s"] == pytest.approx(240 / took_s, rel=0.01)


def test_tokens_are_counted_one_way_on_both_sides():
    """If one answer came without usage, events are counted for all, and that is said."""
    found = result(measured(pairs=6, tokens=False))
    assert found["tokens_from"] == "events"
    assert found["sides"]["direct"]["tokens"] == 6 * 21
    assert "events: the engine tells no usage" in text(found)
    assert "the engine's own count" in text(result(measured(pairs=6)))


def test_failures_are_counted_by_reason_and_left_out_of_pairs():
    found = result(measured(pairs=8, failing=("status 500: boom", "status 500: boom", "no end within 5 s")))
    assert found["failures"] == [
        {"side": "routed", "reason": "status 500: boom", "count": 2},
        {"side": "routed", "reason": "no end within 5 s", "count": 1},
    ]
    assert found["pairs"] == 8
    assert found["sides"]["routed"] | {"requests": 11, "failed": 3} == found["sides"]["routed"]
    assert "failed, routed: 2 x status 500: boom" in text(found)


def test_one_side_that_always_fails_leaves_nothing_to_compare():
    found = result(measured(pairs=0, failing=("status 500: boom",)))
    assert found["added"] is None
    assert "nothing can be compared" in headline(found)
    assert "0 of 1" in text(found)


def test_what_was_cut_short_says_so():
    assert "stopped early" in text(result(measured(pairs=6), complete=False))
    assert result(Measured())["pairs"] == 0


def test_no_key_and_no_prompt_get_out():
    found = result(measured(failing=(f"status 401: bad key {KEY}",)), plan=Plan(prompt="my private question"))
    shown = json.dumps(found) + text(found)
    assert KEY not in shown
    assert "my private question" not in shown
    assert found["plan"]["prompt"] == "19 characters"


def test_the_method_is_told_as_it_was():
    assert "`smartrouter-asgi serve` in a process of its own" in text(result())
    assert "one that ran already" in text(result(own=False))
    assert "Ollama's native API" in text(result(type="ollama")).replace("\n  ", " ")
    assert "prompt cache favours neither" in text(result())
