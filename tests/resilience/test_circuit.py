"""Laws of the breaker's state machine, one by one."""

from __future__ import annotations

import pytest

from smartrouter_asgi.exceptions import ConfigurationError
from smartrouter_asgi.resilience.circuit import BUSY_HINT_S, Circuit
from smartrouter_asgi.resilience.policy import BreakerPolicy

POLICY = BreakerPolicy(failure_threshold=3, reset_timeout_s=60.0, half_open_max_attempts=2, sliding_window_size=5)


def feed(circuit: Circuit, outcomes: str, now: float = 0.0) -> None:
    for outcome in outcomes:
        number = circuit.admit(now)
        assert number is not None
        circuit.settle(circuit.epoch, number, outcome == "x", now)


def opened(now: float = 0.0) -> Circuit:
    circuit = Circuit(POLICY, probe_lease_s=30.0)
    feed(circuit, "xxx", now)
    assert circuit.state == "open"
    return circuit


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ("", "closed"),
        ("xx", "closed"),
        ("xxx", "open"),
        ("x.x.x", "open"),  # not consecutive
        ("x...x.x", "closed"),  # the first one slid out
        ("xx...x", "closed"),
        ("." * 50 + "xxx", "open"),
    ],
)
def test_opens_on_so_many_failures_among_the_last_outcomes(outcomes: str, state: str) -> None:
    circuit = Circuit(POLICY)
    feed(circuit, outcomes)
    assert circuit.state == state


def test_failures_counts_what_the_window_holds() -> None:
    circuit = Circuit(POLICY)
    feed(circuit, "xx...")
    assert circuit.failures == 2
    feed(circuit, ".")
    assert circuit.failures == 1
    feed(circuit, "....")
    assert circuit.failures == 0


def test_open_says_what_remains_and_lets_nobody_pass_before() -> None:
    circuit = opened(now=100.0)
    assert circuit.wait_s(110.0) == 50.0
    assert circuit.admit(159.9) is None
    assert circuit.state == "open"
    assert circuit.wait_s(160.0) is None
    assert circuit.admit(160.0) == 1
    assert circuit.state == "half-open"


def test_half_open_flood_lets_exactly_the_probes_through() -> None:
    circuit = opened()
    assert sum(circuit.admit(60.0) is not None for _ in range(1000)) == POLICY.half_open_max_attempts


def test_half_open_closes_only_when_all_probes_succeed() -> None:
    circuit = opened()
    first, second = circuit.admit(60.0), circuit.admit(60.0)
    assert first
    assert second
    circuit.settle(circuit.epoch, first, False, 61.0)
    assert circuit.state == "half-open"
    assert circuit.admit(61.0) is None, "succeeded and unsettled probes share the slots"
    circuit.settle(circuit.epoch, second, False, 62.0)
    assert circuit.state == "closed"
    assert circuit.failures == 0


def test_first_failed_probe_opens_again_and_for_the_whole_timeout() -> None:
    circuit = opened()
    first, second = circuit.admit(60.0), circuit.admit(60.0)
    assert first
    assert second
    epoch = circuit.epoch
    circuit.settle(epoch, first, True, 70.0)
    assert circuit.state == "open"
    assert circuit.wait_s(70.0) == 60.0
    circuit.settle(epoch, second, False, 71.0)
    assert circuit.state == "open", "a stale success closes nothing"
    circuit.settle(epoch, second, True, 90.0)
    assert circuit.wait_s(90.0) == 40.0, "a stale failure does not begin the pause anew"
    assert circuit.stale == 2


def test_released_probe_gives_its_slot_back() -> None:
    circuit = opened()
    first, second = circuit.admit(60.0), circuit.admit(60.0)
    assert first
    assert second
    circuit.settle(circuit.epoch, first, None, 60.0)
    assert circuit.wait_s(60.0) is None
    assert circuit.admit(60.0) is not None
    assert circuit.admit(60.0) is None


def test_probe_older_than_its_lease_loses_its_slot() -> None:
    circuit = opened()
    old = circuit.admit(60.0)
    assert old
    assert circuit.admit(60.0)
    assert circuit.wait_s(60.0) == BUSY_HINT_S
    assert circuit.wait_s(89.5) == 0.5
    assert circuit.wait_s(90.0) is None
    assert circuit.admit(90.0)
    circuit.settle(circuit.epoch, old, False, 91.0)
    assert (circuit.state, circuit.stale) == ("half-open", 1), "its success no longer counts"
    circuit.settle(circuit.epoch, old, True, 91.0)
    assert circuit.state == "open", "its failure does: this is how a hung engine shows itself"


def test_success_within_the_lease_counts_however_late() -> None:
    circuit = opened()
    first, second = circuit.admit(60.0), circuit.admit(60.0)
    assert first
    assert second
    circuit.settle(circuit.epoch, first, False, 89.9)
    circuit.settle(circuit.epoch, second, False, 89.9)
    assert (circuit.state, circuit.stale) == ("closed", 0)


def test_lease_is_two_minutes_unless_said_otherwise() -> None:
    circuit = Circuit(POLICY)
    circuit.move("half-open", 0.0)
    circuit.admit(0.0)
    circuit.admit(0.0)
    assert circuit.wait_s(119.5) == 0.5
    assert circuit.wait_s(120.0) is None


def test_success_after_the_lease_counts_for_nothing_even_when_nobody_took_the_slot() -> None:
    circuit = opened()
    probes = [circuit.admit(60.0), circuit.admit(60.0)]
    for probe in probes:
        assert probe
        circuit.settle(circuit.epoch, probe, False, 90.0)
    assert (circuit.state, circuit.stale) == ("half-open", 2)


@pytest.mark.parametrize(("failed", "state"), [(True, "open"), (False, "half-open")])
def test_end_of_a_probes_stream_never_counts_twice_in_favour(failed: bool, state: str) -> None:
    circuit = opened()
    probe = circuit.admit(60.0)
    assert probe
    circuit.settle(circuit.epoch, probe, False, 60.0)
    circuit.end(circuit.epoch, failed, 61.0)
    assert circuit.state == state


def test_end_of_a_stream_is_an_outcome_of_its_own_while_closed() -> None:
    circuit = Circuit(POLICY)
    feed(circuit, "...")
    for _ in range(3):
        circuit.end(circuit.epoch, True, 0.0)
    assert circuit.state == "open"


def test_end_of_a_stream_of_an_older_epoch_moves_nothing() -> None:
    circuit = Circuit(POLICY)
    epoch = circuit.epoch
    feed(circuit, "xxx")
    circuit.move("closed", 0.0)
    for _ in range(10):
        circuit.end(epoch, True, 0.0)
    assert (circuit.state, circuit.failures, circuit.stale) == ("closed", 0, 10)


@pytest.mark.parametrize(
    "wrong",
    [
        {"failure_threshold": 0},
        {"half_open_max_attempts": 0},
        {"sliding_window_size": 4},
        {"reset_timeout_s": -1.0},
        {"reset_timeout_s": float("nan")},
        {"reset_timeout_s": float("inf")},
        {"slow_call_duration_s": 0.0},
        {"slow_call_duration_s": float("inf")},
        {"slow_call_duration_s": 1.0, "slow_call_rate": 0.0},
        {"slow_call_duration_s": 1.0, "slow_call_rate": 1.1},
        {"slow_call_duration_s": 1.0, "slow_call_rate": float("nan")},
        {"slow_call_duration_s": 1.0, "slow_call_min_calls": 0},
        {"slow_call_duration_s": 1.0, "slow_call_min_calls": 101},
        {"reset_timeout_max_s": 59.0},
        {"reset_timeout_max_s": float("inf")},
        {"reset_timeout_max_s": 60.0, "reset_timeout_s": 0.0},
        {"reset_timeout_max_s": 60.0, "reset_timeout_jitter": -0.1},
        {"reset_timeout_max_s": 60.0, "reset_timeout_jitter": 1.1},
    ],
)
def test_policy_that_could_not_work_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=r"^circuit_breaker: [^A-Z]+$"):
        BreakerPolicy(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "right",
    [
        {"failure_threshold": 1, "half_open_max_attempts": 1},
        {"failure_threshold": 100},
        {"reset_timeout_s": 0.0},
        {"slow_call_duration_s": 0.001},
        {"slow_call_duration_s": 1.0, "slow_call_rate": 0.001},
        {"slow_call_duration_s": 1.0, "slow_call_rate": 1.0},
        {"slow_call_duration_s": 1.0, "slow_call_min_calls": 1},
        {"slow_call_duration_s": 1.0, "slow_call_min_calls": 100},
        {"reset_timeout_max_s": 60.0},
        {"reset_timeout_max_s": 0.001, "reset_timeout_s": 0.001},
        {"reset_timeout_max_s": 60.0, "reset_timeout_jitter": 0.0},
        {"reset_timeout_max_s": 60.0, "reset_timeout_jitter": 1.0},
    ],
)
def test_policy_that_only_just_works_is_accepted(right: dict[str, float]) -> None:
    BreakerPolicy(**right)  # type: ignore[arg-type]


def test_limits_of_what_is_off_are_not_looked_at() -> None:
    BreakerPolicy(failure_threshold=2, sliding_window_size=5, reset_timeout_s=0.0)
