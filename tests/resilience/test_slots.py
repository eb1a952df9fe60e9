"""Laws of the slots and the line before them, one by one and against a model that sorts a list."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from smartrouter_asgi.exceptions import ConfigurationError
from smartrouter_asgi.resilience.slots import (
    FIRST_GUESS_S,
    PRIORITY_LIMIT,
    PRIORITY_STEP_S,
    SERVICE_WEIGHT,
    WAIT_CAP_S,
    Refused,
    Slots,
)


def busy(*, max_parallel: int = 1, max_queue: int = 10, service_s: float | None = None) -> Slots[str]:
    """Slots all of which are held, by h0, h1, ..., since 0."""
    slots = Slots[str](max_parallel, max_queue=max_queue, service_s=service_s)
    for number in range(max_parallel):
        assert slots.enter(f"h{number}", now=0.0) == "granted"
    return slots


def line_of(slots: Slots[str], holder: str = "h0", *, now: float = 0.0) -> list[str]:
    """Let one holder after the other leave and list who is granted its slot."""
    order = []
    heir = slots.leave(holder, now=now)
    while heir is not None:
        order.append(heir)
        heir = slots.leave(heir, now=now)
    return order


def test_equal_priorities_are_served_in_the_order_they_came() -> None:
    slots = busy()
    for ticket in "abcde":  # in one instant: the clock does not tell them apart
        assert slots.enter(ticket, now=1.0) == "queued"
    assert line_of(slots) == list("abcde")


def test_a_priority_is_worth_ten_seconds_a_step_and_no_more() -> None:
    slots = busy()
    slots.enter("patient", now=0.0, priority=1)
    slots.enter("within", now=9.9)
    slots.enter("after", now=10.1)
    slots.enter("urgent", now=10.2, priority=-2)
    assert line_of(slots) == ["urgent", "within", "patient", "after"]


@pytest.mark.parametrize("priority", [10**6, 10**400])
def test_nobody_is_overtaken_for_ever_whatever_the_priority(priority: int) -> None:
    slots = busy()
    slots.enter("last", now=0.0, priority=priority)
    slots.enter("first", now=2 * PRIORITY_LIMIT * PRIORITY_STEP_S + 1, priority=-priority)
    assert line_of(slots) == ["last", "first"]


def test_a_waiter_whose_deadline_has_passed_is_passed_over() -> None:
    slots = busy()
    slots.enter("late", now=0.0, deadline=5.0)
    slots.enter("in time", now=1.0, deadline=5.1)
    assert slots.leave("h0", now=5.0) == "in time"
    assert slots.waiting == 0
    assert slots.leave("late", now=6.0) is None
    assert slots.free == 0, "what is out of the line holds nothing to give back"


def test_whose_deadline_has_passed_is_late_even_where_a_slot_is_free() -> None:
    slots = Slots[str](1, max_queue=1)
    assert slots.enter("a", now=5.0, deadline=5.0) == "late"
    assert slots.free == 1


def test_a_deadline_before_the_estimate_is_no_reason_to_refuse() -> None:
    slots = busy(service_s=100.0)
    assert slots.enter("a", now=0.0, deadline=1.0) == "queued"
    assert slots.leave("h0", now=0.5) == "a"


def test_a_full_line_refuses_the_newcomer_also_an_urgent_one() -> None:
    slots = busy(max_queue=2, service_s=3.0)
    slots.enter("a", now=0.0)
    slots.enter("b", now=0.0)
    assert slots.enter("c", now=0.0) == Refused(wait_s=9.0, waiting=2)
    assert slots.enter("urgent", now=0.0, priority=-1) == Refused(wait_s=3.0, waiting=2), "it would have been the first"
    assert line_of(slots) == ["a", "b"]


def test_the_late_take_up_no_place_in_line() -> None:
    slots = busy(max_queue=2)
    slots.enter("late", now=0.0, deadline=1.0)
    slots.enter("a", now=0.0)
    assert isinstance(slots.enter("b", now=0.9), Refused)
    assert slots.enter("b", now=1.0) == "queued"
    assert line_of(slots, now=1.0) == ["a", "b"]


def test_who_may_not_wait_takes_a_free_slot_or_is_refused() -> None:
    slots = Slots[str](1, max_queue=5, service_s=2.0)
    assert slots.enter("a", now=0.0, wait=False) == "granted"
    assert slots.enter("b", now=0.0, wait=False) == Refused(wait_s=2.0, waiting=0)
    assert slots.waiting == 0


def test_the_service_time_is_a_moving_average_of_what_holders_took() -> None:
    slots = busy()
    assert slots.service_s is None
    slots.leave("h0", now=4.0)
    assert slots.service_s == 4.0
    slots.enter("a", now=10.0)
    slots.enter("b", now=10.0)
    slots.leave("a", now=20.0)
    after_a = 4.0 + SERVICE_WEIGHT * 6.0
    assert slots.service_s == pytest.approx(after_a)
    slots.leave("b", now=22.0)  # in its slot for 2 s; the time in line is no service
    assert slots.service_s == pytest.approx(after_a + SERVICE_WEIGHT * (2.0 - after_a))


def test_a_slot_given_back_unused_says_nothing_of_the_service_time() -> None:
    slots = busy(service_s=8.0)
    slots.enter("a", now=0.0)
    assert slots.leave("h0", now=0.0, used=False) == "a"
    assert slots.service_s == 8.0


def test_the_estimate_grows_with_the_place_and_shrinks_with_the_slots() -> None:
    assert [busy(max_parallel=2, service_s=4.0).wait_s(place) for place in range(3)] == [2.0, 4.0, 6.0]


def test_where_nothing_is_known_the_estimate_is_a_second_at_least() -> None:
    assert busy(max_parallel=4).wait_s(0) == FIRST_GUESS_S
    assert busy(max_parallel=4).wait_s(7) == 2 * FIRST_GUESS_S


@pytest.mark.parametrize("service_s", [None, 1e9, math.inf])
def test_the_estimate_is_capped(service_s: float | None) -> None:
    assert busy(service_s=service_s).wait_s(10**9) == WAIT_CAP_S


@pytest.mark.parametrize(("max_parallel", "max_queue"), [(0, 1), (-1, 1), (1, -1)])
def test_a_limit_that_could_not_work_is_refused(max_parallel: int, max_queue: int) -> None:
    with pytest.raises(ConfigurationError, match=r"^max_parallel [^A-Z]+$"):
        Slots[str](max_parallel, max_queue=max_queue)


def test_a_limit_without_a_line_refuses_whoever_finds_no_free_slot() -> None:
    slots = busy(max_queue=0, service_s=3.0)
    assert slots.enter("a", now=0.0) == Refused(wait_s=3.0, waiting=0)
    assert slots.leave("h0", now=1.0) is None
    assert slots.enter("a", now=1.0) == "granted"


@dataclass
class Waiter:
    arrival: float
    priority: int
    deadline: float
    ticket: int


class SlotsAgainstModel(RuleBasedStateMachine):
    """The model keeps a list in order of arrival and sorts it whenever somebody is to be chosen."""

    max_parallel = 2
    max_queue = 3

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots[int](self.max_parallel, max_queue=self.max_queue)
        self.now = 0.0
        self.tickets = 0
        self.holders: dict[int, float] = {}
        self.waiters: list[Waiter] = []
        self.granted: set[int] = set()
        self.services: list[float] = []

    def alive(self) -> list[Waiter]:
        waiters = [waiter for waiter in self.waiters if self.now < waiter.deadline]
        return sorted(waiters, key=lambda w: w.arrival + w.priority * PRIORITY_STEP_S)

    def grant(self, ticket: int) -> None:
        assert ticket not in self.granted
        self.granted.add(ticket)
        self.holders[ticket] = self.now

    def leaves(self, ticket: int, *, used: bool = True) -> None:
        """Somebody leaves; only a holder hands something on: to the first in line of those who are in time."""
        heir = self.slots.leave(ticket, now=self.now, used=used)
        self.waiters = [waiter for waiter in self.waiters if waiter.ticket != ticket]
        since = self.holders.pop(ticket, None)
        line = self.alive()
        if since is None or not line:
            assert heir is None
        else:
            assert heir == line[0].ticket
            self.waiters.remove(line[0])
            self.grant(heir)
        if since is not None and used:
            self.services.append(self.now - since)

    @rule(seconds=st.sampled_from([0.25, 1.0, 10.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        priority=st.integers(-3, 3),
        patience_s=st.sampled_from([0.0, 0.5, 5.0, 30.0, math.inf, math.inf]),
        wait=st.sampled_from([True, True, True, False]),
    )
    def enter(self, priority: int, patience_s: float, wait: bool) -> None:
        self.tickets += 1
        ticket, deadline = self.tickets, self.now + patience_s
        entry = self.slots.enter(ticket, now=self.now, priority=priority, deadline=deadline, wait=wait)
        line = self.alive()
        if patience_s <= 0:
            assert entry == "late"
        elif len(self.holders) < self.max_parallel:
            assert not line, "nobody waits while a slot is free"
            assert entry == "granted"
            self.grant(ticket)
        elif wait and len(line) < self.max_queue:
            assert entry == "queued"
            self.waiters.append(Waiter(self.now, priority, deadline, ticket))
        else:
            assert isinstance(entry, Refused)
            assert 0 <= entry.wait_s <= WAIT_CAP_S
            if wait:
                assert entry.waiting == len(line)

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), used=st.sampled_from([True, True, False]))
    def a_holder_leaves(self, data: st.DataObject, used: bool) -> None:
        self.leaves(data.draw(st.sampled_from(sorted(self.holders))), used=used)

    @precondition(lambda self: self.waiters)
    @rule(data=st.data())
    def a_waiter_leaves(self, data: st.DataObject) -> None:
        self.leaves(data.draw(st.sampled_from([waiter.ticket for waiter in self.waiters])))

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def anybody_leaves_once_more(self, data: st.DataObject) -> None:
        self.leaves(data.draw(st.integers(1, self.tickets)))

    @invariant()
    def agrees(self) -> None:
        assert self.slots.free == self.max_parallel - len(self.holders) >= 0
        assert len(self.alive()) <= self.slots.waiting <= self.max_queue
        average = None
        for service in self.services:
            average = service if average is None else (1 - SERVICE_WEIGHT) * average + SERVICE_WEIGHT * service
        assert self.slots.service_s == (None if average is None else pytest.approx(average))

    def teardown(self) -> None:
        """Everybody who stays is served, in order, and then nobody is left."""
        staying = [waiter.ticket for waiter in self.alive()]
        while self.holders:
            self.leaves(min(self.holders))
        assert self.granted.issuperset(staying)
        assert (self.slots.free, self.slots.waiting) == (self.max_parallel, 0)


TestSlotsAgainstModel = SlotsAgainstModel.TestCase
TestSlotsAgainstModel.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
