"""Laws of the escalating open time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from smartrouter_asgi.resilience.circuit import Circuit
from smartrouter_asgi.resilience.pause import OpenPause
from smartrouter_asgi.resilience.policy import BreakerPolicy

POLICY = BreakerPolicy(
    failure_threshold=1,
    half_open_max_attempts=1,
    reset_timeout_s=60.0,
    reset_timeout_max_s=600.0,
    sliding_window_size=5,
)


class Driven:
    """A circuit, its time, and chance that always says `drawn`."""

    def __init__(self, policy: BreakerPolicy = POLICY, drawn: float = 0.0) -> None:
        self.now = 0.0
        self.draws = 0
        self.drawn = drawn
        self.circuit = Circuit(policy, random=self.draw)

    def draw(self) -> float:
        self.draws += 1
        return self.drawn

    def fail(self) -> float:
        """Fail an attempt, which opens it; return for how long."""
        number = self.circuit.admit(self.now)
        assert number is not None
        self.circuit.settle(self.circuit.epoch, number, True, self.now)
        return self.wait_s()

    def recover(self) -> None:
        """Sit out the open time and succeed with the probe, which closes it."""
        self.now += self.wait_s()
        probe = self.circuit.admit(self.now)
        assert probe
        self.circuit.settle(self.circuit.epoch, probe, False, self.now)
        assert self.circuit.state == "closed"

    def fail_probe(self) -> float:
        """Sit out the open time and fail with the probe; return how long it is open now."""
        self.now += self.wait_s()
        return self.fail()

    def wait_s(self) -> float:
        wait_s = self.circuit.wait_s(self.now)
        assert wait_s is not None
        return wait_s


def test_each_failed_probe_doubles_the_open_time_up_to_the_maximum() -> None:
    driven = Driven()
    assert [driven.fail()] + [driven.fail_probe() for _ in range(6)] == [60, 120, 240, 480, 600, 600, 600]


def test_off_every_open_time_is_the_reset_timeout_exactly() -> None:
    driven = Driven(replace(POLICY, reset_timeout_max_s=None), drawn=0.9)
    assert [driven.fail()] + [driven.fail_probe() for _ in range(4)] == [60] * 5
    assert driven.draws == 0


def test_flapping_backend_escalates_and_one_that_stayed_well_starts_anew() -> None:
    driven = Driven()
    assert driven.fail() == 60
    for well_s, expected in [(0.0, 120), (59.0, 240), (60.0, 60), (1.0, 120), (3600.0, 60)]:
        driven.recover()
        driven.now += well_s
        assert driven.fail() == expected


def test_closed_time_counts_in_one_piece_only() -> None:
    driven = Driven()
    driven.fail()
    driven.recover()
    driven.now += 40
    assert driven.fail() == 120
    driven.recover()
    driven.now += 40
    assert driven.fail() == 240


def test_jitter_only_lengthens_and_spares_the_first_opening() -> None:
    driven = Driven(drawn=0.5)
    waits = [driven.fail()] + [driven.fail_probe() for _ in range(4)]
    assert waits == pytest.approx([60, 126, 252, 504, 630], rel=1e-12)
    assert driven.draws == 4, "one draw for each opening, not one for each question"


def test_jitter_spreads_what_would_probe_in_step() -> None:
    workers = [Driven(drawn=worker / 8) for worker in range(8)]
    for worker in workers:
        worker.fail()
    waits = [worker.fail_probe() for worker in workers]
    assert len(set(waits)) == 8
    assert min(waits) == 120
    assert max(waits) < 132


def test_jitter_is_drawn_anew_for_a_row_begun_anew() -> None:
    driven = Driven(drawn=0.5)
    driven.fail()
    driven.fail_probe()
    driven.recover()
    driven.now += 60
    assert driven.fail() == 60


def test_maximum_equal_to_the_reset_timeout_is_jitter_alone() -> None:
    driven = Driven(replace(POLICY, reset_timeout_max_s=60.0), drawn=0.5)
    assert [driven.fail(), driven.fail_probe(), driven.fail_probe()] == pytest.approx([60, 63, 63])


def test_late_outcomes_lengthen_no_open_period() -> None:
    driven = Driven()
    circuit = driven.circuit
    permits = [(circuit.epoch, circuit.admit(0.0)) for _ in range(20)]
    driven.fail()
    driven.now += 10
    for epoch, number in permits:
        assert number is not None
        circuit.settle(epoch, number, True, driven.now)
        circuit.end(epoch, True, driven.now)
    assert circuit.stale == 40
    assert driven.wait_s() == 50
    assert driven.fail_probe() == 120, "nor the next one"


def test_forced_opening_is_like_any_other_and_an_open_circuit_begins_the_same_pause_again() -> None:
    driven = Driven(drawn=0.5)
    driven.fail()
    assert driven.fail_probe() == pytest.approx(126)
    driven.now += 100
    driven.circuit.move("open", driven.now)
    assert driven.wait_s() == pytest.approx(126)
    assert driven.draws == 1
    driven.circuit.move("closed", driven.now)
    driven.circuit.move("open", driven.now)
    assert driven.wait_s() == pytest.approx(252)


def test_closed_time_ends_the_row_even_when_probes_come_before_the_opening() -> None:
    driven = Driven()
    driven.fail()
    driven.recover()
    driven.now += 60
    driven.circuit.move("half-open", driven.now)
    assert driven.fail() == 60


def test_closing_what_is_closed_does_not_make_it_younger() -> None:
    driven = Driven()
    driven.fail()
    driven.recover()
    driven.now += 30
    driven.circuit.move("closed", driven.now)
    driven.now += 30
    assert driven.fail() == 60


def test_failing_for_years_overflows_nothing() -> None:
    driven = Driven()
    driven.fail()
    for _ in range(3000):
        assert driven.fail_probe() <= 600


def test_reset_timeout_changed_while_open_holds_at_once() -> None:
    driven = Driven()
    driven.fail()
    assert driven.fail_probe() == 120
    driven.circuit.policy = replace(POLICY, reset_timeout_s=5.0)
    assert driven.wait_s() == 10


def test_reset_timeout_shortened_after_years_of_failing_holds_at_once_too() -> None:
    driven = Driven(replace(POLICY, reset_timeout_max_s=480.0))
    driven.fail()
    for _ in range(100):
        assert driven.fail_probe() <= 480
    driven.circuit.policy = replace(driven.circuit.policy, reset_timeout_s=5.0)
    assert driven.wait_s() == 40, "doubled three times: the row grew no further than its maximum"


def test_a_new_pause_is_a_first_one() -> None:
    pause = OpenPause()
    pause.begin(POLICY, lambda: 0.5)
    assert pause.length_s(POLICY) == 60.0
