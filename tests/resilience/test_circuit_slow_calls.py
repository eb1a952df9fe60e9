"""Laws of the slow-call rate."""

from __future__ import annotations

import pytest

from smartrouter_asgi.resilience.circuit import Circuit
from smartrouter_asgi.resilience.policy import BreakerPolicy

SLOW_S = 2.0


def policy(**changes: float) -> BreakerPolicy:
    given: dict[str, float] = {
        "failure_threshold": 3,
        "half_open_max_attempts": 2,
        "sliding_window_size": 6,
        "slow_call_duration_s": SLOW_S,
        "slow_call_rate": 0.5,
        "slow_call_min_calls": 4,
    }
    return BreakerPolicy(**given | changes)  # type: ignore[arg-type]


def feed(circuit: Circuit, outcomes: str) -> str:
    """Tell slow (s), fast (f) and untimed (.) successes and failures (x); return those it took to leave `closed`."""
    for count, outcome in enumerate(outcomes, 1):
        first_token_s = {"s": SLOW_S, "f": SLOW_S - 0.01}.get(outcome)
        circuit.settle(circuit.epoch, 0, outcome == "x", 0.0, first_token_s)
        if circuit.state != "closed":
            return outcomes[:count]
    return ""


@pytest.mark.parametrize(
    ("outcomes", "opened_by"),
    [
        ("sss", ""),  # too few to say anything
        ("ssss", "ssss"),
        ("ssff", "ssff"),  # half of four, and it is the fourth that makes them enough
        ("sfff", ""),
        ("fffffs", ""),
        ("ffssff", "ffss"),
        ("ss..s.s", ""),  # never four with a time among six
        ("sss...", ""),
        ("fff.sss", "fff.sss"),  # the first fast one slid out: three of five
        ("sffffffss", ""),  # the first slow one slid out: two of six
        ("xsxsss", "xsxsss"),  # a failure told no time, and is none of the slow ones
        ("xsx.x", "xsx.x"),  # enough failures open it as ever
    ],
)
def test_opens_on_the_share_of_slow_ones_among_the_outcomes_that_told_a_time(outcomes: str, opened_by: str) -> None:
    assert feed(Circuit(policy()), outcomes) == opened_by


def test_share_is_judged_after_every_outcome_since_each_moves_the_window() -> None:
    circuit = Circuit(policy(slow_call_rate=0.75))
    assert feed(circuit, "ffsss.") == ""
    assert feed(circuit, ".") == ".", "a fast one slid out: three of four"


def test_share_is_met_exactly_where_floats_round() -> None:
    circuit = Circuit(policy(sliding_window_size=100, slow_call_rate=0.07, slow_call_min_calls=100))
    assert 0.07 * 100 > 7
    assert feed(circuit, "s" * 7 + "f" * 93) == "s" * 7 + "f" * 93


def test_off_nothing_is_slow() -> None:
    circuit = Circuit(BreakerPolicy())
    for _ in range(1000):
        circuit.settle(circuit.epoch, 0, False, 0.0, 1e9)
    assert circuit.state == "closed"


def half_open(policy: BreakerPolicy) -> tuple[Circuit, int]:
    circuit = Circuit(policy, probe_lease_s=30.0)
    circuit.move("half-open", 0.0)
    probe = circuit.admit(0.0)
    assert probe
    return circuit, probe


@pytest.mark.parametrize(("first_token_s", "state"), [(SLOW_S, "open"), (1.0, "half-open"), (None, "half-open")])
def test_slow_success_of_a_probe_is_a_failure(first_token_s: float | None, state: str) -> None:
    circuit, probe = half_open(policy())
    circuit.settle(circuit.epoch, probe, False, 5.0, first_token_s)
    assert circuit.state == state


def test_slow_success_of_a_probe_counts_for_it_when_the_criterion_is_off() -> None:
    circuit, probe = half_open(BreakerPolicy(half_open_max_attempts=1))
    circuit.settle(circuit.epoch, probe, False, 5.0, 1e9)
    assert circuit.state == "closed"


def test_slow_success_of_a_probe_past_its_lease_still_speaks_against_the_backend() -> None:
    circuit, probe = half_open(policy())
    circuit.settle(circuit.epoch, probe, False, 31.0, 31.0)
    assert circuit.state == "open"


def test_slow_calls_of_an_older_epoch_move_nothing() -> None:
    circuit = Circuit(policy())
    epoch = circuit.epoch
    circuit.move("open", 0.0)
    circuit.move("closed", 0.0)
    for _ in range(10):
        circuit.settle(epoch, 0, False, 0.0, SLOW_S)
    assert (circuit.state, circuit.stale) == ("closed", 10)


@pytest.mark.parametrize(("outcomes", "opened_by"), [("sss", ""), ("sfff", ""), ("ssfs", "ssfs")])
def test_opening_begins_with_an_empty_window(outcomes: str, opened_by: str) -> None:
    circuit = Circuit(policy(slow_call_rate=0.75))
    assert feed(circuit, "ssss")
    circuit.move("closed", 0.0)
    assert feed(circuit, outcomes) == opened_by


def test_memory_is_bounded_by_the_window() -> None:
    circuit = Circuit(policy(slow_call_rate=1.0))
    feed(circuit, "sssf" * 1000)
    window = circuit._window
    assert max(len(window._timed), len(window._slow), len(window._failed)) <= 6
    feed(circuit, "." * 6)
    assert not window._timed
    assert not window._slow


def test_success_of_which_no_time_is_wanted_is_remembered_by_nothing_but_a_number() -> None:
    circuit = Circuit(BreakerPolicy())
    for _ in range(1000):
        circuit.settle(circuit.epoch, 0, False, 0.0, 1.0)
    window = circuit._window
    assert (window.outcomes, len(window._timed), len(window._slow)) == (1000, 0, 0)
