"""The circuit against a model that keeps everything that ever happened and recomputes what follows from it."""

from __future__ import annotations

import math
import random
from typing import ClassVar, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from smartrouter_asgi.resilience.circuit import Circuit
from smartrouter_asgi.resilience.policy import BreakerPolicy

LEASE_S = 30.0
FIRST_TOKENS = st.sampled_from([None, 0.5, 1.99, 2.0, 5.0])
BACK = st.sampled_from([1, 1, 1, 2, 2, 3, 5, 9])
"""Which permit, from the last one: mostly one that is still of use."""


class Move(NamedTuple):
    at: float
    state: str


class Outcome(NamedTuple):
    epoch: int
    failed: bool
    first_token_s: float | None


class Probe(NamedTuple):
    issued: float
    fate: str


class CircuitAgainstModel(RuleBasedStateMachine):
    """The model's state is four lists; an epoch is the number of moves before it."""

    policy: ClassVar[BreakerPolicy]

    def __init__(self) -> None:
        super().__init__()
        self.circuit = Circuit(self.policy, probe_lease_s=LEASE_S, random=random.Random(7).random)
        self.now = 0.0
        self.moves: list[Move] = [Move(-math.inf, "closed")]
        self.outcomes: list[Outcome] = []
        self.permits: list[tuple[int, int]] = []
        self.probes: dict[int, Probe] = {}
        self.late: list[Outcome] = []
        self.reopens_at = 0.0
        self.lasts = 0.0

    # what follows from the lists

    @property
    def state(self) -> str:
        return self.moves[-1].state

    @property
    def epoch(self) -> int:
        return len(self.moves) - 1

    def window(self) -> list[Outcome]:
        return [o for o in self.outcomes if o.epoch == self.epoch][-self.policy.sliding_window_size :]

    def is_slow(self, first_token_s: float | None) -> bool:
        limit_s = self.policy.slow_call_duration_s
        return limit_s is not None and first_token_s is not None and first_token_s >= limit_s

    def trips(self) -> bool:
        window = self.window()
        if sum(o.failed for o in window) >= self.policy.failure_threshold:
            return True
        if self.policy.slow_call_duration_s is None:
            return False
        timed = [o.first_token_s for o in window if o.first_token_s is not None]
        slow = sum(self.is_slow(seconds) for seconds in timed)
        return len(timed) >= self.policy.slow_call_min_calls and slow / len(timed) >= self.policy.slow_call_rate

    def openings_in_a_row(self) -> int:
        """Count back from the last opening, until a closed period that was long enough."""
        periods: list[Move] = []
        for move in self.moves:
            if not periods or periods[-1].state != move.state:
                periods.append(move)
        ends = [period.at for period in periods[1:]] + [self.now]
        count = 0
        for period, end in reversed(list(zip(periods, ends, strict=True))):
            if period.state == "closed" and end - period.at >= self.policy.reset_timeout_s:
                break
            count += period.state == "open"
        return count

    def taken(self) -> int:
        return sum(
            probe.fate == "succeeded" or (probe.fate == "running" and self.now < probe.issued + LEASE_S)
            for probe in self.probes.values()
        )

    # what happens

    def go(self, state: str) -> None:
        anew = state == "open" and self.state == "open"
        self.moves.append(Move(self.now, state))
        self.probes = {}
        if state != "open":
            return
        lasts = self.circuit.wait_s(self.now)
        assert lasts is not None
        count, longest = self.openings_in_a_row(), self.policy.reset_timeout_max_s
        shortest = self.policy.reset_timeout_s
        if longest is None or count == 1:
            assert lasts == shortest
        else:
            due = min(shortest * 2 ** (count - 1), longest)
            assert due <= lasts + 1e-9
            assert lasts <= due * (1 + self.policy.reset_timeout_jitter) + 1e-9
        if anew:
            assert math.isclose(lasts, self.lasts)
        self.lasts = lasts
        self.reopens_at = self.now + lasts

    def record(self, failed: bool, first_token_s: float | None) -> None:
        self.outcomes.append(Outcome(self.epoch, failed, first_token_s))
        if self.trips():
            self.go("open")

    @rule(seconds=st.sampled_from([0.25, 1.0, 10.0, 30.0, 60.0, 200.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def pause_is_over(self) -> None:
        if self.state == "open":
            self.now = max(self.now, math.ceil(self.reopens_at))

    @rule()
    def ask(self) -> None:
        waits = self.circuit.wait_s(self.now)
        number = self.circuit.admit(self.now)
        assert (waits is None) == (number is not None)
        assert waits is None or waits > 0
        if self.state == "open" and self.now >= self.reopens_at:
            self.go("half-open")
        if self.state == "closed":
            assert number == 0
        elif self.state == "half-open" and self.taken() < self.policy.half_open_max_attempts:
            assert number
            assert number not in self.probes
            self.probes[number] = Probe(self.now, "running")
        else:
            assert number is None
        if number is not None:
            self.permits.append((self.epoch, number))

    @precondition(lambda self: self.permits)
    @rule(back=BACK, failed=st.sampled_from([True, False, False, False, None]), first_token_s=FIRST_TOKENS)
    def settle(self, back: int, failed: bool | None, first_token_s: float | None) -> None:
        epoch, number = self.permits[-min(back, len(self.permits))]
        if failed is not False:
            first_token_s = None
        self.circuit.settle(epoch, number, failed, self.now, first_token_s)
        if epoch != self.epoch:
            if failed is not None:
                self.late.append(Outcome(epoch, failed, first_token_s))
        elif self.state == "closed":
            if failed is not None:
                self.record(failed, first_token_s)
        elif failed or self.is_slow(first_token_s):
            self.go("open")
        else:
            probe = self.probes[number]
            if probe.fate == "running" and self.now < probe.issued + LEASE_S:
                self.probes[number] = Probe(probe.issued, "released" if failed is None else "succeeded")
            elif failed is False:
                self.late.append(Outcome(epoch, failed, first_token_s))
            if sum(p.fate == "succeeded" for p in self.probes.values()) >= self.policy.half_open_max_attempts:
                self.go("closed")

    @precondition(lambda self: self.state == "closed")
    @rule(first_tokens=st.lists(FIRST_TOKENS, max_size=8))
    def calls_succeed(self, first_tokens: list[float | None]) -> None:
        for first_token_s in first_tokens:
            if self.state == "closed":
                self.circuit.settle(self.epoch, 0, False, self.now, first_token_s)
                self.record(False, first_token_s)

    @precondition(lambda self: self.permits)
    @rule(back=BACK, failed=st.booleans())
    def stream_ends(self, back: int, failed: bool) -> None:
        epoch, _ = self.permits[-min(back, len(self.permits))]
        self.circuit.end(epoch, failed, self.now)
        if epoch != self.epoch:
            self.late.append(Outcome(epoch, failed, None))
        elif self.state == "closed":
            self.record(failed, None)
        elif failed:
            self.go("open")

    @rule(state=st.sampled_from(["closed", "open", "half-open"]), really=st.sampled_from([True, False, False, False]))
    def somebody_forces(self, state: str, really: bool) -> None:
        if not really:
            return
        self.circuit.move(state, self.now)  # type: ignore[arg-type]
        self.go(state)

    @invariant()
    def agrees(self) -> None:
        assert self.circuit.state == self.state
        assert self.circuit.epoch == self.epoch
        assert self.circuit.stale == len(self.late)
        assert self.circuit.failures == sum(o.failed for o in self.window())
        assert self.taken() <= self.policy.half_open_max_attempts
        if self.state == "open":
            left = self.circuit.wait_s(self.now)
            assert math.isclose(left or 0.0, max(0.0, self.reopens_at - self.now), abs_tol=1e-6)


class PlainCircuit(CircuitAgainstModel):
    policy = BreakerPolicy(failure_threshold=3, half_open_max_attempts=2, sliding_window_size=5)


class CircuitWithEverything(CircuitAgainstModel):
    policy = BreakerPolicy(
        failure_threshold=3,
        half_open_max_attempts=2,
        sliding_window_size=6,
        slow_call_duration_s=2.0,
        slow_call_rate=0.6,
        slow_call_min_calls=3,
        reset_timeout_max_s=200.0,
    )


TestPlainCircuit = PlainCircuit.TestCase
TestCircuitWithEverything = CircuitWithEverything.TestCase
TestPlainCircuit.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestCircuitWithEverything.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
