"""The books of the devices."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartrouter_asgi.deployment import LoadedModel
from smartrouter_asgi.vram.devices import Device, Devices
from smartrouter_asgi.vram.holding import HoldingState
from smartrouter_asgi.vram.ledger import VRAMLedger
from smartrouter_asgi.vram.names import ModelKey
from smartrouter_asgi.vram.placement import PlacementRule
from tests.vram.world import A, B, C, devices

S = ModelKey("big", "S")
RULES = {"big": PlacementRule(devices=("0", "1"), split=True)}


def ledger_of(*limits, estimate=4, rules=RULES, cap=None, totals=None, pinned=()):
    return VRAMLedger(
        devices(*limits, cap=cap, totals=totals), default_estimate_bytes=estimate, rules=rules, pinned=pinned
    )


def hold(ledger, key, placement, *, now=0.0):
    ledger.reserve(key, placement, now=now)
    ledger.commit(key, now=now, load_s=1.0)
    ledger.check()
    return ledger.get(key)


def leaving(ledger, key, placement):
    hold(ledger, key, placement)
    ledger.begin_unload(key)


# -- footprints


def test_a_footprint_is_declared_else_measured_else_estimated_else_the_default():
    ledger = ledger_of(20)
    assert ledger.footprint_bytes(A) == 4
    ledger.estimate(A, 5)
    assert ledger.footprint_bytes(A) == 5
    ledger.recall(A, 6)
    assert ledger.footprint_bytes(A) == 6
    ledger.declare(A, 3)
    assert ledger.footprint_bytes(A) == 6, "more than declared was measured"
    ledger.declare(A, 9)
    assert ledger.footprint_bytes(A) == 9
    assert ledger.footprint_bytes(B) == 4


def test_what_was_measured_in_this_run_is_not_replaced_by_an_earlier_one():
    ledger = ledger_of(20)
    hold(ledger, A, {"0": 4})
    ledger.observe("box", [LoadedModel(id="A", vram_bytes=7)], asked_at=1.0, now=1.0)
    ledger.recall(A, 3)
    assert ledger.measured_bytes(A) == ledger.footprint_bytes(A) == 7


def test_a_model_that_is_coming_or_going_is_not_measured():
    ledger = ledger_of(20)
    ledger.reserve(A, {"0": 4}, now=0.0)
    leaving(ledger, B, {"0": 4})
    told = [LoadedModel(id="A", vram_bytes=1), LoadedModel(id="B", vram_bytes=1)]
    ledger.observe("box", told, asked_at=1.0, now=1.0)
    assert ledger.measured_bytes(A) is ledger.measured_bytes(B) is None
    assert ledger.used_bytes == 8


def test_what_runs_on_the_cpu_in_part_frees_bytes_and_is_not_remembered():
    ledger = ledger_of(20)
    held = hold(ledger, A, {"0": 8})
    ledger.observe("box", [LoadedModel(id="A", size_bytes=8, vram_bytes=3)], asked_at=1.0, now=1.0)
    assert (held.size_bytes, held.offloaded_bytes, held.measured) == (3, 5, True)
    assert ledger.measured_bytes(A) is None
    ledger.observe("box", [LoadedModel(id="A", size_bytes=8, vram_bytes=8)], asked_at=2.0, now=2.0)
    assert (held.size_bytes, held.offloaded_bytes, ledger.measured_bytes(A)) == (8, 0, 8)


def test_a_split_model_that_changes_its_size_stays_on_its_devices():
    ledger = ledger_of(10, 10)
    held = hold(ledger, S, {"0": 4, "1": 8})
    ledger.observe("big", [LoadedModel(id="S", vram_bytes=9)], asked_at=1.0, now=1.0)
    assert held.placement == {"0": 3, "1": 6}


def test_a_load_that_was_never_timed_is_guessed_from_its_bytes():
    ledger = ledger_of(20)
    ledger.declare(A, 3 * 1024**3)
    assert ledger.load_s(A) == pytest.approx(3.0)
    assert not ledger.has_loaded(A)
    ledger.reserve(A, {"0": 4}, now=0.0)
    ledger.commit(A, now=9.0, load_s=9.0)
    assert ledger.load_s(A) == 9.0
    assert ledger.has_loaded(A)


def test_how_long_uses_last_is_an_average_that_leans_to_the_newest():
    ledger = ledger_of(20)
    hold(ledger, A, {"0": 4})
    assert ledger.served_s(A) == 0.0
    for held_s in (10.0, 20.0):
        ledger.lease(A, now=1.0)
        ledger.release(A, now=2.0, held_s=held_s)
    assert 10.0 < ledger.served_s(A) < 20.0


# -- room


def test_room_counts_what_is_reserved_resident_and_leaving():
    ledger = ledger_of(10, 10)
    ledger.reserve(A, {"0": 3}, now=0.0)
    hold(ledger, B, {"0": 2})
    leaving(ledger, S, {"0": 1, "1": 4})
    assert ledger.room() == {"0": 4, "1": 6}
    assert ledger.room(gone=[B]) == {"0": 6, "1": 6}
    assert ledger.room(coming=True) == {"0": 5, "1": 10}
    assert ledger.loading_on() == {"0"}
    assert ledger.held_on("0") == 6
    assert ledger.used_bytes == 10
    assert ledger.free_bytes == 10


def test_a_model_fits_beside_what_is_held():
    ledger = ledger_of(10, 10)
    hold(ledger, B, {"0": 8})
    hold(ledger, C, {"1": 7})
    assert ledger.where(A) is None
    assert ledger.where(A, gone=[B]) == {"0": 4}
    assert ledger.where(A, gone=[B, C]) == {"0": 4}
    assert ledger.where(A, gone=[B, C], without=["0"]) == {"1": 4}
    assert ledger.where(A, gone=[B], without=["0"]) is None
    ledger.begin_unload(C)
    assert ledger.where(A) is None
    assert ledger.where(A, coming=True) == {"1": 4}


def test_the_limit_over_all_counts_what_is_held_anywhere():
    ledger = ledger_of(10, 10, cap=12)
    hold(ledger, B, {"0": 9})
    assert ledger.room_together() == 3
    assert ledger.where(A) is None
    assert ledger.where(A, gone=[B]) is not None
    ledger.begin_unload(B)
    assert ledger.room_together() == 3
    assert ledger.room_together(coming=True) == 12
    assert ledger.where(A) is None
    assert ledger.where(A, coming=True) is not None


def test_a_device_of_another_machine_is_beside_the_limit_over_all():
    ledger = VRAMLedger(
        Devices([Device(id="0", limit_bytes=10), Device(id="r", limit_bytes=10)], max_total_bytes=5, counted=["0"]),
        default_estimate_bytes=4,
        rules={"box": PlacementRule(devices=("0",)), "big": PlacementRule(devices=("r",))},
    )
    hold(ledger, S, {"r": 9})
    assert ledger.room_together() == 5
    assert ledger.where(A) == {"0": 4}
    assert ledger.reachable_bytes(A) == 5
    assert ledger.reachable_bytes(S) == 10


def test_a_reservation_that_does_not_fit_is_a_defect():
    ledger = ledger_of(10, 10, cap=12)
    hold(ledger, A, {"0": 9})
    with pytest.raises(AssertionError, match="fit"):
        ledger.reserve(B, {"0": 2}, now=0.0)
    with pytest.raises(AssertionError, match="budget"):
        ledger.reserve(B, {"1": 4}, now=0.0)
    with pytest.raises(AssertionError, match="already"):
        ledger.reserve(A, {"1": 1}, now=0.0)


@pytest.mark.parametrize(
    ("key", "cap", "reachable"),
    [
        pytest.param(A, None, 10, id="the biggest device"),
        pytest.param(S, None, 16, id="all of them, split"),
        pytest.param(S, 12, 12, id="never more than the limit over all"),
    ],
)
def test_reachable_is_what_could_be_free_if_everybody_left(key, cap, reachable):
    ledger = ledger_of(10, 6, cap=cap)
    hold(ledger, B, {"0": 9})
    ledger.devices["0"].outside_bytes = 9
    ledger.devices["1"].lost = True
    assert ledger.reachable_bytes(key) == reachable


def test_what_is_pinned_or_there_for_good_is_not_reachable():
    ledger = ledger_of(10, 10, cap=16, pinned=["box/B"])
    hold(ledger, B, {"0": 3})
    assert ledger.reachable_bytes(A) == 10
    assert ledger.reachable_bytes(S) == 13
    assert ledger.reachable_bytes(B) == 10, "what is its own"
    ledger.fix(C, 4)
    assert ledger.get(C).placement == {"1": 4}
    assert ledger.reachable_bytes(A) == 7
    assert ledger.reachable_bytes(S) == 9
    assert ledger.stays(B)
    assert ledger.stays(C)
    assert not ledger.stays(A)
    ledger.begin_unload(B)
    assert ledger.reachable_bytes(A) == 10, "it leaves by hand"


def test_what_is_there_for_good_does_not_vanish():
    ledger = ledger_of(10)
    ledger.fix(A, 4)
    assert ledger.observe("box", [], asked_at=1.0, now=1.0) == ([], [])
    assert ledger.get(A) is not None


def test_free_bytes_are_bound_by_the_limit_over_all():
    ledger = ledger_of(10, 10, cap=12)
    hold(ledger, A, {"0": 4})
    assert (ledger.budget_bytes, ledger.used_bytes, ledger.free_bytes) == (12, 4, 8)


def test_what_others_hold_and_what_is_lost_is_not_free():
    ledger = ledger_of(10, 10, totals=[10, 10])
    ledger.devices["0"].outside_bytes = 7
    ledger.devices["1"].lost = True
    assert ledger.room() == {"0": 3, "1": 0}
    assert ledger.free_bytes == 3
    assert ledger.where(A) is None
    assert ledger.where(S) is None


# -- what may have been there when a device was read


def test_what_is_coming_or_going_was_there_or_not():
    ledger = ledger_of(20)
    hold(ledger, A, {"0": 4}, now=1.0)
    ledger.reserve(B, {"0": 5}, now=2.0)
    assert ledger.bounds_on("0", asked_at=3.0) == (4, 9)
    ledger.begin_unload(A)
    assert ledger.bounds_on("0", asked_at=3.0) == (0, 9)


def test_what_ended_after_the_question_was_there_or_not():
    ledger = ledger_of(20)
    leaving(ledger, A, {"0": 4})
    ledger.finish_unload(A, now=5.0)
    ledger.reserve(B, {"0": 5}, now=2.0)
    ledger.commit(B, now=6.0, load_s=4.0)
    assert ledger.bounds_on("0", asked_at=4.0) == (0, 9)
    assert ledger.bounds_on("0", asked_at=5.0) == (0, 5)
    assert ledger.bounds_on("0", asked_at=6.0) == (5, 5)


# -- a life


def test_a_load_that_failed_frees_its_bytes():
    ledger = ledger_of(10)
    ledger.reserve(A, {"0": 4}, now=0.0)
    assert not ledger.is_resident(A)
    assert not ledger.lease(A, now=0.0)
    ledger.abandon(A)
    assert ledger.get(A) is None
    assert ledger.used_bytes == 0


def test_an_unload_frees_its_bytes_once_it_is_confirmed():
    ledger = ledger_of(10)
    leaving(ledger, A, {"0": 4})
    assert not ledger.lease(A, now=0.0)
    assert ledger.used_bytes == 4
    ledger.fail_unload(A, retry_at=9.0)
    assert ledger.is_resident(A)
    assert ledger.get(A).retry_unload_at == 9.0
    ledger.begin_unload(A)
    ledger.finish_unload(A, now=1.0)
    assert ledger.used_bytes == 0


def test_leases_are_counted_and_draining_ones_are_leases():
    ledger = ledger_of(10)
    held = hold(ledger, A, {"0": 4})
    assert ledger.lease(A, now=1.0)
    assert ledger.lease(A, now=2.0)
    ledger.drain(A)
    assert (held.leases, held.draining) == (2, 1)
    with pytest.raises(AssertionError, match="in use"):
        ledger.begin_unload(A)
    ledger.release(A, now=3.0)
    with pytest.raises(AssertionError, match="more leases"):
        ledger.release(A, now=3.0)


def test_a_released_lease_is_the_last_use():
    ledger = ledger_of(10)
    held = hold(ledger, A, {"0": 4})
    ledger.lease(A, now=1.0)
    ledger.release(A, now=7.0)
    assert held.last_used == 7.0


@pytest.mark.parametrize("asked_at", [0.0, 1.0])
def test_an_answer_from_before_a_change_does_not_undo_it(asked_at):
    ledger = ledger_of(10)
    hold(ledger, A, {"0": 4}, now=1.0)
    leaving(ledger, B, {"0": 4})
    ledger.finish_unload(B, now=1.0)
    told = [LoadedModel(id="B", vram_bytes=4)]
    assert ledger.observe("box", told, asked_at=asked_at, now=2.0) == ([], [])
    appeared, vanished = ledger.observe("box", told, asked_at=1.5, now=2.0)
    assert (appeared, vanished) == ([B], [A])


def test_what_is_relocated_keeps_its_state_and_what_is_not_there_is_not():
    ledger = ledger_of(10, 10)
    held = hold(ledger, A, {"0": 4})
    ledger.relocate(A, {"1": 4})
    ledger.relocate(B, {"1": 4})
    assert held.placement == {"1": 4}
    assert ledger.get(B) is None
    ledger.begin_unload(A)
    ledger.relocate(A, {"0": 4})
    assert held.placement == {"1": 4}


@given(
    limits=st.lists(st.integers(0, 20), min_size=1, max_size=3),
    cap=st.one_of(st.none(), st.integers(0, 40)),
    needs=st.lists(st.tuples(st.integers(0, 20), st.booleans(), st.sampled_from(HoldingState)), max_size=6),
)
def test_what_fits_by_the_books_may_be_reserved(limits, cap, needs):
    """`where` and `reserve` agree, and no limit is ever passed by what is reserved."""
    names = tuple(map(str, range(len(limits))))
    rules = {"big": PlacementRule(devices=names, split=True), "box": PlacementRule(devices=names)}
    ledger = ledger_of(*limits, cap=cap, rules=rules)
    for index, (need, splits, state) in enumerate(needs):
        key = ModelKey("big" if splits else "box", f"m{index}")
        ledger.declare(key, need)
        placement = ledger.where(key)
        if placement is None:
            assert ledger.where(key, without=names[:1]) is None
            continue
        assert need <= ledger.reachable_bytes(key)
        ledger.reserve(key, placement, now=0.0)
        if state is not HoldingState.RESERVED:
            ledger.commit(key, now=0.0, load_s=1.0)
        if state is HoldingState.UNLOADING:
            ledger.begin_unload(key)
        ledger.check()
        assert all(ledger.held_on(name) <= limit for name, limit in zip(names, limits, strict=True))
        assert ledger.used_bytes <= min(sum(limits), math.inf if cap is None else cap)


@pytest.mark.parametrize(
    "told",
    [
        {"vram_bytes": 0},
        {"vram_bytes": 0, "size_bytes": 0},
        {"vram_bytes": -5, "size_bytes": 5},
        {"size_bytes": 0},
        {"size_bytes": -1},
    ],
    ids=str,
)
def test_a_size_that_makes_no_sense_frees_nothing(told):
    ledger = ledger_of(20)
    hold(ledger, A, {"0": 4})
    ledger.observe("box", [LoadedModel(id="A", **told), LoadedModel(id="B", **told)], asked_at=1.0, now=1.0)
    assert [held.size_bytes for held in ledger.holdings()] == [4, 4]
    assert ledger.measured_bytes(A) is None
    ledger.check()


def test_the_size_of_what_others_loaded_is_no_measure_of_our_own_load():
    """Theirs may have a longer context: held against the model it could keep it out for ever."""
    ledger = ledger_of(20)
    ledger.observe("box", [LoadedModel(id="A", vram_bytes=19)], asked_at=1.0, now=1.0)
    assert ledger.get(A).size_bytes == 19
    assert (ledger.footprint_bytes(A), ledger.measured_bytes(A)) == (4, None)
    ledger.observe("box", [], asked_at=2.0, now=2.0)
    hold(ledger, A, {"0": 4}, now=3.0)
    ledger.observe("box", [LoadedModel(id="A", vram_bytes=6)], asked_at=4.0, now=4.0)
    assert ledger.footprint_bytes(A) == 6


def test_a_model_that_is_on_the_cpu_takes_nothing_of_the_gpu():
    ledger = ledger_of(20)
    hold(ledger, A, {"0": 4})
    ledger.observe("box", [LoadedModel(id="A", vram_bytes=0, size_bytes=5)], asked_at=1.0, now=1.0)
    held = ledger.get(A)
    assert (held.size_bytes, held.offloaded_bytes, ledger.measured_bytes(A)) == (0, 5, None)
