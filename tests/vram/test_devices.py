"""Devices: what is left of them, and what others hold there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartrouter_asgi.vram.devices import ONE, Device, Devices


def one(limit=10, total=None, **device):
    return Devices([Device(id="0", limit_bytes=limit, total_bytes=total, **device)])


@pytest.mark.parametrize(
    ("devices", "held", "room"),
    [
        pytest.param(one(10), 4, 6, id="the limit less what is held"),
        pytest.param(one(10), 14, -4, id="too much is held"),
        pytest.param(one(10, 12), 4, 6, id="others hold nothing"),
        pytest.param(one(10, 12, outside_bytes=2), 4, 6, id="others hold what is beyond the limit"),
        pytest.param(one(10, 12, outside_bytes=7), 4, 1, id="others hold more"),
        pytest.param(one(10, 12, outside_bytes=12), 4, -4, id="others hold all of it"),
        pytest.param(one(20, 12), 4, 8, id="a limit beyond the device"),
        pytest.param(one(10, 12, lost=True), 0, 0, id="a lost one has no room"),
    ],
)
def test_room_is_what_neither_the_limit_nor_others_take(devices, held, room):
    assert devices.room("0", held) == room


def test_the_most_is_what_there_is_without_others():
    assert one(10, 12, outside_bytes=12, lost=True).most("0") == 10
    assert one(20, 12).most("0") == 12
    assert one(20).most("0") == 20


def test_a_budget_is_one_device():
    devices = Devices.of(7)
    assert list(devices) == [ONE]
    assert (len(devices), devices.budget_bytes, devices.room(ONE, 0)) == (1, 7, 7)


def test_the_limit_over_all_counts_the_counted_devices_only():
    some = [Device(id=name, limit_bytes=10) for name in "01r"]
    devices = Devices(some, max_total_bytes=15, counted=["0", "1"])
    assert devices.most_together() == 15
    assert devices.budget_bytes == 25
    assert devices.together({"0": 3, "r": 9}) == 3
    assert Devices(some, max_total_bytes=99, counted=["0", "1"]).budget_bytes == 30
    assert Devices(some).budget_bytes == 30
    assert Devices(some, max_total_bytes=5).budget_bytes == 5


@pytest.mark.parametrize(
    ("before", "used", "least", "most", "outside"),
    [
        pytest.param(0, 9, 4, 4, 5, id="what is used and not ours is others'"),
        pytest.param(5, 4, 4, 4, 0, id="they have left"),
        pytest.param(0, 3, 4, 4, 0, id="less is used than we hold: nobody else is there"),
        pytest.param(3, 9, 4, 8, 3, id="a load under way may or may not be there yet: what was seen stands"),
        pytest.param(0, 9, 4, 8, 1, id="it explains so much and no more"),
        pytest.param(7, 9, 4, 8, 5, id="so much has left for certain"),
    ],
)
def test_a_reading_tells_as_much_as_it_can(before, used, least, most, outside):
    devices = one(10, 20, outside_bytes=before)
    assert devices.see("0", used, least_bytes=least, most_bytes=most) == outside - before
    assert devices["0"].outside_bytes == outside


@given(
    before=st.integers(0, 50),
    outside=st.integers(0, 50),
    least=st.integers(0, 30),
    there=st.integers(0, 30),
    rest=st.integers(0, 30),
)
def test_what_others_hold_is_between_what_they_must_and_what_they_can(before, outside, least, there, rest):
    """Whatever part of the loads under way is there already, the truth is never left further away than it was."""
    devices = one(99, 999, outside_bytes=before)
    ours = least + there
    devices.see("0", outside + ours, least_bytes=least, most_bytes=ours + rest)
    seen = devices["0"].outside_bytes
    assert max(0, outside - rest) <= seen <= outside + there
    assert abs(seen - outside) <= abs(before - outside)
    if there == rest == 0:
        assert seen == outside
