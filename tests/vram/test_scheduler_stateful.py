"""Any order of events keeps the gate's laws: checked against an independent count."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from smartrouter_asgi.deployment import LoadedModel
from smartrouter_asgi.exceptions import AdmissionError, VRAMExhaustedError
from smartrouter_asgi.vram.effects import Grant, Reject, StartLoad, StartReconcile, StartUnload
from smartrouter_asgi.vram.ledger import HoldingState, VRAMLedger
from smartrouter_asgi.vram.names import ModelKey
from smartrouter_asgi.vram.policy import GatePolicy
from smartrouter_asgi.vram.scheduler import Scheduler

BUDGET = 16
KEYS = [ModelKey("x", "a"), ModelKey("x", "b"), ModelKey("x", "c"), ModelKey("y", "d"), ModelKey("y", "e")]
TRUE_SIZE = dict(zip(KEYS, (4, 6, 9, 3, 17), strict=True))
POLICIES = [
    GatePolicy(max_queue=6, unload_strategy=strategy, auto_unload=auto, default_estimate_bytes=5)
    for strategy in ("lru", "largest", "cost")
    for auto in (True, True, False)
]


class GateLaws(RuleBasedStateMachine):
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.scheduler: Scheduler | None = None
        self.now = 0.0
        self.engine: set[ModelKey] = set()  # what is really loaded
        self.loads: list[ModelKey] = []
        self.unloads: list[ModelKey] = []
        self.question: float | None = None
        self.waiting: dict[int, ModelKey] = {}
        self.held: Counter[ModelKey] = Counter()
        self.granted: list[ModelKey] = []
        self.pinned: set[ModelKey] = set()
        self.tickets = 0
        self.by_hand: ModelKey | None = None

    def apply(self, effects):
        for effect in effects:
            match effect:
                case Grant(ticket=ticket, key=key):
                    assert self.waiting.pop(ticket) == key
                    assert key not in self.unloads
                    self.held[key] += 1
                    self.granted.append(key)
                case Reject(ticket=ticket):
                    del self.waiting[ticket]
                case StartLoad(key=key):
                    assert not self.loads, "one load at a time"
                    assert key in self.waiting.values(), "nobody waits for this load"
                    assert self.scheduler.ledger.used_bytes <= BUDGET
                    self.loads.append(key)
                case StartUnload(key=key):
                    assert self.held[key] == 0, "a model in use was evicted"
                    assert key not in self.pinned or key == self.by_hand, "a pinned model was evicted"
                    assert self.scheduler.policy.auto_unload or key == self.by_hand
                    self.unloads.append(key)
                case StartReconcile():
                    assert self.question is None, "one question at a time"
                    self.question = self.now

    def take_grants(self):
        granted, self.granted = self.granted, []
        return granted

    @initialize(policy=st.sampled_from(POLICIES))
    def begin(self, policy):
        self.scheduler = Scheduler(
            VRAMLedger(BUDGET, default_estimate_bytes=policy.default_estimate_bytes, pinned=policy.pinned), policy
        )

    @rule(key=st.sampled_from(KEYS), patience=st.sampled_from([math.inf, 1.0, 20.0]), declared=st.booleans())
    def request(self, key, patience, declared):
        self.tickets += 1
        self.waiting[self.tickets] = key
        self.apply(
            self.scheduler.request(
                key,
                ticket=self.tickets,
                now=self.now,
                deadline=self.now + patience,
                declared_bytes=TRUE_SIZE[key] if declared else None,
            )
        )

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data):
        ticket = data.draw(st.sampled_from(sorted(self.waiting)))
        del self.waiting[ticket]
        self.apply(self.scheduler.cancel(ticket, now=self.now))

    @precondition(lambda self: self.granted)
    @rule(target=leases)
    def hold(self):
        key = self.granted.pop()
        return key, False

    @rule(target=leases, lease=consumes(leases))
    def drain(self, lease):
        key, draining = lease
        if not draining:
            self.scheduler.draining(key)
        return key, True

    @rule(lease=consumes(leases))
    def release(self, lease):
        key, draining = lease
        self.held[key] -= 1
        self.apply(self.scheduler.released(key, now=self.now, drained=draining))

    @precondition(lambda self: self.loads)
    @rule(fails=st.sampled_from([None, None, RuntimeError("x"), VRAMExhaustedError("oom")]))
    def end_load(self, fails):
        key = self.loads.pop()
        if fails is None:
            self.engine.add(key)
            self.apply(self.scheduler.load_finished(key, now=self.now, load_s=1.0))
            assert key not in self.waiting.values(), "waiters of a loaded model are let in"
        else:
            self.apply(self.scheduler.load_failed(key, fails, now=self.now))

    @precondition(lambda self: self.unloads)
    @rule(fails=st.booleans(), which=st.integers(0, 9))
    def end_unload(self, fails, which):
        key = self.unloads.pop(which % len(self.unloads))
        if fails:
            self.apply(self.scheduler.unload_failed(key, RuntimeError("x"), now=self.now))
        else:
            self.engine.discard(key)
            self.apply(self.scheduler.unload_finished(key, now=self.now))

    @precondition(lambda self: self.question is not None)
    @rule(silent=st.booleans())
    def answer(self, silent):
        asked_at, self.question = self.question, None
        answers: dict[str, tuple[LoadedModel, ...] | None] = {
            backend: tuple(
                LoadedModel(id=key.model, vram_bytes=TRUE_SIZE[key])
                for key in sorted(self.engine)
                if key.backend == backend
            )
            for backend in ("x", "y")
        }
        if silent:
            answers["y"] = None
        self.apply(self.scheduler.reconciled(answers, asked_at=asked_at, now=self.now))

    @rule(key=st.sampled_from(KEYS), there=st.booleans())
    def happens_behind_our_back(self, key, there):
        if there:
            self.engine.add(key)
        else:
            self.engine.discard(key)

    @rule(key=st.sampled_from(KEYS), on=st.booleans())
    def pin(self, key, on):
        if on:
            self.pinned.add(key)
            self.apply(self.scheduler.pin(key, now=self.now))
        else:
            self.pinned.discard(key)
            self.apply(self.scheduler.unpin(key, now=self.now))

    @rule(key=st.sampled_from(KEYS))
    def unload_by_hand(self, key):
        self.by_hand = key
        if self.held[key] or key in self.loads:
            with pytest.raises(AdmissionError):
                self.scheduler.unload(key, now=self.now)
        else:
            self.apply(self.scheduler.unload(key, now=self.now))
        self.by_hand = None

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0, 16.0, 31.0]))
    def time_passes(self, seconds):
        end = self.now + seconds
        while (wakeup := self.scheduler.next_wakeup(now=self.now)) <= end:
            self.now = wakeup
            self.apply(self.scheduler.tick(now=self.now))
            assert self.scheduler.next_wakeup(now=self.now) > self.now, "a timer that fires for ever"
        self.now = end

    @invariant()
    def the_books_are_right(self):
        ledger = self.scheduler.ledger
        ledger.check()
        for held in ledger.holdings():
            assert held.leases == self.held[held.key]
        for key, leases in self.held.items():
            assert leases == 0 or ledger.get(key) is not None
        assert len(self.scheduler.queue) == len(self.waiting)
        assert ledger.used_bytes + ledger.free_bytes == BUDGET

    @invariant()
    def nobody_waits_for_an_open_resident(self):
        for key in self.waiting.values():
            held = self.scheduler.ledger.get(key)
            assert held is None or held.state is not HoldingState.RESIDENT or key in self.scheduler.closed

    @invariant()
    def closing_serves_the_oldest(self):
        if self.scheduler.closed:
            oldest = self.waiting[min(self.waiting)]
            assert oldest not in self.scheduler.closed or self.scheduler.ledger.get(oldest) is None

    @invariant()
    def time_is_bounded_for_who_waits(self):
        if self.waiting and not self.loads:
            assert self.scheduler.next_wakeup(now=self.now) < math.inf

    def teardown(self):
        """Once loads and unloads end and time passes, nobody is left waiting."""
        for _ in range(200):
            for key in self.take_grants():
                self.held[key] -= 1
                self.apply(self.scheduler.released(key, now=self.now))
            if self.loads:
                self.end_load(None)
            elif self.unloads:
                self.end_unload(False, 0)
            elif self.question is not None:
                self.answer(False)
            elif self.waiting:
                self.now = max(self.now, self.scheduler.next_wakeup(now=self.now))
                self.apply(self.scheduler.tick(now=self.now))
            elif not self.granted:
                break
        assert not self.waiting, "somebody waits for ever"


TestGateLaws = GateLaws.TestCase
TestGateLaws.settings = settings(max_examples=200, stateful_step_count=80, deadline=None)
