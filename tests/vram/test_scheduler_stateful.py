"""Any order of events keeps the gate's laws, on any devices: checked against an independent account of the world."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from smartrouter_asgi.deployment import LoadedModel
from smartrouter_asgi.exceptions import AdmissionError, VRAMExhaustedError
from smartrouter_asgi.vram.devices import Device, Devices
from smartrouter_asgi.vram.effects import Grant, Reject, StartLoad, StartReconcile, StartUnload
from smartrouter_asgi.vram.holding import HoldingState
from smartrouter_asgi.vram.ledger import VRAMLedger
from smartrouter_asgi.vram.names import ModelKey
from smartrouter_asgi.vram.placement import PlacementRule
from smartrouter_asgi.vram.policy import GatePolicy
from smartrouter_asgi.vram.scheduler import PRIORITY_STEP_S, UNLOAD_RETRY_S, Scheduler
from smartrouter_asgi.vram.snapshot import snapshot_of

ESTIMATE = 5
LOAD_S = 1.0
KEYS = [ModelKey(backend, name) for backend, names in (("x", "abc"), ("y", "de"), ("z", "fg")) for name in names]
TRUE_SIZE = dict(zip(KEYS, (4, 6, 9, 3, 8, 17, 5), strict=True))
FIXED = ModelKey("f", "fixed")
DEVICE = st.sampled_from("012")
MOSTLY_NOT = st.sampled_from([True, False, False])
SURPRISES = st.one_of(
    st.tuples(st.just("loaded"), st.sampled_from(KEYS), st.integers(0, 9)),
    st.tuples(st.just("gone"), st.sampled_from(KEYS), st.none()),
    st.tuples(st.just("outside"), DEVICE, st.sampled_from([0, 0, 0, 1, 3, 7, 14])),
    st.tuples(st.just("blind"), DEVICE, MOSTLY_NOT),
    st.tuples(st.just("vanished"), DEVICE, MOSTLY_NOT),
    st.tuples(st.just("pinned"), st.sampled_from(KEYS), MOSTLY_NOT),
    st.tuples(st.just("unload"), st.sampled_from(KEYS), st.none()),
)
PROMPT = st.sampled_from([True, True, True, False])
"""Whether the engines answer at once, or at some later step."""


@dataclass(frozen=True)
class Site:
    """Devices as (limit, total), a limit over all, and who uses which and splits over them."""

    devices: tuple[tuple[int, int | None], ...]
    cap: int | None = None
    rules: dict[str, PlacementRule] = field(default_factory=dict)
    fixed: int = 0

    def rule(self, key: ModelKey) -> PlacementRule:
        return self.rules.get(key.backend, PlacementRule(devices=tuple(map(str, range(len(self.devices))))))

    def make(self) -> Devices:
        return Devices(
            [Device(id=str(n), limit_bytes=limit, total_bytes=total) for n, (limit, total) in enumerate(self.devices)],
            max_total_bytes=self.cap,
        )


def split(*devices: str) -> PlacementRule:
    return PlacementRule(devices=devices, split=True)


SITES = [
    Site(((16, None),)),
    Site(((16, 18),), fixed=2),
    Site(((10, 12), (10, None)), rules={"z": split("0", "1"), "y": PlacementRule(devices=("1",))}),
    Site(((12, 12), (12, 14)), cap=16, rules={"z": split("0", "1"), "y": PlacementRule(devices=("0",))}),
    Site(((9, 10), (6, 9), (12, 12)), cap=22, rules={"z": split("0", "1", "2"), "y": split("1", "2")}, fixed=3),
    Site(((10, 11), (10, 11), (10, None)), rules={"x": PlacementRule(devices=("0", "1")), "z": split("1", "2")}),
]
POLICIES = [
    GatePolicy(
        max_queue=8,
        unload_strategy=strategy,
        auto_unload=auto,
        default_estimate_bytes=ESTIMATE,
        unknown=unknown,
        min_residency=residency,
        max_wait_s=60.0,
    )
    for strategy, auto, unknown, residency in (
        ("lru", True, "open", 1.0),
        ("largest", True, "closed", 0.0),
        ("cost", True, "closed", 8.0),
        ("cost", False, "open", 1.0),
    )
]


@dataclass
class Waiting:
    key: ModelKey
    since: float


@dataclass
class Question:
    """What the world was like when it was asked."""

    at: float
    engine: dict[ModelKey, dict[str, int]]
    used: dict[str, int | None]
    outside: dict[str, int]
    claims: dict[ModelKey, dict[str, int]]
    moves: int
    quiet: bool


class GateLaws(RuleBasedStateMachine):
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.engine: dict[ModelKey, dict[str, int]] = {}  # what is really loaded, and where
        self.outside: Counter[str] = Counter()  # what others really hold
        self.blind: set[str] = set()  # devices that cannot be read now
        self.vanished: set[str] = set()
        self.told_outside: dict[str, int] = {}  # what others hold at least, by the last reading
        self.lost: set[str] = set()  # by the last reading
        self.moves = 0  # loads and unloads that have begun or ended
        self.loads: list[ModelKey] = []
        self.unloads: list[ModelKey] = []
        self.question: Question | None = None
        self.answered_at = self.asked_at = self.load_ended_at = -math.inf
        self.waiting: dict[int, Waiting] = {}
        self.ended: set[int] = set()
        self.held: Counter[ModelKey] = Counter()
        self.granted: list[ModelKey] = []
        self.pinned: set[ModelKey] = set()
        self.stays_until: dict[ModelKey, float] = {}
        self.not_before: dict[ModelKey, float] = {}
        self.gone_at: dict[ModelKey, float] = {}
        self.declared: dict[ModelKey, int] = {}
        self.measured: dict[ModelKey, int] = {}
        self.tickets = 0
        self.by_hand: ModelKey | None = None

    # -- what is expected

    def need(self, key):
        declared, measured = self.declared.get(key), self.measured.get(key)
        if declared is not None:
            return max(declared, measured or 0)
        return ESTIMATE if measured is None else measured

    def old_groups(self):
        """The models waited for by somebody old, the oldest first."""
        first = {}
        for ticket, waiting in sorted(self.waiting.items(), key=lambda item: (item[1].since, item[0])):
            first.setdefault(waiting.key, (waiting.since, ticket))
        return [key for key, (since, _) in first.items() if self.now >= since + self.policy.fair_after_s]

    def could_get_in(self, key, *, beside=()):
        """Whether a model fits once everybody has left who ever may, but for those in `beside`."""
        ledger, rule = self.scheduler.ledger, self.site.rule(key)
        staying = [
            held.placement
            for held in ledger.holdings()
            if held.key in beside or held.key in self.pinned or held.key == FIXED
        ]
        rooms = []
        for device in rule.devices:
            limit, total = self.site.devices[int(device)]
            room = limit if total is None else min(limit, total - ledger.devices[device].outside_bytes)
            on_it = sum(placement.get(device, 0) for placement in staying)
            rooms.append(0 if device in self.lost else max(0, room - on_it))
        need = self.need(key)
        fits = need <= (sum(rooms) if rule.split else max(rooms))
        return fits and need + sum(sum(placement.values()) for placement in staying) <= self.cap

    # -- effects

    def apply(self, effects):
        for effect in effects:
            match effect:
                case Grant(ticket=ticket, key=key):
                    self.end(ticket, key)
                    assert self.scheduler.ledger.is_resident(key)
                    self.held[key] += 1
                    self.granted.append(key)
                case Reject(ticket=ticket, error=error):
                    self.end(ticket)
                    assert error.retry_after_s is None or error.retry_after_s >= 0
                case StartLoad(key=key):
                    self.check_load(key)
                    self.loads.append(key)
                    self.moves += 1
                case StartUnload(key=key, by_hand=by_hand):
                    assert by_hand is (key == self.by_hand)
                    self.check_unload(key)
                    self.unloads.append(key)
                    self.moves += 1
                case StartReconcile():
                    assert self.question is None, "one question at a time"
                    self.ask()

    def end(self, ticket, key=None):
        assert ticket not in self.ended, "one end for each"
        waiting = self.waiting.pop(ticket)
        assert key is None or waiting.key == key
        self.ended.add(ticket)

    def check_load(self, key):
        ledger, rule, policy = self.scheduler.ledger, self.site.rule(key), self.policy
        placement = dict(ledger.get(key).placement)
        assert any(waiting.key == key for waiting in self.waiting.values()), "nobody waits for this load"
        assert sum(placement.values()) == self.need(key)
        assert placement.keys() <= set(rule.devices)
        assert rule.split or len(placement) == 1, "one device, unless the engine splits"
        for other in self.loads:
            assert placement.keys().isdisjoint(ledger.get(other).placement), "one load at a time on each device"
        for device in placement:
            limit, total = self.site.devices[int(device)]
            held = sum(held.placement.get(device, 0) for held in ledger.holdings())
            assert held <= limit
            assert total is None or held + self.told_outside.get(device, 0) <= total, "others were there first"
            assert device not in self.lost
        assert sum(held.size_bytes for held in ledger.holdings()) <= self.cap
        assert self.now < self.answered_at + policy.reconcile_ttl_s, "decided on stale news"
        assert self.asked_at >= self.load_ended_at, "decided before the last load was measured"
        if policy.auto_unload:
            owed = next((old for old in self.old_groups() if ledger.get(old) is None or old == key), None)
            if owed not in (None, key) and self.could_get_in(owed):
                assert self.could_get_in(owed, beside=(key,)), "an old group was passed for memory it needs"

    def check_unload(self, key):
        assert self.held[key] == 0, "a model in use was evicted"
        assert key not in self.unloads
        if key == self.by_hand:
            return
        assert key not in self.pinned, "a pinned model was evicted"
        assert key != FIXED
        assert self.policy.auto_unload
        assert self.now >= self.not_before.get(key, -math.inf), "it would not go a moment ago"
        fresh = self.now < self.stays_until.get(key, -math.inf)
        assert not fresh or self.old_groups(), "a model loaded just now was evicted for somebody young"

    def answer_promptly(self, prompt):
        if prompt and self.question is not None:
            self.answer(False, None)

    def ask(self):
        """Remember the world as engines and devices will tell of it."""
        ledger = self.scheduler.ledger
        used = {}
        for number, (_, total) in enumerate(self.site.devices):
            device = str(number)
            if total is None:
                continue
            really = self.outside[device] + sum(placement.get(device, 0) for placement in self.engine.values())
            for key in self.loads:  # how much of it is there already depends on the moment
                really += ledger.get(key).placement.get(device, 0) // (1 + self.moves % 3)
            used[device] = None if device in self.blind or device in self.vanished else really
        self.question = Question(
            at=self.now,
            engine={key: dict(placement) for key, placement in self.engine.items()},
            used=used,
            outside=dict(self.outside),
            claims={held.key: dict(held.placement) for held in ledger.holdings()},
            moves=self.moves,
            quiet=not self.loads and not self.unloads,
        )

    # -- events

    @initialize(policy=st.sampled_from(POLICIES), site=st.sampled_from(SITES))
    def begin(self, policy, site):
        self.policy, self.site = policy, site
        self.cap = min(sum(limit for limit, _ in site.devices), site.cap or math.inf)
        ledger = VRAMLedger(site.make(), default_estimate_bytes=ESTIMATE, pinned=policy.pinned, rules=site.rules)
        if site.fixed:
            ledger.fix(FIXED, site.fixed)
            self.engine[FIXED] = dict(ledger.get(FIXED).placement)
        self.scheduler = Scheduler(ledger, policy)

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=2, max_size=5), prompt=PROMPT)
    def many_requests(self, keys, prompt):
        for key in keys:
            self.request(key, math.inf, True, 0, prompt)

    @rule(
        key=st.sampled_from(KEYS),
        patience=st.sampled_from([math.inf, math.inf, 1.0, 20.0]),
        declared=st.booleans(),
        priority=st.sampled_from([0, 0, 0, -1, 1, 100]),
        prompt=PROMPT,
    )
    def request(self, key, patience, declared, priority, prompt):
        self.tickets += 1
        self.waiting[self.tickets] = Waiting(key=key, since=self.now + priority * PRIORITY_STEP_S)
        if declared:
            self.declared[key] = TRUE_SIZE[key]
        self.apply(
            self.scheduler.request(
                key,
                ticket=self.tickets,
                now=self.now,
                deadline=self.now + patience,
                priority=priority,
                declared_bytes=TRUE_SIZE[key] if declared else None,
            )
        )
        self.answer_promptly(prompt)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data):
        ticket = data.draw(st.sampled_from(sorted(self.waiting)))
        self.end(ticket)
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
        self.apply(self.scheduler.released(key, now=self.now, drained=draining, held_s=2.0))

    @precondition(lambda self: self.loads)
    @rule(
        fails=st.sampled_from([None, None, None, RuntimeError("x"), VRAMExhaustedError("oom")]),
        which=st.integers(0, 2),
        prompt=PROMPT,
    )
    def end_load(self, fails, which=0, prompt=False):
        key = self.loads.pop(which % len(self.loads))
        self.moves += 1
        self.load_ended_at = self.now
        if fails is None:
            devices = list(self.scheduler.ledger.get(key).placement)
            size = TRUE_SIZE[key]
            self.engine[key] = {device: size // len(devices) for device in devices}
            self.engine[key][devices[0]] += size - sum(self.engine[key].values())
            self.stays_until[key] = self.now + self.policy.min_residency * LOAD_S
            self.apply(self.scheduler.load_finished(key, now=self.now, load_s=LOAD_S))
            assert all(waiting.key != key for waiting in self.waiting.values()), "waiters of a loaded model are let in"
        else:
            self.apply(self.scheduler.load_failed(key, fails, now=self.now))
        self.answer_promptly(prompt)

    @precondition(lambda self: self.unloads)
    @rule(fails=st.sampled_from([False, False, True]), which=st.integers(0, 9))
    def end_unload(self, fails, which):
        key = self.unloads.pop(which % len(self.unloads))
        self.moves += 1
        if fails:
            self.not_before[key] = self.now + UNLOAD_RETRY_S
            self.apply(self.scheduler.unload_failed(key, RuntimeError("x"), now=self.now))
        else:
            self.engine.pop(key, None)
            self.forget(key)
            self.apply(self.scheduler.unload_finished(key, now=self.now))

    def forget(self, key):
        self.gone_at[key] = self.now
        self.stays_until.pop(key, None)
        self.not_before.pop(key, None)

    @precondition(lambda self: self.question is not None)
    @rule(silent=st.booleans(), in_part=st.sampled_from([None, None, *KEYS]))
    def answer(self, silent, in_part):
        question, self.question = self.question, None
        ledger = self.scheduler.ledger
        known = {held.key for held in ledger.holdings()}
        answers: dict[str, tuple[LoadedModel, ...] | None] = dict.fromkeys("xyz", ())
        for key, placement in sorted(question.engine.items()):
            if key != FIXED:
                size = sum(placement.values())
                model = LoadedModel(id=key.model, vram_bytes=size, size_bytes=size + 3 * (key == in_part))
                answers[key.backend] += (model,)
        if silent:
            answers["y"] = None
        self.answered_at, self.asked_at = self.now, question.at
        self.lost = {
            device
            for device, used in question.used.items()
            if used is None and (self.policy.unknown == "closed" or device in self.vanished)
        }
        told = {ModelKey(backend, model.id): model for backend, models in answers.items() for model in models or ()}
        for key, model in told.items():
            held = ledger.get(key)
            is_ours = held is not None and held.state is HoldingState.RESIDENT and key in self.stays_until
            if is_ours and key != in_part and model.size_bytes:  # before the decisions that follow
                self.measured[key] = model.vram_bytes
        effects = self.scheduler.reconciled(
            answers,
            asked_at=question.at,
            now=self.now,
            readings=question.used,
            vanished_devices=frozenset(self.vanished),
        )
        for key in known - {held.key for held in ledger.holdings()}:
            assert self.held[key] == 0, "a model in use was dropped"
            assert key not in told
            self.forget(key)
        self.note_outside(question)
        self.check_outside(question)
        self.apply(effects)

    def note_outside(self, question):
        """Remember what must be others': what is used beyond all that could be ours when it was read."""
        ledger = self.scheduler.ledger
        claims = {
            held.key: held.placement
            for held in ledger.holdings()
            if held.state is not HoldingState.RESERVED or held.key in self.loads
        }
        for device, used in question.used.items():
            if used is not None:
                ours = sum(
                    max(question.claims.get(key, {}).get(device, 0), claims.get(key, {}).get(device, 0))
                    for key in question.claims.keys() | claims.keys()
                )
                self.told_outside[device] = max(0, used - ours)

    def check_outside(self, question):
        """When nothing moved and the books are right, what others hold is known to the byte."""
        ledger = self.scheduler.ledger
        books = {
            held.key: {device: size for device, size in held.placement.items() if size}
            for held in ledger.holdings()
            if held.state is not HoldingState.RESERVED
        }
        if question.quiet and question.moves == self.moves and books == question.engine:
            for device, used in question.used.items():
                if used is not None:
                    assert ledger.devices[device].outside_bytes == question.outside.get(device, 0)

    @rule(what=SURPRISES)
    def something_happens(self, what):
        match what:
            case "loaded", key, size:
                devices = list(self.engine.get(key, ())) or [self.site.rule(key).devices[0]]
                self.engine[key] = dict.fromkeys(devices, size)
            case "gone", key, _:
                self.engine.pop(key, None)
            case "outside", device, size:
                self.outside[device] = size
            case "blind", device, on:
                (self.blind.add if on else self.blind.discard)(device)
            case "vanished", device, on:
                (self.vanished.add if on else self.vanished.discard)(device)
            case "pinned", key, True:
                self.pinned.add(key)
                self.apply(self.scheduler.pin(key, now=self.now))
            case "pinned", key, _:
                self.pinned.discard(key)
                self.apply(self.scheduler.unpin(key, now=self.now))
            case "unload", key, _:
                self.unload_by_hand(key)

    def unload_by_hand(self, key):
        self.by_hand = key
        if self.held[key] or key in self.loads:
            with pytest.raises(AdmissionError):
                self.scheduler.unload(key, now=self.now)
        else:
            self.apply(self.scheduler.unload(key, now=self.now))
        self.by_hand = None

    @rule(seconds=st.sampled_from([0.5, 3.0, 16.0, 31.0]), prompt=PROMPT)
    def time_passes(self, seconds, prompt):
        end = self.now + seconds
        while (wakeup := self.scheduler.next_wakeup(now=self.now)) <= end:
            self.now = max(self.now, wakeup)
            self.apply(self.scheduler.tick(now=self.now))
            assert self.scheduler.next_wakeup(now=self.now) > self.now, "a timer that fires for ever"
            self.answer_promptly(prompt)
        self.now = end

    # -- laws at any moment

    @invariant()
    def the_books_are_right(self):
        ledger = self.scheduler.ledger
        ledger.check()
        for held in ledger.holdings():
            assert held.leases == self.held[held.key]
        for key, leases in self.held.items():
            assert leases == 0 or ledger.is_resident(key)
        assert len(self.scheduler.queue) == len(self.waiting)
        states = {held.key: held.state for held in ledger.holdings()}
        assert {key for key, state in states.items() if state is HoldingState.RESERVED} == set(self.loads)
        assert {key for key, state in states.items() if state is HoldingState.UNLOADING} == set(self.unloads)

    @invariant()
    def nobody_waits_for_an_open_resident(self):
        for waiting in self.waiting.values():
            assert not self.scheduler.is_open(waiting.key)

    @invariant()
    def only_old_groups_close_residents(self):
        closing = self.scheduler.closing
        assert self.scheduler.closed == frozenset().union(*closing.values())
        for key, residents in closing.items():
            ours = min(waiting.since for waiting in self.waiting.values() if waiting.key == key)
            assert self.now >= ours + self.policy.fair_after_s
            for waiting in self.waiting.values():
                assert waiting.key not in residents or waiting.since >= ours, "who is older is not closed out"

    @invariant()
    def time_is_bounded_for_who_waits(self):
        if any(waiting.key not in self.loads for waiting in self.waiting.values()):
            assert self.scheduler.next_wakeup(now=self.now) < math.inf

    @invariant()
    def a_view_can_be_had(self):
        seen = snapshot_of(self.scheduler, now=self.now)
        assert all(0 <= queue.projected_wait_s < math.inf for queue in seen.queues)
        assert sum(device.used_bytes for device in seen.devices) == seen.used_bytes
        assert seen.free_bytes <= seen.budget_bytes - seen.used_bytes

    def teardown(self):
        """Once loads and unloads end and time passes, nobody is left waiting."""
        for _ in range(300):
            while self.granted:
                key = self.granted.pop()
                self.held[key] -= 1
                self.apply(self.scheduler.released(key, now=self.now))
            if self.loads:
                self.end_load(None)
            elif self.unloads:
                self.end_unload(False, 0)
            elif self.question is not None:
                self.answer(False, None)
            elif self.waiting:
                self.now = max(self.now, self.scheduler.next_wakeup(now=self.now))
                self.apply(self.scheduler.tick(now=self.now))
            else:
                break
        assert not self.waiting, "somebody waits for ever"
        assert len(self.ended) == self.tickets, "everybody gets one end"


TestGateLaws = GateLaws.TestCase
TestGateLaws.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)
