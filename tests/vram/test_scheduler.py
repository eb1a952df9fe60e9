"""The scheduler, driven by events with made-up times; sizes are small integers."""

from __future__ import annotations

import pytest

from smartrouter_asgi.deployment import LoadedModel
from smartrouter_asgi.exceptions import (
    AdmissionError,
    AttemptError,
    FailureKind,
    QueueFullError,
    VRAMExhaustedError,
    VRAMQueueTimeoutError,
)
from smartrouter_asgi.vram.effects import Grant, StartLoad, StartReconcile, StartUnload
from smartrouter_asgi.vram.holding import HoldingState
from tests.vram.world import A, B, C, D, World, errors, grants, kinds

# -- 1, 2, 3: the queue


def test_a_resident_is_served_at_once():
    world = World().resident(A)
    assert world.request(A) == [Grant(ticket=2, key=A)]
    assert world.ledger.get(A).leases == 1


def test_the_first_request_asks_the_engines_before_it_decides():
    world = World()
    world.answering = False
    assert world.request(A) == [StartReconcile()]
    assert world.request(B) == []
    world.loaded = {"A": 3}
    assert world.answer() == [Grant(ticket=1, key=A), StartLoad(key=B)]
    assert world.ledger.get(A).size_bytes == 3


def test_a_resident_is_served_while_the_engines_are_being_asked():
    world = World().resident(A)
    world.answering = False
    world.now += 60
    assert world.request(B) == [StartReconcile()]
    assert grants(world.request(A)) == [3]


def test_an_engine_without_an_answer_changes_nothing():
    world = World().resident(A)
    world.answering = False
    world.now += 60
    assert world.request(B) == [StartReconcile()]
    assert world.do(world.scheduler.reconciled({"box": None}, asked_at=world.now, now=world.now)) == [StartLoad(key=B)]
    assert world.ledger.get(A) is not None


def test_the_engines_are_asked_again_only_after_the_ttl():
    world = World(reconcile_ttl_s=2.0)
    world.request(A)
    world.load(A)
    world.answering = False
    world.now += 1.9
    assert world.request(B) == [StartLoad(key=B)]
    world.do(world.scheduler.load_failed(B, RuntimeError(), now=world.now))
    world.answer()
    world.now += 2.0
    assert world.request(C) == [StartReconcile()]


def test_a_full_queue_refuses_with_a_time_to_come_back():
    world = World(max_queue=2)
    world.request(A)
    world.request(A)
    (error,) = errors(world.request(A))
    assert isinstance(error, QueueFullError)
    assert error.retry_after_s >= 1
    assert grants(world.load(A)) == [1, 2]


def test_who_could_never_be_served_is_not_told_to_come_back_in_a_day():
    world = World(max_queue=1, max_wait_s=30.0)
    world.request(A)
    (error,) = errors(world.request(B, size=11))
    assert isinstance(error, QueueFullError)
    assert error.retry_after_s == 30.0


def test_a_full_queue_does_not_keep_a_resident_from_being_served():
    world = World(max_queue=1).resident(A)
    world.request(B)
    assert grants(world.request(A))


def test_a_waiter_is_sent_away_after_max_wait():
    world = World(max_wait_s=30).resident(A, B, busy=(A, B))
    world.request(C)
    assert world.scheduler.next_wakeup(now=world.now) <= world.now + 30
    assert world.tick(29.9) == []
    (error,) = errors(world.tick(0.1))
    assert isinstance(error, VRAMQueueTimeoutError)
    assert error.retry_after_s >= 1
    assert not world.scheduler.queue


def test_a_deadline_before_max_wait_bounds_the_wait():
    world = World(max_wait_s=30).resident(A, B, busy=(A, B))
    world.request(C, deadline=world.now + 3)
    assert world.tick(2.9) == []
    assert isinstance(errors(world.tick(0.1))[0], VRAMQueueTimeoutError)


def test_a_passed_deadline_is_rejected_at_once_and_loads_nothing():
    world = World()
    assert kinds(world.request(A, deadline=world.now - 1)) == ["Reject"]


def test_a_load_under_way_is_bound_by_the_deadline_not_by_max_wait():
    world = World(max_wait_s=30)
    world.request(A, deadline=world.now + 100)
    world.request(A)
    assert world.tick(60) == []
    assert len(errors(world.tick(41))) == 1
    assert grants(world.load(A)) == [2]


# -- 5, 7.3: loads


def test_what_fits_is_reserved_and_loaded():
    world = World()
    assert world.request(A) == [StartLoad(key=A)]
    assert world.ledger.get(A).state is HoldingState.RESERVED
    assert world.ledger.free_bytes == 6


def test_all_waiters_of_a_model_share_one_load():
    world = World()
    world.request(A)
    assert world.request(A) == []
    assert world.request(A) == []
    assert grants(world.load(A)) == [1, 2, 3]
    assert world.ledger.get(A).leases == 3


def test_one_load_at_a_time():
    world = World()
    world.request(A)
    assert world.request(B) == []
    assert world.load(A) == [Grant(ticket=1, key=A), StartLoad(key=B)]


def test_a_load_survives_its_waiters():
    world = World()
    world.request(A)
    assert world.cancel(1) == []
    assert world.load(A) == []
    assert world.ledger.get(A).leases == 0
    assert grants(world.request(A)) == [2]


def test_a_waiter_that_left_before_the_load_causes_none():
    world = World()
    world.request(A)
    world.request(B)
    world.cancel(2)
    assert grants(world.load(A)) == [1]
    assert world.ledger.get(B) is None


def test_cancelling_twice_or_after_the_grant_is_harmless():
    world = World()
    world.request(A)
    world.load(A)
    assert world.cancel(1) == []
    assert world.cancel(1) == []
    assert world.ledger.get(A).leases == 1


@pytest.mark.parametrize(
    ("cause", "kind", "status", "code"),
    [
        (RuntimeError("boom"), FailureKind.MODEL_FAILED, 503, "model_load_failed"),
        (TimeoutError(), FailureKind.MODEL_FAILED, 503, "model_load_failed"),
        (AttemptError("bad gguf", kind=FailureKind.SERVER), FailureKind.MODEL_FAILED, 503, "model_load_failed"),
        (VRAMExhaustedError("oom"), FailureKind.MODEL_FAILED, 503, "vram_exhausted"),
        (
            AttemptError("oom", kind=FailureKind.MODEL_FAILED, code="vram_exhausted"),
            FailureKind.MODEL_FAILED,
            503,
            "vram_exhausted",
        ),
        (AttemptError("no", kind=FailureKind.CONNECT, status=502), FailureKind.CONNECT, 502, "upstream_error"),
        (
            AttemptError("gone", kind=FailureKind.MODEL_MISSING, status=404, code="model_not_found"),
            FailureKind.MODEL_MISSING,
            404,
            "model_not_found",
        ),
    ],
)
def test_a_failed_load_tells_every_waiter_why_and_frees_the_bytes(cause, kind, status, code):
    world = World()
    world.request(A)
    world.request(A)
    world.request(B)
    effects = world.do(world.scheduler.load_failed(A, cause, now=world.now))
    first, second = errors(effects)
    assert first is not second
    assert isinstance(first, AttemptError)
    assert (first.kind, first.status, first.code) == (kind, status, code)
    assert first.__cause__ is cause
    assert "boom" not in first.message
    assert StartLoad(key=B) in effects
    assert world.ledger.get(A) is None


def test_a_measured_size_replaces_the_estimate_and_is_remembered():
    world = World(sizes={"A": None})
    world.request(A)
    assert world.ledger.get(A).size_bytes == 4
    world.sizes["A"] = 7
    world.load(A)
    assert world.ledger.get(A).size_bytes == 7
    world.release(A)
    world.do(world.scheduler.unload(A, now=world.now))
    world.gone(A)
    assert world.ledger.footprint_bytes(A) == 7


def test_the_next_load_waits_for_the_measured_size_of_the_last():
    world = World()
    world.request(A)
    world.request(B)
    world.answering = False
    assert world.load(A) == [Grant(ticket=1, key=A), StartReconcile()]
    world.loaded["A"] = 9
    assert world.answer() == []
    assert not world.ledger.loading_on()
    world.now += 1
    world.answering = True
    assert world.release(A) == [StartUnload(key=A)]


def test_an_answer_to_a_question_from_before_a_load_is_not_enough():
    world = World()
    world.request(A)
    world.answering = False
    world.do(world.scheduler.refresh())
    asked_at = world.now
    world.now += 1
    assert world.do(world.scheduler.load_finished(A, now=world.now, load_s=1.0)) == [Grant(ticket=1, key=A)]
    world.release(A)
    world.now += 1
    assert world.answer(asked_at) == [StartReconcile()]
    assert world.ledger.get(A) is not None


# -- 7.1 to 7.6: what does not fit


def test_the_longest_unused_idle_model_makes_room():
    world = World().resident(A, B)
    assert world.request(C) == [StartUnload(key=A)]
    assert world.ledger.get(A).size_bytes == 4
    assert world.gone(A) == [StartLoad(key=C)]
    assert grants(world.load(C)) == [3]


def test_use_makes_a_model_recent():
    world = World().resident(A, B)
    world.request(A)
    world.now += 1
    world.release(A)
    assert world.request(C) == [StartUnload(key=B)]


def test_several_victims_go_together_and_the_load_waits_for_all():
    world = World(sizes={"C": 9}).resident(A, B)
    assert world.request(C) == [StartUnload(key=A), StartUnload(key=B)]
    assert world.gone(A) == []
    assert world.gone(B) == [StartLoad(key=C)]


def test_memory_on_its_way_is_not_evicted_for_twice():
    world = World(budget=12).resident(A, B, C)
    assert world.request(D) == [StartUnload(key=A)]
    assert world.request(D) == []
    assert world.tick(1) == []


def test_memory_freed_for_an_older_waiter_is_not_taken_by_a_younger():
    world = World(sizes={"C": 9, "D": 2}).resident(A, B)
    world.request(C)
    assert world.request(D) == []
    assert world.gone(A) == []
    assert world.gone(B) == [StartLoad(key=C)]


@pytest.mark.parametrize("drained", [False, True])
def test_a_model_in_use_is_never_evicted_draining_or_not(drained):
    world = World().resident(A, B, busy=(A, B))
    if drained:
        world.scheduler.draining(A)
    assert world.request(C) == []
    assert world.tick(1) == []
    assert world.release(A, drained=drained) == [StartUnload(key=A)]


def test_a_pinned_model_is_never_evicted():
    world = World(pinned=frozenset({"box/A"})).resident(A, B)
    assert world.request(C) == [StartUnload(key=B)]


def test_unpinning_lets_a_waiter_go_on():
    world = World().resident(A, B, busy=(B,))
    world.do(world.scheduler.pin(A, now=world.now))
    assert world.request(C) == []
    assert world.do(world.scheduler.unpin(A, now=world.now)) == [StartUnload(key=A)]


def test_a_pin_outlives_an_unload():
    world = World().resident(A)
    world.do(world.scheduler.pin(A, now=world.now))
    world.do(world.scheduler.unload(A, now=world.now))
    world.gone(A)
    world.resident(A, B)
    assert world.request(C) == [StartUnload(key=B)]


def test_bigger_than_the_budget_is_refused_at_once():
    world = World()
    (error,) = errors(world.request(A, size=11))
    assert isinstance(error, VRAMExhaustedError)
    assert error.retry_after_s is not None


def test_what_can_never_fit_beside_the_pinned_is_refused_at_once():
    world = World(pinned=frozenset({"box/A"})).resident(A)
    assert isinstance(errors(world.request(B, size=7))[0], VRAMExhaustedError)
    assert world.request(C, size=6) == [StartLoad(key=C)]


def test_a_model_bigger_than_the_budget_is_served_while_it_is_loaded():
    world = World()
    world.loaded = {"A": 50}
    assert grants(world.request(A)) == [1]
    assert world.ledger.free_bytes == -40


def test_what_engines_took_beyond_the_budget_is_evicted_for_too():
    world = World()
    world.loaded = {"A": 8, "B": 8}
    effects = world.request(C)
    assert {effect.key for effect in effects} == {A, B}
    assert kinds(effects) == ["StartUnload", "StartUnload"]


def test_without_auto_unload_nothing_is_evicted():
    world = World(auto_unload=False).resident(A, B)
    assert isinstance(errors(world.request(C))[0], VRAMExhaustedError)
    assert world.ledger.get(A).state is HoldingState.RESIDENT


def test_without_auto_unload_a_model_that_fits_still_waits_for_its_turn():
    world = World(auto_unload=False)
    world.request(A)
    assert world.request(B) == []
    assert StartLoad(key=B) in world.load(A)


def test_a_failed_unload_leaves_the_model_and_takes_another_victim():
    world = World().resident(A, B)
    world.request(C)
    effects = world.do(world.scheduler.unload_failed(A, RuntimeError(), now=world.now))
    assert effects == [StartUnload(key=B)]
    assert world.ledger.get(A).state is HoldingState.RESIDENT
    assert world.ledger.free_bytes == 2


def test_a_model_that_would_not_go_is_asked_again_later():
    world = World(budget=4, reconcile_ttl_s=1000).resident(A)
    world.request(B)
    assert world.do(world.scheduler.unload_failed(A, RuntimeError(), now=world.now)) == []
    assert world.scheduler.next_wakeup(now=world.now) == world.now + 5
    assert world.tick(4.9) == []
    assert world.tick(0.1) == [StartUnload(key=A)]


def test_a_model_on_its_way_out_is_loaded_again_for_whom_asks():
    world = World(budget=4).resident(A)
    world.request(B)
    assert world.request(A) == []
    assert world.gone(A) == [StartLoad(key=B)]
    assert world.load(B) == [Grant(ticket=2, key=B)]
    world.now += 1
    assert world.release(B) == [StartUnload(key=B)]


def test_a_model_whose_unload_failed_serves_those_who_waited_for_it():
    world = World(budget=4).resident(A)
    world.request(B)
    world.request(A)
    assert grants(world.do(world.scheduler.unload_failed(A, RuntimeError(), now=world.now))) == [3]


# -- 7.7, 7.8: fairness


def test_a_younger_group_that_fits_passes_one_that_waits_for_busy_models():
    world = World(sizes={"C": 9, "D": 2}).resident(A, B, busy=(A, B))
    world.request(C)
    assert world.request(D) == [StartLoad(key=D)]


def test_an_old_waiter_closes_the_residents_in_its_way():
    world = World(fair_after_s=15, max_wait_s=60).resident(A, B, busy=(A, B))
    world.request(C)
    assert grants(world.request(A))
    world.tick(14.9)
    assert not world.scheduler.closed
    world.tick(0.1)
    assert world.scheduler.closed == {A} or world.scheduler.closed == {B}
    (closed,) = world.scheduler.closed
    (other,) = {A, B} - {closed}
    assert world.request(closed) == []
    assert grants(world.request(other))


def test_the_scheduler_wakes_up_to_be_fair():
    world = World(fair_after_s=15, max_wait_s=60, reconcile_ttl_s=1000).resident(A, B, busy=(A, B))
    world.request(C)
    assert world.scheduler.next_wakeup(now=world.now) == world.now + 15


def test_a_closed_resident_drains_makes_room_and_its_waiters_follow():
    world = World(budget=4, fair_after_s=15, max_wait_s=60).resident(A, busy=(A,))
    world.request(B)
    world.tick(15)
    world.request(A)
    assert world.release(A) == [StartUnload(key=A)]
    assert world.gone(A) == [StartLoad(key=B)]
    assert grants(world.load(B)) == [2]
    world.now += 1
    assert world.release(B) == [StartUnload(key=B)]
    assert world.gone(B) == [StartLoad(key=A)]
    assert grants(world.load(A)) == [3]


def test_closing_ends_when_the_old_waiter_leaves():
    world = World(budget=4, fair_after_s=15, max_wait_s=60).resident(A, busy=(A,))
    world.request(B)
    world.tick(15)
    assert world.request(A) == []
    assert world.cancel(2) == [Grant(ticket=3, key=A)]
    assert not world.scheduler.closed


def test_closing_ends_when_the_old_waiter_times_out():
    world = World(budget=4, fair_after_s=15, max_wait_s=30).resident(A, busy=(A,))
    world.request(B)
    world.tick(15)
    world.request(A)
    effects = world.tick(15)
    assert kinds(effects) == ["Reject", "Grant"]


def test_nobody_passes_an_old_group():
    world = World(sizes={"C": 9, "D": 2}, fair_after_s=15, max_wait_s=60).resident(A, B, busy=(A, B))
    world.request(C)
    world.tick(15)
    assert world.request(D) == []
    assert world.scheduler.closed == {A, B}


def test_the_choice_of_whom_to_close_stands():
    world = World(fair_after_s=15, max_wait_s=90).resident(A, B, busy=(A, B))
    world.request(A)
    world.request(B)
    world.request(C)
    world.tick(15)
    closed = world.scheduler.closed
    for key in closed:
        world.now += 1
        world.release(key)
    world.tick(1)
    assert world.scheduler.closed == closed


# -- the engines' word


def test_a_model_loaded_behind_our_back_appears_with_its_size():
    world = World()
    world.loaded = {"A": 6}
    world.answer()
    assert world.ledger.get(A).size_bytes == 6
    assert world.ledger.get(A).measured


def test_a_model_without_a_told_size_appears_with_its_footprint():
    world = World()
    world.loaded = {"A": None}
    world.answer()
    assert world.ledger.get(A).size_bytes == 4


def test_the_whole_size_counts_where_the_gpu_part_is_not_told():
    world = World()
    models = (LoadedModel(id="A", size_bytes=5), LoadedModel(id="B", size_bytes=9, vram_bytes=2))
    world.do(world.scheduler.reconciled({"box": models}, asked_at=world.now, now=world.now))
    assert (world.ledger.get(A).size_bytes, world.ledger.get(B).size_bytes) == (5, 2)


def test_a_model_gone_behind_our_back_disappears():
    world = World().resident(A)
    world.loaded.clear()
    world.answer()
    assert world.ledger.get(A) is None
    assert world.ledger.free_bytes == 10


def test_a_model_gone_behind_our_back_makes_room_without_eviction():
    world = World(budget=4).resident(A)
    world.loaded.clear()
    world.now += 60
    assert world.request(B) == [StartLoad(key=B)]


def test_a_resident_in_use_is_not_dropped():
    world = World().resident(A, busy=(A,))
    world.loaded.clear()
    world.now += 60
    world.answer()
    assert world.ledger.get(A).leases == 1


def test_what_changed_after_the_question_is_believed_over_the_answer():
    world = World()
    asked_at = world.now
    world.resident(A, B)
    world.do(world.scheduler.unload(B, now=world.now))
    world.gone(B)
    world.loaded = {"B": 4}
    world.answer(asked_at)
    assert world.ledger.get(A) is not None
    assert world.ledger.get(B) is None


def test_another_backends_answer_says_nothing_about_this_one():
    world = World().resident(A)
    world.do(world.scheduler.reconciled({"other": ()}, asked_at=world.now, now=world.now))
    assert world.ledger.get(A) is not None


def test_a_model_being_loaded_is_not_taken_for_resident():
    world = World()
    world.request(A)
    world.loaded = {"A": 1}
    world.answer()
    assert world.ledger.get(A).state is HoldingState.RESERVED


# -- by hand, and names


def test_unload_by_hand_is_refused_while_the_model_is_used_or_loading():
    world = World().resident(A, busy=(A,))
    world.request(B)
    for key in (A, B):
        with pytest.raises(AdmissionError) as caught:
            world.scheduler.unload(key, now=world.now)
        assert caught.value.code == "model_in_use"


def test_unload_by_hand_of_what_is_not_there_does_nothing():
    world = World()
    assert world.scheduler.unload(A, now=world.now) == []


def test_two_tags_of_one_digest_are_one_resident():
    world = World()
    world.scheduler.tell_digests("box", {"A": "sha:1", "B": "sha:1", "C": "sha:2"})
    world.resident(A)
    assert world.request(B) == [Grant(ticket=2, key=A)]
    world.loaded = {"B": 4}
    world.now += 60
    world.answer()
    assert [held.key for held in world.ledger.holdings()] == [A]


def test_a_pin_under_any_tag_is_a_pin():
    world = World(pinned=frozenset({"box/B"}))
    world.scheduler.tell_digests("box", {"A": "sha:1", "B": "sha:1"})
    world.resident(A, C)
    assert world.request(D) == [StartUnload(key=C)]


def test_a_tag_in_use_is_the_one_its_model_is_held_under():
    world = World().resident(B)
    world.scheduler.tell_digests("box", {"A": "sha:1", "B": "sha:1"})
    assert world.request(A) == [Grant(ticket=2, key=B)]


def test_tags_that_part_ways_are_two_models_again():
    world = World()
    world.scheduler.tell_digests("box", {"A": "sha:1", "B": "sha:1"})
    world.resident(A)
    world.scheduler.tell_digests("box", {"A": "sha:1", "B": "sha:2"})
    assert world.request(B) == [StartLoad(key=B)]


def test_decisions_are_kept_with_their_reason():
    world = World().resident(A, B)
    world.request(C)
    last = world.scheduler.decisions[-1]
    assert (last.deployment, last.action) == ("box/A", "evict")
    assert "box/C" in last.reason
