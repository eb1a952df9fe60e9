"""Where a model's bytes go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartrouter_asgi.vram.placement import PlacementRule, force, place, resize, seen_placement

TWO = PlacementRule(devices=("0", "1"))
BOTH = PlacementRule(devices=("0", "1"), split=True)
NONE = PlacementRule(devices=())


@pytest.mark.parametrize(
    ("need", "free", "rule", "expected"),
    [
        pytest.param(5, {"0": 6, "1": 9}, TWO, {"1": 5}, id="the device with the most room"),
        pytest.param(5, {"0": 6, "1": 6}, TWO, {"0": 5}, id="the first of two alike"),
        pytest.param(9, {"0": 6, "1": 9}, TWO, {"1": 9}, id="to the last byte"),
        pytest.param(10, {"0": 6, "1": 9}, TWO, None, id="two rooms are not one"),
        pytest.param(5, {"0": 6, "1": 9}, BOTH, {"1": 5}, id="an engine that splits does not where one is enough"),
        pytest.param(10, {"0": 5, "1": 5}, BOTH, {"0": 5, "1": 5}, id="split"),
        pytest.param(10, {"0": 6, "1": 9}, BOTH, {"0": 4, "1": 6}, id="split in proportion to the room"),
        pytest.param(16, {"0": 6, "1": 9}, BOTH, None, id="more than all rooms together"),
        pytest.param(5, {"0": -9, "1": 4}, BOTH, None, id="what is over-full gives nothing"),
        pytest.param(4, {"0": -9, "1": 4}, BOTH, {"1": 4}, id="and takes nothing away"),
        pytest.param(5, {"2": 99}, TWO, None, id="not on another's device"),
        pytest.param(0, {}, TWO, None, id="not even nothing goes where there is no device"),
        pytest.param(0, {"0": -1, "1": -2}, BOTH, None, id="nor on a full one"),
        pytest.param(0, {"0": 0}, TWO, {"0": 0}, id="nothing goes where nothing is left"),
        pytest.param(1, {"0": 5}, NONE, None, id="a backend without devices"),
    ],
)
def test_a_model_goes_where_there_is_room(need, free, rule, expected):
    placement = place(need, free, rule)
    assert (placement is None) is (expected is None)
    assert expected is None or placement == expected


@pytest.mark.parametrize(
    ("need", "free", "rule", "expected"),
    [
        pytest.param(5, {"0": 6, "1": 9}, TWO, {"1": 5}, id="where it fits"),
        pytest.param(50, {"0": 6, "1": 9}, TWO, {"1": 50}, id="else where there is most room"),
        pytest.param(50, {"0": -9, "1": -8}, TWO, {"1": 50}, id="or least too little"),
        pytest.param(50, {"0": 6, "1": 4}, BOTH, {"0": 30, "1": 20}, id="else spread by the room there is"),
        pytest.param(50, {"0": -6, "1": 0}, BOTH, {"0": 25, "1": 25}, id="else evenly"),
        pytest.param(0, {"0": -6, "1": -1}, BOTH, {"0": 0, "1": 0}, id="a model that runs on the CPU on full devices"),
        pytest.param(5, {"0": 6}, NONE, {}, id="nowhere, on no device"),
    ],
)
def test_what_an_engine_loaded_by_itself_is_somewhere(need, free, rule, expected):
    assert force(need, free, rule) == expected


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param({"0": 0, "1": 0}, {"0": 10, "1": 0}, {"0": 10}, id="all of it on one"),
        pytest.param({"0": 3, "1": 4}, {"0": 3, "1": 14}, {"1": 10}, id="beside what was there"),
        pytest.param({"0": 0, "1": 0}, {"0": 5, "1": 5}, {"0": 5, "1": 5}, id="on both"),
        pytest.param({"0": 0, "1": 0}, {"0": 4, "1": 4}, {"0": 5, "1": 5}, id="a little less than was told"),
        pytest.param({"0": 0, "1": 9}, {"0": 10, "1": 2}, {"0": 10}, id="while somebody left the other one"),
        pytest.param({"0": 0, "1": 0}, {"0": 4, "1": 0}, None, id="too little has appeared"),
        pytest.param({"0": 0, "1": 0}, {"0": 21, "1": 0}, None, id="too much has appeared"),
        pytest.param({"0": 0}, {"0": 0, "1": 10}, None, id="a device that was not read before"),
        pytest.param({"0": 0, "1": 0}, {"0": 0}, None, id="a device that is not read after"),
        pytest.param({}, {}, None, id="nothing is read"),
    ],
)
def test_where_a_load_went_is_told_by_what_appeared(before, after, expected):
    assert seen_placement(10, before, after, TWO) == expected


def test_what_appeared_on_a_device_that_the_backend_does_not_use_is_not_its_load():
    assert seen_placement(10, {"0": 0, "2": 0}, {"0": 0, "2": 10}, TWO) is None


def test_a_trace_of_a_load_is_somebody_elses():
    assert seen_placement(1000, {"0": 0, "1": 0}, {"0": 1000, "1": 20}, TWO) == {"0": 1000}


rooms = st.dictionaries(st.sampled_from("0123"), st.integers(-20, 60), max_size=4)
rules = st.builds(
    PlacementRule,
    devices=st.lists(st.sampled_from("0123"), min_size=1, unique=True).map(tuple),
    split=st.booleans(),
)


@given(need=st.integers(0, 200), free=rooms, rule=rules)
def test_no_byte_is_lost_and_none_goes_where_there_is_no_room_for_it(need, free, rule):
    placement = place(need, free, rule)
    able = {device: free[device] for device in rule.devices if device in free}
    one, all_of_them = max(able.values(), default=-1), sum(room for room in able.values() if room > 0)
    if placement is None:
        assert need > one
        assert not rule.split or need > all_of_them or all_of_them == 0
        return
    assert sum(placement.values()) == need
    assert all(0 <= size <= able[device] for device, size in placement.items())
    assert len(placement) == 1 or (rule.split and need > one)


@given(need=st.integers(0, 200), free=rooms, rule=rules)
def test_what_is_forced_is_all_there_on_the_backends_devices(need, free, rule):
    placement = force(need, free, rule)
    assert sum(placement.values()) == need
    assert placement.keys() <= set(rule.devices)
    assert rule.split or len(placement) == 1
    fits = place(need, free, rule)
    assert fits is None or placement == fits


@given(placement=st.dictionaries(st.sampled_from("0123"), st.integers(0, 50), min_size=1), size=st.integers(0, 300))
def test_a_resized_placement_has_all_bytes_on_the_same_devices(placement, size):
    resized = resize(placement, size)
    assert resized.keys() == placement.keys()
    assert sum(resized.values()) == size
    assert all(share >= 0 for share in resized.values())
    if size == sum(placement.values()) and all(placement.values()):
        assert resized == placement


def test_what_is_nowhere_stays_there_whatever_its_size():
    assert resize({}, 5) == {}


@given(
    size=st.integers(1, 100),
    before=st.dictionaries(st.sampled_from("0123"), st.integers(0, 100)),
    after=st.dictionaries(st.sampled_from("0123"), st.integers(0, 100)),
    rule=rules,
)
def test_where_a_load_was_seen_all_of_it_is_and_only_where_something_appeared(size, before, after, rule):
    placement = seen_placement(size, before, after, rule)
    if placement is not None:
        assert sum(placement.values()) == size
        assert all(after[device] > before[device] for device in placement)
        assert placement.keys() <= set(rule.devices)
