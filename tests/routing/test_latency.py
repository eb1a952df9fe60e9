"""Laws of what is remembered of first tokens."""

from __future__ import annotations

import random

import pytest

from smartrouter_asgi.events import AttemptFinished
from smartrouter_asgi.routing import latency
from smartrouter_asgi.routing.latency import KEPT_SAMPLES, FirstTokenTimes


def stream(first_token_s: float | None, *, model: str = "m", **fields) -> AttemptFinished:
    given = {"operation": "stream", "number": 1, "outcome": "ok", "duration_s": 9.0, **fields}
    return AttemptFinished(backend="b", model=model, first_token_s=first_token_s, **given)


def times(*samples_s: float) -> FirstTokenTimes:
    known = FirstTokenTimes()
    for sample_s in samples_s:
        known.on_event(stream(sample_s))
    return known


@pytest.mark.parametrize(("q", "expected"), [(0.0, 1), (0.5, 50), (0.95, 95), (0.951, 96), (1.0, 100)])
def test_a_quantile_is_a_time_that_was_seen(q: float, expected: int):
    """The nearest rank, whatever the order in which the samples came."""
    samples = [float(n) for n in range(1, 101)]
    random.Random(3).shuffle(samples)
    assert times(*samples).quantile_s("b/m", q) == expected


def test_few_samples_tell_nothing():
    known = times(*[1.0] * 19)
    assert known.quantile_s("b/m") is None
    assert known.quantile_s("b/m", min_samples=19) == 1.0
    assert known.quantile_s("b/other", min_samples=0) is None
    known.on_event(stream(1.0))
    assert known.quantile_s("b/m") == 1.0


def test_a_new_sample_counts_and_an_old_one_is_forgotten():
    """What was worked out holds until the next sample; the ring holds the last hundred."""
    known = times(*[1.0] * KEPT_SAMPLES)
    assert known.quantile_s("b/m", 1.0) == 1.0
    known.on_event(stream(5.0))
    assert known.quantile_s("b/m", 1.0) == 5.0
    for _ in range(KEPT_SAMPLES):
        known.on_event(stream(2.0))
    assert known.quantile_s("b/m", 1.0) == known.quantile_s("b/m", 0.0) == 2.0


def test_only_streams_that_began_count():
    """Also one that was cancelled later; a plain answer or a failure has no first token."""
    known = FirstTokenTimes()
    known.on_event(stream(None, outcome="first_token_timeout"))
    known.on_event(stream(4.0, operation="chat"))
    assert known.quantile_s("b/m", min_samples=1) is None
    known.on_event(stream(3.0, outcome="cancelled"))
    assert known.quantile_s("b/m", min_samples=1) == 3.0


def test_deployments_are_apart_and_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(latency, "MAX_DEPLOYMENTS", 2)
    known = FirstTokenTimes()
    for number, model in enumerate("abc"):
        known.on_event(stream(float(number), model=model))
    assert [known.quantile_s(f"b/{model}", min_samples=1) for model in "abc"] == [None, 1.0, 2.0]
