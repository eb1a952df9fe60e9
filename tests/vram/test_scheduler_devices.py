"""Several devices, their readings, and what is on its way: the scheduler driven by events with made-up times."""

from __future__ import annotations

import pytest

from smartrouter_asgi.deployment import LoadedModel
from smartrouter_asgi.exceptions import VRAMExhaustedError
from smartrouter_asgi.vram.effects import StartLoad, StartReconcile, StartUnload
from smartrouter_asgi.vram.holding import HoldingState
from smartrouter_asgi.vram.names import ModelKey
from smartrouter_asgi.vram.placement import PlacementRule
from smartrouter_asgi.vram.snapshot import snapshot_of
from tests.vram.world import A, B, C, D, World, devices, errors, grants, kinds, loads, unloads

S = ModelKey("big", "S")
"""A model of an engine that spreads models over devices `0` and `1`."""
FIRST, SECOND = ModelKey("one", "F"), ModelKey("big", "G")
SPLIT = {"big": PlacementRule(devices=("0", "1"), split=True)}


def placed(world, key):
    held = world.ledger.get(key)
    return None if held is None else dict(held.placement)


# -- placement


def test_two_devices_are_not_one_pool():
    world = World(devices(24, 24))
    assert isinstance(errors(world.request(A, size=40))[0], VRAMExhaustedError)
    assert loads(world.request(B, size=24)) == [B]


def test_an_engine_that_splits_gets_both_devices():
    world = World(devices(24, 24), rules=SPLIT)
    assert loads(world.request(S, size=40)) == [S]
    assert placed(world, S) == {"0": 20, "1": 20}


def test_each_device_has_a_load_of_its_own():
    world = World(devices(10, 10))
    assert loads(world.request(A)) == [A]
    assert loads(world.request(B)) == [B]
    assert placed(world, A).keys().isdisjoint(placed(world, B))
    assert world.request(C) == []
    assert loads(world.load(A)) == [C]


def test_a_split_load_occupies_all_its_devices():
    world = World(devices(10, 10), rules=SPLIT)
    assert loads(world.request(S, size=16)) == [S]
    assert world.request(A, size=1) == []
    assert loads(world.load(S)) == [A]


def test_a_backend_stays_on_its_devices():
    world = World(devices(10, 10), rules={"box": PlacementRule(devices=("1",))}).resident(A, B)
    assert placed(world, A) == placed(world, B) == {"1": 4}
    assert unloads(world.request(C)) == [A]


def test_only_what_lies_on_the_right_device_is_evicted():
    rules = {"one": PlacementRule(devices=("0",)), "box": PlacementRule(devices=("1",))}
    world = World(devices(10, 10), rules=rules).resident(A, FIRST)
    assert unloads(world.request(ModelKey("one", "H"), size=8)) == [FIRST]


def test_the_limit_over_all_devices_holds_beside_those_of_each():
    world = World(devices(10, 10, cap=12)).resident(A, B)
    assert unloads(world.request(C, size=8)) == [A]
    assert loads(world.gone(A)) == [C]
    assert world.ledger.used_bytes == 12


def test_a_model_of_no_bytes_has_its_load_to_itself_like_any():
    world = World(devices(10))
    world.request(A)
    assert world.request(B, size=0) == []
    world = World(devices(10, 10), rules={"box": PlacementRule(devices=("0",))})
    world.request(A)
    assert world.request(B, size=0) == []
    assert loads(world.load(A)) == [B]


# -- what old groups are owed


def old_split_group():
    """Device 0 is loading, device 1 has an idle model, and S, which needs both, is old."""
    world = World(devices(10, 10), rules=SPLIT, fair_after_s=15, max_wait_s=1000).resident(A)
    busy_on = next(iter(placed(world, A)))
    world.request(A)
    assert loads(world.request(B)) == [B]
    assert placed(world, B).keys() != {busy_on}
    world.request(S, size=20)
    world.tick(1)
    return world


def test_an_old_group_that_waits_for_a_load_is_not_passed_on_its_other_devices():
    """Else loads could take turns on its devices, and never would all of them be without one."""
    world = old_split_group()
    world.request(C, size=8)
    world.tick(15)
    assert world.release(A) == []
    assert unloads(world.load(B)) == []
    assert set(unloads(world.release(B))) == {A, B}
    world.gone(A)
    assert loads(world.gone(B)) == [S]


def test_a_young_group_that_waits_for_a_load_is_passed():
    world = old_split_group()
    assert loads(world.request(C, size=2)) == [C]


def test_a_group_that_has_its_turn_after_an_old_one_is_not_passed_either():
    rules = {**SPLIT, "one": PlacementRule(devices=("0",)), "box": PlacementRule(devices=("1",))}
    world = World(devices(10, 10), rules=rules, sizes={"F": 8}, fair_after_s=15, max_wait_s=1000)
    world.resident(FIRST, busy=(FIRST,))
    world.request(ModelKey("one", "O"), size=8)
    world.request(S, size=18)
    world.tick(15)
    assert world.scheduler.closed == {FIRST}
    assert world.request(A) == []


def test_who_waits_for_a_model_that_is_leaving_is_not_passed_by_who_came_later():
    world = World(budget=10).resident(A)
    world.do(world.scheduler.unload(A, now=world.now))
    world.request(A)
    assert world.request(B) == []
    assert loads(world.gone(A)) == [A]


@pytest.mark.parametrize(("size", "passes"), [(11, False), (10, True)])
def test_nobody_takes_from_the_limit_over_all_what_an_old_group_waits_for(size, passes):
    rules = {"one": PlacementRule(devices=("1",)), "box": PlacementRule(devices=("0",))}
    world = World(devices(24, 24, cap=30), rules=rules, sizes={"F": 10}, fair_after_s=15, max_wait_s=90)
    world.resident(FIRST, busy=(FIRST,))
    old = ModelKey("one", "O")
    world.request(old, size=20)
    world.tick(15)
    assert world.scheduler.closed == {FIRST}
    assert bool(loads(world.request(A, size=size))) is passes
    world.load(A) if passes else world.tick(1)
    assert unloads(world.release(FIRST)) == [FIRST]
    assert old in loads(world.gone(FIRST))


def test_memory_that_a_model_leaves_for_one_group_is_not_counted_for_another():
    rules = {"one": PlacementRule(devices=("1",)), "box": PlacementRule(devices=("0",))}
    world = World(devices(24, 24, cap=30), rules=rules, sizes={"F": 20}).resident(FIRST)
    assert unloads(world.request(ModelKey("one", "O"), size=20)) == [FIRST]
    assert world.request(A, size=11) == []
    assert loads(world.request(B, size=10)) == [B]


def test_closing_a_model_that_older_requests_wait_for_is_not_tried():
    """It would be opened for them at once, and closed again, for ever."""
    rules = {name: PlacementRule(devices=(place,)) for name, place in (("box", "0"), ("one", "1"))}
    world = World(devices(10, 10, cap=14), rules=rules, sizes={"A": 10}, fair_after_s=15, max_wait_s=1000)
    world.resident(A, busy=(A,))
    world.request(B, size=10)
    world.tick(15)
    assert world.scheduler.closed == {A}
    world.request(A)
    world.tick(1)
    assert world.request(FIRST, size=8) == []
    assert world.tick(16) == []
    assert world.scheduler.closed == {A}
    assert unloads(world.release(A)) == [A]
    assert loads(world.gone(A)) == [B]


def test_of_two_closed_models_the_one_that_older_requests_wait_for_is_left_to_them():
    """As before, where the limit over all leaves a choice of whom to close for the third."""
    rules = {"x": PlacementRule(devices=("0",)), "y": PlacementRule(devices=("1",)), "z": PlacementRule(devices=("2",))}
    world = World(devices(24, 10, 10, cap=40), rules=rules, sizes={"A": 10, "Z": 24}, fair_after_s=15, max_wait_s=1000)
    for key in (ModelKey("y", "A"), ModelKey("x", "Z")):
        world.now += 1
        world.request(key)
        world.now += 1
        world.scheduler.load_finished(key, now=world.now, load_s=1.0)
        world.answer()
    world.request(ModelKey("x", "B"), size=10)
    world.request(ModelKey("y", "C"), size=10)
    world.tick(15)
    world.request(ModelKey("y", "A"))
    world.now += 1
    world.request(ModelKey("z", "F"), size=8)
    world.tick(15)
    assert world.scheduler.closing[ModelKey("z", "F")] == {ModelKey("x", "Z")}


def test_nobody_is_closed_for_a_group_that_cannot_get_in_even_so():
    world = World(devices(10, totals=[20]), fair_after_s=15, max_wait_s=1000)
    world.used = {"0": 8}
    world.resident(A, busy=(A,))
    world.request(B, size=10)
    world.tick(15)
    assert world.scheduler.closed == {A}
    assert world.request(A) == []
    world.used = {"0": 4 + 12}
    assert grants(world.tick(3))
    assert not world.scheduler.closed
    world.used = {"0": 4}
    world.tick(3)
    assert world.scheduler.closed == {A}


def test_without_auto_unload_a_split_model_keeps_its_turn_beside_a_load():
    world = World(devices(10, 10), rules=SPLIT, auto_unload=False)
    world.request(A)
    assert world.request(S, size=12) == []
    assert world.request(B) == []
    assert loads(world.load(A)) == [S]


# -- residency, priorities


def test_a_fresh_model_stays_as_long_as_its_load_took():
    world = World(budget=4, reconcile_ttl_s=1000, min_residency=1.0)
    world.request(A)
    world.now += 3
    world.load(A, load_s=3.0)
    world.release(A)
    assert world.request(B) == []
    assert world.scheduler.next_wakeup(now=world.now) == world.now + 3
    assert world.tick(2.9) == []
    assert unloads(world.tick(0.1)) == [A]


def test_an_old_waiter_does_not_wait_for_residency():
    world = World(budget=4, fair_after_s=15, max_wait_s=1000, min_residency=1.0)
    world.request(A)
    world.now += 100
    world.load(A, load_s=100.0)
    world.release(A)
    world.request(B)
    assert world.tick(14.9) == []
    assert unloads(world.tick(0.1)) == [A]


def test_an_idle_model_may_go_at_once_by_default():
    world = World(budget=4)
    world.request(A)
    world.load(A, load_s=100.0)
    world.release(A)
    assert unloads(world.request(B)) == [A]


def test_a_model_in_use_has_a_turn_before_it_is_closed_for_one_other():
    """Twice its load, or as long as anybody may have to wait: else its load was for little."""
    world = World(budget=4, fair_after_s=15, max_wait_s=1000, min_turn=2.0)
    world.request(A)
    world.request(B)  # came while it was being loaded
    world.now += 10
    world.load(A, load_s=10.0)
    world.tick(5.0)
    assert not world.scheduler.closed, "B is old, and A has served for 5 s"
    assert world.scheduler.next_wakeup(now=world.now) <= world.now + 10
    world.tick(9.9)
    assert not world.scheduler.closed
    world.tick(0.1)
    assert world.scheduler.closed == {A}, "15 s, which is less than twice its load"


def test_who_has_let_a_model_pass_does_not_wait_for_its_turn_too():
    world = World(budget=8, sizes={"C": 8}, fair_after_s=15, max_wait_s=1000, min_turn=2.0)
    world.resident(A, busy=(A,))
    world.request(C)
    world.now += 14
    world.request(B)
    world.load(B, load_s=0.5)
    world.tick(1.0)
    assert world.scheduler.closed == {A, B}


def test_where_several_have_waited_too_long_nobody_has_a_turn():
    world = World(budget=4, fair_after_s=15, max_wait_s=1000, min_turn=2.0)
    world.request(A)
    world.request(B)
    world.request(C)
    world.now += 20
    world.load(A, load_s=60.0)
    assert world.scheduler.closed == {A}


def test_what_is_there_for_good_is_not_evicted():
    world = World(budget=12).resident(A)
    world.ledger.fix(D, 4)
    world.resident(B)
    assert unloads(world.request(C)) == [A]
    world.gone(A)
    world.load(C)
    assert errors(world.request(A, size=9))


def test_a_lower_priority_value_goes_first():
    world = World(budget=4)
    world.request(A)
    world.request(B)
    world.now += 1
    world.request(C, priority=-1)
    world.load(A)
    world.now += 1
    assert unloads(world.release(A)) == [A]
    assert loads(world.gone(A)) == [C]


def test_a_group_that_is_last_on_purpose_closes_nobody_and_is_sent_away_in_time():
    world = World(budget=4, fair_after_s=15, max_wait_s=30).resident(A, busy=(A,))
    world.request(B, priority=100)
    world.tick(16)
    assert not world.scheduler.closed
    assert kinds(world.tick(14)) == ["Reject"]


def test_nobody_passes_the_one_who_waits_for_a_turn_to_end():
    world = World(budget=5, fair_after_s=15, max_wait_s=1000, min_turn=0.5)
    world.request(A)
    world.request(B)
    world.now += 15
    world.load(A, load_s=15.0)
    assert not world.scheduler.closed
    assert world.request(C, size=1) == []
    world.cancel(2)
    assert world.ledger.get(C) is not None


# -- what others hold


def test_memory_that_others_hold_is_respected():
    world = World(devices(10, 10, totals=[12, 12]))
    world.used = {"0": 9, "1": 2}
    world.request(A)
    assert placed(world, A) == {"1": 4}
    world.used = {"0": 9, "1": 6}
    world.load(A)
    world.release(A)
    assert world.ledger.devices["1"].outside_bytes == 2
    world.now += 1
    assert unloads(world.request(B, size=8)) == [A]


def test_a_model_waits_while_others_hold_its_memory_and_gets_in_when_they_leave():
    world = World(devices(10, totals=[12]))
    world.used = {"0": 10}
    assert world.request(A) == []
    assert world.scheduler.next_wakeup(now=world.now) <= world.now + world.policy.reconcile_ttl_s
    assert world.tick(1) == []
    world.used = {"0": 5}
    assert loads(world.tick(2)) == [A]


def test_what_is_held_is_not_taken_for_outside_use():
    world = World(devices(10, totals=[12])).resident(A)
    world.used = {"0": 7}
    world.tick(3)
    world.answer()
    assert world.ledger.devices["0"].outside_bytes == 3


@pytest.mark.parametrize(("unknown", "expected"), [("closed", []), ("open", [A])])
def test_a_device_that_cannot_be_read_is_used_as_the_policy_says(unknown, expected):
    world = World(devices(10, totals=[12]), unknown=unknown)
    world.used = {"0": None}
    assert loads(world.request(A)) == expected
    (view,) = snapshot_of(world.scheduler, now=world.now).devices
    assert (view.known, view.lost) == (False, unknown == "closed")
    world.used = {"0": 0}
    assert loads(world.tick(3)) == ([] if expected else [A])


def test_a_device_that_is_gone_is_not_used_whatever_the_policy_says():
    world = World(devices(10, 10, totals=[12, 12]), unknown="open")
    world.scheduler.refresh()
    world.scheduler.reconciled(
        {}, asked_at=world.now, now=world.now, readings={"0": None, "1": 0}, vanished_devices={"0"}
    )
    world.request(A)
    assert placed(world, A) == {"1": 4}
    assert world.request(B) == []


def test_a_reading_from_before_an_unload_ended_does_not_make_its_bytes_somebody_elses():
    """An engine that is slow to answer makes the answer old: by then the unload is over, and its bytes are not used."""
    world = World(devices(10, totals=[10])).resident(A, B)
    world.used = {"0": 8}
    assert unloads(world.request(C, size=5)) == [A]
    world.answering = False
    world.now += 3
    asked_at = world.now
    assert kinds(world.tick()) == ["StartReconcile"]
    world.now += 0.5
    world.gone(A)
    world.now += 0.5
    world.answering = True
    assert loads(world.answer(asked_at)) == [C]
    assert world.ledger.devices["0"].outside_bytes == 0


def test_a_reading_from_before_a_load_ended_does_not_hide_what_others_hold():
    world = World(devices(10, totals=[10]))
    world.used = {"0": 4}
    world.request(A)
    world.answering = False
    asked_at = world.now
    world.do(world.scheduler.refresh())
    world.now += 1
    world.load(A)
    world.answer(asked_at)
    assert world.ledger.devices["0"].outside_bytes == 4


def test_a_reading_right_after_a_load_counts_it():
    world = World(devices(10, totals=[10]))
    world.used = {"0": 3}
    world.request(A)
    world.now += 1
    world.used = {"0": 4}
    world.load(A)
    assert world.ledger.devices["0"].outside_bytes == 0


# -- what engines do by themselves


def test_a_model_that_appears_is_placed_by_the_size_it_is_told_to_have():
    world = World(devices(10, 10), rules=SPLIT, default_estimate_bytes=16)
    answers = {"big": (LoadedModel(id="S", vram_bytes=6),)}
    world.do(world.scheduler.reconciled(answers, asked_at=world.now, now=world.now))
    assert len(placed(world, S)) == 1
    assert world.ledger.get(S).size_bytes == 6


def test_what_runs_on_the_cpu_in_part_is_shown_and_not_taken_for_its_footprint():
    world = World(devices(10, 10)).resident(A)
    answers = {"box": (LoadedModel(id="A", size_bytes=9, vram_bytes=3),)}
    world.do(world.scheduler.reconciled(answers, asked_at=world.now, now=world.now))
    (view,) = snapshot_of(world.scheduler, now=world.now).residents
    assert (view.size_bytes, view.offloaded_bytes) == (3, 6)
    assert world.ledger.footprint_bytes(A) == 4


# -- the timer


def test_a_moment_that_nobody_acted_upon_is_due_at_once():
    """An event that decides nothing must not swallow a timer that is late."""
    world = World(budget=4, max_wait_s=30).resident(A, busy=(A,))
    world.request(B)
    world.answering = False
    expires = world.now + 30
    late = expires + 5
    world.scheduler.cancel(999, now=late)
    assert world.scheduler.next_wakeup(now=late) <= late
    world.now = late
    assert kinds(world.tick()) == ["Reject"]


def test_the_scheduler_wakes_for_free_devices_while_others_load():
    rules = {"one": PlacementRule(devices=("1",)), "box": PlacementRule(devices=("0",))}
    world = World(devices(4, 4), rules=rules, sizes={"F": 4}, fair_after_s=15, max_wait_s=1000, reconcile_ttl_s=9999)
    world.resident(FIRST, busy=(FIRST,))
    world.request(A)
    world.request(ModelKey("one", "H"), size=4)
    assert world.scheduler.next_wakeup(now=world.now) == world.now + 15


def test_a_second_question_is_not_put_while_one_is_open():
    world = World(devices(10, 10))
    world.answering = False
    assert world.request(A) == [StartReconcile()]
    assert world.tick(20) == []
    assert world.answer() == [StartLoad(key=A)]


def test_a_model_reserved_on_one_device_does_not_hold_up_an_eviction_on_another():
    world = World(devices(4, 4)).resident(A)
    assert loads(world.request(B)) == [B]
    assert world.request(C) == [StartUnload(key=A)]
    assert world.ledger.get(B).state is HoldingState.RESERVED
    assert world.gone(A) == [StartLoad(key=C)]


def test_a_view_of_the_gate_tells_bytes_by_device():
    world = World(devices(10, 8, cap=12, totals=[12, None])).resident(A)
    world.used = {"0": 7}
    world.answer()
    world.request(D)
    seen = snapshot_of(world.scheduler, now=world.now)
    zero, one = seen.devices
    assert (zero.limit_bytes, zero.total_bytes, zero.used_bytes, zero.outside_bytes, zero.free_bytes) == (
        10,
        12,
        4,
        3,
        5,
    )
    assert (one.limit_bytes, one.total_bytes, one.used_bytes, one.free_bytes) == (8, None, 4, 4)
    assert seen.used_bytes == 8
    assert seen.budget_bytes == 12
    assert seen.free_bytes == 4
    (resident,) = seen.residents
    assert resident.placement == {"0": 4}
    (reservation,) = seen.reservations
    assert reservation.placement == {"1": 4}
    assert [queue.deployment for queue in seen.queues] == ["box/D"]
