"""Nobody starves: in simulated time, on any devices, whatever arrives, an old waiter gets its model in bounded time."""

from __future__ import annotations

import heapq
import math
from itertools import count

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smartrouter_asgi.deployment import LoadedModel
from smartrouter_asgi.vram.effects import Grant, Reject, StartLoad, StartReconcile, StartUnload
from smartrouter_asgi.vram.ledger import VRAMLedger
from smartrouter_asgi.vram.names import ModelKey
from smartrouter_asgi.vram.placement import PlacementRule
from smartrouter_asgi.vram.policy import GatePolicy
from smartrouter_asgi.vram.scheduler import Scheduler
from tests.vram.world import devices

LEASE_S, LOAD_S, UNLOAD_S = 4.0, 3.0, 1.0
"""The longest of each."""
FAIR_S = 5.0
MIN_TURN = 1.5
"""Of its load time: what a model in use may serve before it is closed for a single other."""
SIZES = {
    ModelKey("box", "a"): 4,
    ModelKey("box", "b"): 6,
    ModelKey("box", "c"): 8,
    ModelKey("one", "d"): 7,
    ModelKey("big", "s"): 12,
}
KEYS = list(SIZES)
SITES = {
    "one device": (devices(12), {}),
    "two devices": (
        devices(8, 8),
        {"one": PlacementRule(devices=("1",)), "big": PlacementRule(devices=("0", "1"), split=True)},
    ),
    "two devices and a limit over both": (
        devices(10, 10, cap=13),
        {"one": PlacementRule(devices=("0",)), "big": PlacementRule(devices=("0", "1"), split=True)},
    ),
    "three devices": (
        devices(8, 7, 8, cap=20),
        {"one": PlacementRule(devices=("1",)), "big": PlacementRule(devices=("1", "2"), split=True)},
    ),
}


class Simulation:
    """Engines that do as they are told, and requests that come, are served and go."""

    def __init__(self, site, *, max_wait_s):
        on, rules = SITES[site]
        policy = GatePolicy(
            fair_after_s=FAIR_S,
            max_wait_s=max_wait_s,
            max_queue=10_000,
            default_estimate_bytes=1,
            min_residency=2.0,
            min_turn=MIN_TURN,
        )
        self.scheduler = Scheduler(VRAMLedger(on, default_estimate_bytes=1, rules=rules), policy)
        self.now = 0.0
        self.loaded = {}
        self.requests = {}  # ticket: (key, when it came, how long it works)
        self.granted = {}
        self.rejected = {}
        self.load_ends = []
        self.events = []
        self.order = count()

    def at(self, when, do, *args):
        heapq.heappush(self.events, (when, next(self.order), do, args))

    def come(self, ticket):
        key, _, _ = self.requests[ticket]
        self.apply(self.scheduler.request(key, ticket=ticket, now=self.now, declared_bytes=SIZES[key]))

    def go(self, key, held_s):
        self.apply(self.scheduler.released(key, now=self.now, held_s=held_s))

    def end_load(self, key, load_s):
        self.loaded[key] = SIZES[key]
        self.apply(self.scheduler.load_finished(key, now=self.now, load_s=load_s))

    def end_unload(self, key):
        self.loaded.pop(key, None)
        self.apply(self.scheduler.unload_finished(key, now=self.now))

    def apply(self, effects):
        for effect in effects:
            match effect:
                case Grant(ticket=ticket, key=key):
                    self.granted[ticket] = self.now
                    self.at(self.now + self.requests[ticket][2], self.go, key, self.requests[ticket][2])
                case Reject(ticket=ticket):
                    self.rejected[ticket] = self.now
                case StartLoad(key=key):
                    load_s = LOAD_S * SIZES[key] / max(SIZES.values())
                    self.at(self.now + load_s, self.end_load, key, load_s)
                case StartUnload(key=key):
                    self.at(self.now + UNLOAD_S, self.end_unload, key)
                case StartReconcile():
                    self.at(self.now, self.answer, self.now)

    def answer(self, asked_at):
        answers = {
            backend: tuple(
                LoadedModel(id=key.model, vram_bytes=size)
                for key, size in self.loaded.items()
                if key.backend == backend
            )
            for backend in ("box", "one", "big")
        }
        self.apply(self.scheduler.reconciled(answers, asked_at=asked_at, now=self.now))

    def run(self, arrivals):
        when = 0.0
        for ticket, (key, gap_s, held_s) in enumerate(arrivals):
            when += gap_s
            self.requests[ticket] = (key, when, held_s)
            self.at(when, self.come, ticket)
        while True:
            wakeup = self.scheduler.next_wakeup(now=self.now)
            next_event = self.events[0][0] if self.events else math.inf
            if min(wakeup, next_event) == math.inf:
                break
            if next_event <= wakeup:
                self.now, _, do, args = heapq.heappop(self.events)
                do(*args)
            else:
                self.now = wakeup
                self.apply(self.scheduler.tick(now=self.now))
        assert self.granted.keys() | self.rejected.keys() == self.requests.keys()
        assert not self.scheduler.queue

    def older_groups(self, ticket):
        """How many other models older requests waited for when this one grew old."""
        key, came, _ = self.requests[ticket]
        return len(
            {
                other
                for number, (other, at, _) in self.requests.items()
                if other != key and (at, number) < (came, ticket) and self.granted[number] > came + FAIR_S
            }
        )


arrivals = st.lists(
    st.tuples(
        st.sampled_from(KEYS),
        st.sampled_from([0.0, 0.0, 0.3, 1.0, 3.0]),
        st.sampled_from([0.1, 1.0, 2.5, LEASE_S]),
    ),
    max_size=50,
)
HOG = [(KEYS[0], 0.5, LEASE_S)] * 60
"""One model is asked for without a break."""
TAKING_TURNS = [(KEYS[index % 3], 0.7, LEASE_S) for index in range(60)]


def among(hog, key, at):
    """Return an arrival pattern with a request for another model in the middle of it."""
    return [*hog[:at], (key, 0.1, 1.0), *hog[at:]]


@pytest.mark.parametrize("site", SITES)
@settings(max_examples=40, deadline=None)
@given(arrivals=arrivals)
@example(arrivals=among(HOG, KEYS[2], 3))
@example(arrivals=among(HOG, KEYS[4], 3))
@example(arrivals=among(TAKING_TURNS, KEYS[4], 3))
@example(arrivals=among(TAKING_TURNS, KEYS[3], 7))
def test_an_old_waiter_gets_its_model_in_bounded_time_whatever_the_young_do(site, arrivals):
    """Each group before it takes a lease that drains, an unload and a load.

    One load may be under way already, and what it brings may serve for a turn.
    """
    simulation = Simulation(site, max_wait_s=1e6)
    simulation.run(arrivals)
    assert not simulation.rejected
    for ticket, (_, came, _) in simulation.requests.items():
        turns = simulation.older_groups(ticket) + 1
        bound_s = FAIR_S + turns * (LEASE_S + LOAD_S + UNLOAD_S) + LOAD_S * (1 + MIN_TURN)
        assert simulation.granted[ticket] - came <= bound_s + 1e-6


@pytest.mark.parametrize("site", SITES)
@settings(max_examples=30, deadline=None)
@given(arrivals=arrivals, max_wait_s=st.sampled_from([1.0, 6.0, 15.0]))
@example(arrivals=HOG + TAKING_TURNS, max_wait_s=15.0)
def test_nobody_queues_for_longer_than_max_wait_but_for_a_load_under_way(site, arrivals, max_wait_s):
    simulation = Simulation(site, max_wait_s=max_wait_s)
    simulation.run(arrivals)
    for ticket, (_, came, _) in simulation.requests.items():
        if ticket in simulation.rejected:
            assert simulation.rejected[ticket] == pytest.approx(came + max_wait_s)
        else:
            assert simulation.granted[ticket] - came <= max_wait_s + LOAD_S
