"""Where loads really went."""

from __future__ import annotations

import pytest

from smartrouter_asgi.vram.arrivals import Arrivals
from smartrouter_asgi.vram.ledger import VRAMLedger
from tests.vram.world import A, B, devices


@pytest.fixture
def ledger():
    return VRAMLedger(devices(20, 20), default_estimate_bytes=8)


@pytest.fixture
def arrivals(ledger):
    return Arrivals(ledger)


def begin(ledger, arrivals, key, used, *, now=0.0):
    ledger.reserve(key, {"0": 8}, now=now)
    arrivals.begin(key, used)


def end(ledger, key, *, now=1.0):
    ledger.commit(key, now=now, load_s=1.0)


def test_a_load_is_where_its_bytes_have_appeared(ledger, arrivals):
    begin(ledger, arrivals, A, {"0": 1, "1": 2})
    end(ledger, A)
    arrivals.settle({"0": 1, "1": 10}, asked_at=1.0)
    assert ledger.get(A).placement == {"1": 8}


def test_a_load_that_was_spread_is_spread_in_the_books(ledger, arrivals):
    begin(ledger, arrivals, A, {"0": 1, "1": 2})
    end(ledger, A)
    arrivals.settle({"0": 7, "1": 4}, asked_at=1.0)
    assert ledger.get(A).placement == {"0": 6, "1": 2}


def test_a_reading_is_taken_once(ledger, arrivals):
    begin(ledger, arrivals, A, {"0": 0, "1": 0})
    end(ledger, A)
    arrivals.settle({"0": 8, "1": 0}, asked_at=1.0)
    arrivals.settle({"0": 0, "1": 8}, asked_at=2.0)
    assert ledger.get(A).placement == {"0": 8}


def test_a_load_under_way_is_not_judged(ledger, arrivals):
    begin(ledger, arrivals, A, {"0": 0, "1": 0})
    arrivals.settle({"0": 0, "1": 8}, asked_at=0.5)
    end(ledger, A)
    arrivals.settle({"0": 8, "1": 0}, asked_at=1.0)
    assert ledger.get(A).placement == {"0": 8}


def test_a_reading_from_before_a_load_ended_tells_half_of_it(ledger, arrivals):
    begin(ledger, arrivals, A, {"0": 0, "1": 0})
    end(ledger, A, now=1.0)
    arrivals.settle({"0": 0, "1": 5}, asked_at=0.5)
    assert ledger.get(A).placement == {"0": 8}
    arrivals.settle({"0": 3, "1": 5}, asked_at=1.0)
    assert ledger.get(A).placement == {"0": 3, "1": 5}


@pytest.mark.parametrize("used", [{"0": 0, "1": None}, {"0": 0}, {}])
def test_a_device_that_is_not_read_before_tells_nothing(ledger, arrivals, used):
    begin(ledger, arrivals, A, used)
    end(ledger, A)
    arrivals.settle({"0": 0, "1": 8}, asked_at=1.0)
    assert ledger.get(A).placement == {"0": 8}


def test_a_device_that_is_not_read_after_tells_nothing(ledger, arrivals):
    begin(ledger, arrivals, A, {"0": 0, "1": 0})
    end(ledger, A)
    arrivals.settle({"0": 0, "1": None}, asked_at=1.0)
    assert ledger.get(A).placement == {"0": 8}


def test_loads_that_overlapped_tell_nothing(ledger, arrivals):
    begin(ledger, arrivals, A, {"0": 0, "1": 0})
    begin(ledger, arrivals, B, {"0": 2, "1": 0})
    end(ledger, A)
    end(ledger, B)
    arrivals.settle({"0": 0, "1": 16}, asked_at=1.0)
    assert ledger.get(A).placement == ledger.get(B).placement == {"0": 8}
    ledger.begin_unload(B)
    ledger.finish_unload(B, now=2.0)
    begin(ledger, arrivals, B, {"0": 0, "1": 8}, now=3.0)
    end(ledger, B, now=4.0)
    arrivals.settle({"0": 0, "1": 16}, asked_at=4.0)
    assert ledger.get(B).placement == {"1": 8}, "the next one does again"


def test_a_load_that_failed_or_left_is_forgotten(ledger, arrivals):
    begin(ledger, arrivals, A, {"0": 0, "1": 0})
    ledger.abandon(A)
    arrivals.settle({"0": 0, "1": 8}, asked_at=1.0)
    begin(ledger, arrivals, A, {"0": 0, "1": 0})
    end(ledger, A)
    ledger.begin_unload(A)
    arrivals.settle({"0": 0, "1": 8}, asked_at=1.0)
    assert ledger.get(A).placement == {"0": 8}


def test_on_one_device_there_is_nothing_to_learn():
    ledger = VRAMLedger(devices(20), default_estimate_bytes=8)
    arrivals = Arrivals(ledger)
    begin(ledger, arrivals, A, {"0": 0})
    end(ledger, A)
    arrivals.settle({"0": 8}, asked_at=1.0)
    assert ledger.get(A).placement == {"0": 8}
