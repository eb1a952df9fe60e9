"""Whose turn it is."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartrouter_asgi.vram.ledger import VRAMLedger
from smartrouter_asgi.vram.names import ModelKey
from smartrouter_asgi.vram.order import by_turn, is_old, score
from smartrouter_asgi.vram.policy import GatePolicy
from smartrouter_asgi.vram.queue import Waiter, WaitQueue

FAIR = 15.0
POLICY = GatePolicy(fair_after_s=FAIR)
NOW = 100.0


def queue_of(*waiters):
    """Return a queue of waiters given as (model, seconds since it came)."""
    queue = WaitQueue()
    for ticket, (name, age) in enumerate(waiters):
        queue.add(
            Waiter(
                ticket=ticket,
                key=ModelKey("b", name),
                since=NOW - age,
                came=NOW - age,
                expires=math.inf,
                deadline=math.inf,
            )
        )
    return queue


def ledger_of(**load_s):
    """Return a ledger in which loads of these models have taken so long."""
    ledger = VRAMLedger(100, default_estimate_bytes=1)
    for name, seconds in load_s.items():
        key = ModelKey("b", name)
        ledger.reserve(key, {"gpu": 1}, now=0.0)
        ledger.commit(key, now=0.0, load_s=seconds)
    return ledger


def turn(queue, ledger):
    return "".join(key.model for key in by_turn(queue, ledger, POLICY, now=NOW))


@pytest.mark.parametrize(
    ("waiters", "load_s", "expected"),
    [
        pytest.param([], {}, "", id="nobody"),
        pytest.param([("a", 1)], {}, "a", id="one"),
        pytest.param([("a", 1), ("b", 2)], {"a": 1, "b": 1}, "ba", id="who has waited longer"),
        pytest.param([("a", 1), ("a", 1), ("b", 1.5)], {"a": 1, "b": 1}, "ab", id="for whom more wait"),
        pytest.param([("a", 2), ("b", 1)], {"a": 9, "b": 1}, "ba", id="who is quicker to load"),
        pytest.param([("a", 16), ("b", 14), ("b", 14), ("b", 1)], {"a": 99, "b": 1}, "ab", id="old before young"),
        pytest.param([("a", 16), ("b", 17), ("a", 1)], {"a": 1, "b": 99}, "ba", id="the oldest of the old"),
        pytest.param([("a", 15), ("b", 14.9)], {"a": 99, "b": 1}, "ab", id="old at once when it is time"),
        pytest.param([("a", -50), ("b", -20), ("c", 0)], {}, "cba", id="those put back, by how far"),
        pytest.param([("a", -50), ("a", 1), ("b", 0.5)], {"a": 1, "b": 1}, "ab", id="a group is as old as its oldest"),
    ],
)
def test_groups_are_looked_at_by_turn(waiters, load_s, expected):
    assert turn(queue_of(*waiters), ledger_of(**load_s)) == expected


def test_loads_too_quick_to_matter_are_not_told_apart():
    assert turn(queue_of(("a", 2), ("b", 1)), ledger_of(a=0.01, b=0.0)) == "ab"


@given(
    waiters=st.lists(st.tuples(st.sampled_from("abcd"), st.floats(-30, 60)), max_size=12),
    load_s=st.dictionaries(st.sampled_from("abcd"), st.floats(0, 100)),
)
def test_every_group_has_one_turn_and_the_old_go_first_by_age(waiters, load_s):
    queue, ledger = queue_of(*waiters), ledger_of(**load_s)
    order = by_turn(queue, ledger, POLICY, now=NOW)
    assert sorted(order) == sorted({ModelKey("b", name) for name, _ in waiters})
    ages = [NOW - queue.oldest(key).since for key in order]
    old = [is_old(key, queue, POLICY, now=NOW) for key in order]
    assert old == sorted(old, reverse=True)
    assert ages[: sum(old)] == sorted(ages[: sum(old)], reverse=True)
    worth = [score(key, queue, ledger, now=NOW) for key in order[sum(old) :]]
    assert worth == sorted(worth, reverse=True)
    assert all(value >= 0 for value in worth)
