"""How long a request would wait: plausible, and never less than what must pass."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartrouter_asgi.vram.holding import HoldingState
from smartrouter_asgi.vram.names import ModelKey
from smartrouter_asgi.vram.placement import PlacementRule
from tests.vram.world import A, B, C, World, devices, loads

S = ModelKey("big", "S")
SPLIT = {"big": PlacementRule(devices=("0", "1"), split=True)}


def projected(world, key):
    return world.scheduler.projected_wait_s(key, now=world.now)


def seen(world, *keys, load_s=10.0):
    """Load and unload models, so that it is known how long that takes."""
    for key in keys:
        world.request(key)
        world.load(key, load_s=load_s)
        world.release(key)
        world.do(world.scheduler.unload(key, now=world.now))
        world.gone(key)
        world.now += 1
    return world


def test_an_open_resident_is_not_waited_for():
    assert projected(World().resident(A), A) == 0.0


def test_what_is_loading_is_waited_for_as_long_as_it_will_still_take():
    world = seen(World(), A)
    world.request(A)
    world.now += 4
    assert projected(world, A) == pytest.approx(6.0)
    world.now += 60
    assert projected(world, A) == 0.0, "any moment now"


def test_a_model_must_load_itself_once_it_is_known_how_long_that_takes():
    world = seen(World(), A)
    assert projected(world, A) == pytest.approx(10.0)
    assert projected(world, B) < 10.0


def test_a_load_under_way_comes_first():
    world = seen(World(), A, B)
    world.request(A)
    assert projected(world, B) == pytest.approx(20.0)


def test_groups_that_go_first_come_first():
    world = seen(World(), A, B, C)
    world.request(A)
    world.now += 1
    world.request(B)
    assert projected(world, C) == pytest.approx(9.0 + 10.0 + 10.0)
    assert projected(world, B) == pytest.approx(9.0 + 10.0), "those behind it do not"


def test_who_was_put_back_does_not_come_first():
    world = seen(World(), A, B, C)
    world.request(A)
    world.request(B, priority=100)
    assert projected(world, C) == pytest.approx(20.0)


def test_two_devices_load_side_by_side():
    one, two = seen(World(devices(10)), A, B, C), seen(World(devices(10, 10)), A, B, C)
    for world in (one, two):
        world.request(A)
        world.request(B)
    assert 10.0 + 10.0 <= projected(two, C) < projected(one, C)


def test_a_split_load_holds_up_every_device_it_uses():
    world = seen(World(devices(20, 20), rules=SPLIT, sizes={"S": 30}), S, A)
    assert loads(world.request(S)) == [S]
    assert projected(world, A) >= 10.0 + 10.0


def test_another_backends_devices_are_none_of_its_business():
    rules = {"box": PlacementRule(devices=("0",)), "one": PlacementRule(devices=("1",))}
    world = seen(World(devices(10, 10), rules=rules), A)
    world.request(ModelKey("one", "F"))
    world.request(ModelKey("one", "G"))
    assert projected(world, A) == pytest.approx(10.0)


def test_idle_models_cost_no_wait():
    world = seen(World(min_residency=0.0, budget=4), B).resident(A)
    assert projected(world, B) == pytest.approx(10.0)


def test_a_fresh_model_is_waited_for_until_it_may_go_or_the_waiter_is_old():
    world = seen(World(budget=4, fair_after_s=15, min_residency=1.0), B)
    world.request(A)
    world.load(A, load_s=12.0)
    world.release(A)
    world.now += 2
    assert projected(world, B) == pytest.approx(10.0 + 10.0)
    world.load_s = 100.0
    world.do(world.scheduler.unload(A, now=world.now))
    world.gone(A)
    world.request(A)
    world.load(A, load_s=100.0)
    world.release(A)
    assert projected(world, B) == pytest.approx(15.0 + 10.0)


def test_busy_models_are_waited_for_until_they_are_closed_and_drained():
    world = seen(World(budget=4, fair_after_s=15, max_wait_s=99), B).resident(A, busy=(A,))
    world.request(A)
    world.now += 7
    world.release(A, held_s=7.0)
    assert projected(world, B) == pytest.approx(7.0 + 10.0), "one use, which lasts as long as the last one did"
    world.request(A)
    assert projected(world, B) == pytest.approx(15.0 + 7.0 + 10.0), "always in use: until it is closed, and has drained"
    world.request(B)
    world.tick(10)
    assert projected(world, B) == pytest.approx(5.0 + 7.0 + 10.0), "it has waited for a part of that"


def test_memory_that_others_hold_may_be_held_for_as_long_as_anybody_waits():
    world = World(devices(10, totals=[10]), max_wait_s=30)
    world.used = {"0": 9}
    world.answer()
    assert projected(world, A) >= 30.0


def test_what_can_never_fit_is_never_there():
    world = World(budget=10)
    world.ledger.declare(A, 11)
    assert projected(world, A) == math.inf


KEYS = [A, B, C, ModelKey("big", "S"), ModelKey("one", "F")]
RULES = {**SPLIT, "one": PlacementRule(devices=("1",))}


@settings(max_examples=80, deadline=None)
@given(events=st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from("rreeg"), st.floats(0.0, 9.0)), max_size=25))
def test_it_is_never_less_than_the_loads_that_must_pass(events):
    world = seen(World(devices(10, 10, cap=16), rules=RULES, sizes={"S": 14, "F": 6}, max_wait_s=1e6), *KEYS)
    for key, event, pause in events:
        world.now += pause
        held = world.ledger.get(key)
        if event == "r":
            world.request(key)
        elif event == "e" and held is not None and held.state is HoldingState.RESERVED:
            world.load(key, load_s=10.0)
        elif event == "e" and held is not None and held.state is HoldingState.UNLOADING:
            world.gone(key)
        elif event == "g" and held is not None and held.leases:
            world.release(key, held_s=5.0)
        left_s = dict.fromkeys("01", 0.0)
        for held in world.ledger.holdings():
            if held.state is HoldingState.RESERVED:
                left_s |= dict.fromkeys(held.placement, max(0.0, held.since + 10.0 - world.now))
        for key in KEYS:
            wait_s, held = projected(world, key), world.ledger.get(key)
            if world.scheduler.is_open(key):
                assert wait_s == 0.0
            elif held is not None and held.state is HoldingState.RESERVED:
                assert wait_s >= left_s[next(iter(held.placement))]
            else:
                must_pass_s = 10.0 + min(left_s[device] for device in world.ledger.rule(key.backend).devices)
                assert must_pass_s - 1e-6 <= wait_s < math.inf
