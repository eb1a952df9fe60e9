"""Laws of the breaker's state machine, one by one and against a model that keeps everything."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from smartrouter_asgi.exceptions import ConfigurationError
from smartrouter_asgi.resilience.circuit import BUSY_HINT_S, BreakerPolicy, Circuit

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
    ],
)
def test_policy_that_could_not_work_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="circuit_breaker"):
        BreakerPolicy(**wrong)  # type: ignore[arg-type]


class CircuitAgainstModel(RuleBasedStateMachine):
    """The model keeps every outcome and every probe, and recomputes the state from them."""

    permits = Bundle("permits")
    lease = 30.0

    def __init__(self) -> None:
        super().__init__()
        self.circuit = Circuit(POLICY, probe_lease_s=self.lease)
        self.now = 0.0
        self.state = "closed"
        self.epoch = 0
        self.window: list[bool] = []
        self.opened = 0.0
        self.probes: dict[int, tuple[float, str]] = {}
        self.stale = 0

    def go(self, state: str) -> None:
        self.state, self.window, self.probes = state, [], {}
        self.epoch += 1
        if state == "open":
            self.opened = self.now

    def taken(self) -> int:
        return sum(
            fate == "succeeded" or (fate == "running" and self.now < issued + self.lease)
            for issued, fate in self.probes.values()
        )

    def record(self, failed: bool) -> None:
        self.window.append(failed)
        if sum(self.window[-POLICY.sliding_window_size :]) >= POLICY.failure_threshold:
            self.go("open")

    @rule(seconds=st.sampled_from([0.25, 1.0, 10.0, 30.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=permits)
    def ask(self) -> tuple[int, int] | None:
        waits = self.circuit.wait_s(self.now)
        number = self.circuit.admit(self.now)
        assert (waits is None) == (number is not None)
        assert waits is None or waits > 0
        if self.state == "open" and self.now >= self.opened + POLICY.reset_timeout_s:
            self.go("half-open")
        if self.state == "closed":
            assert number == 0
        elif self.state == "half-open" and self.taken() < POLICY.half_open_max_attempts:
            assert number
            assert number not in self.probes
            self.probes[number] = (self.now, "running")
        else:
            assert number is None
        return None if number is None else (self.epoch, number)

    @rule(permit=permits, failed=st.sampled_from([True, True, False, False, None]))
    def settle(self, permit: tuple[int, int] | None, failed: bool | None) -> None:
        if permit is None:
            return
        epoch, number = permit
        self.circuit.settle(epoch, number, failed, self.now)
        if epoch != self.epoch:
            self.stale += failed is not None
        elif self.state == "closed":
            if failed is not None:
                self.record(failed)
        elif failed:
            self.go("open")
        else:
            issued, fate = self.probes[number]
            held = fate == "running" and self.now < issued + self.lease
            if held:
                self.probes[number] = (issued, "released" if failed is None else "succeeded")
            elif failed is False:
                self.stale += 1
            if sum(fate == "succeeded" for _, fate in self.probes.values()) >= POLICY.half_open_max_attempts:
                self.go("closed")

    @rule(permit=permits, failed=st.booleans())
    def stream_ends(self, permit: tuple[int, int] | None, failed: bool) -> None:
        if permit is None:
            return
        self.circuit.end(permit[0], failed, self.now)
        if permit[0] != self.epoch:
            self.stale += 1
        elif self.state == "closed":
            self.record(failed)
        elif failed:
            self.go("open")

    @rule(state=st.sampled_from(["closed", "open", "half-open"]))
    def somebody_forces(self, state: str) -> None:
        self.circuit.move(state, self.now)  # type: ignore[arg-type]
        self.go(state)

    @invariant()
    def agrees(self) -> None:
        assert self.circuit.state == self.state
        assert self.circuit.epoch == self.epoch
        assert self.circuit.stale == self.stale
        assert self.circuit.failures == sum(self.window[-POLICY.sliding_window_size :])
        assert self.taken() <= POLICY.half_open_max_attempts


TestCircuitAgainstModel = CircuitAgainstModel.TestCase
TestCircuitAgainstModel.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
