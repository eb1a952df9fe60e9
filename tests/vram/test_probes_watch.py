"""The watch: a probe may hang, raise or fall silent; the loop goes on, and what is too old is not believed."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartrouter_asgi.testing import ManualClock
from smartrouter_asgi.vram.probes import DeviceMemory, MemoryWatch, NVMLProbe, StaticProbe

from .fake_nvml import FakeNVML, Gpu

PATIENCE_S = 10.0
TTL_S = 10.0


def device(uuid="GPU-1", *, free=1):
    return DeviceMemory(uuid=uuid, index=0, name=uuid, total_bytes=8, free_bytes=free, kind="nvidia")


class Probe:
    """Reads what `devices` is now, or raises it; while `hold()` it hangs, and tells how many hang with it."""

    def __init__(self, *devices):
        self.devices = devices
        self.reads = 0
        self.threads = set()
        self.entered = threading.Event()
        self._go = threading.Event()
        self._go.set()

    def hold(self):
        self.entered.clear()
        self._go.clear()

    def let_go(self):
        self._go.set()

    def read(self):
        self.reads += 1
        self.threads.add(threading.current_thread())
        self.entered.set()
        assert self._go.wait(PATIENCE_S)
        if isinstance(self.devices, Exception):
            raise self.devices
        return self.devices


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def probe():
    probe = Probe(device())
    yield probe
    probe.let_go()
    for thread in probe.threads:
        thread.join(PATIENCE_S)


def free(watch, now):
    return {uuid: reading.free_bytes for uuid, reading in watch.readings(now).items()}


async def until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


def test_before_the_first_answer_nothing_is_known(probe):
    watch = MemoryWatch(probe)
    assert not watch.is_known(0.0)
    assert not watch.is_known(0.0, "GPU-1")
    assert (watch.readings(0.0), watch.unknown(0.0), watch.vanished) == ({}, frozenset(), frozenset())
    assert watch.asked_at == -float("inf")
    assert probe.reads == 0


async def test_an_answer_counts_for_its_time_from_when_it_was_asked_for(probe, clock):
    watch = MemoryWatch(probe, ttl_s=TTL_S, clock=clock)
    clock.advance(5.0)
    assert await watch.refresh()
    assert watch.asked_at == clock()
    assert free(watch, clock() + TTL_S) == {"GPU-1": 1}
    assert watch.is_known(clock() + TTL_S)
    late = clock() + TTL_S + 0.001
    assert watch.readings(late) == {}
    assert not watch.is_known(late)
    assert not watch.is_known(late, "GPU-1")
    assert watch.unknown(late) == {"GPU-1"}
    assert watch.vanished == frozenset()


async def test_that_there_is_no_device_is_known_too(clock):
    watch = MemoryWatch(StaticProbe(), clock=clock)
    assert await watch.refresh()
    assert watch.is_known(clock())
    assert watch.readings(clock()) == {}


async def test_row_61_a_device_that_falls_silent_is_believed_for_its_time_and_unknown_then(probe, clock):
    probe.devices = (device("GPU-1"), device("GPU-2", free=2))
    watch = MemoryWatch(probe, ttl_s=TTL_S, clock=clock)
    await watch.refresh()
    probe.devices = (device("GPU-1").silent(), device("GPU-2", free=3))
    clock.advance(TTL_S)
    await watch.refresh()
    assert free(watch, clock()) == {"GPU-1": 1, "GPU-2": 3}
    clock.advance(1.0)
    await watch.refresh()
    assert free(watch, clock()) == {"GPU-2": 3}
    assert watch.unknown(clock()) == {"GPU-1"}
    assert not watch.is_known(clock())
    assert not watch.is_known(clock(), "GPU-1")
    assert watch.is_known(clock(), "GPU-2")
    assert watch.vanished == frozenset()
    probe.devices = (device("GPU-1", free=5), device("GPU-2"))
    await watch.refresh()
    assert watch.is_known(clock())
    assert free(watch, clock())["GPU-1"] == 5


async def test_a_device_that_never_told_what_is_free_is_known_by_its_total(probe, clock):
    probe.devices = (device(free=None),)
    watch = MemoryWatch(probe, ttl_s=TTL_S, clock=clock)
    for _ in range(3):
        await watch.refresh()
        clock.advance(TTL_S)
        assert watch.is_known(clock())
        assert watch.readings(clock()) == {"GPU-1": device(free=None)}


async def test_row_62_a_device_that_is_in_no_answer_has_vanished_at_once(probe, clock):
    probe.devices = (device("GPU-1"), device("GPU-2"))
    watch = MemoryWatch(probe, clock=clock)
    await watch.refresh()
    probe.devices = (device("GPU-2"),)
    await watch.refresh()
    assert watch.readings(clock()).keys() == {"GPU-2"}
    assert watch.vanished == {"GPU-1"}
    assert watch.is_known(clock())
    assert not watch.is_known(clock(), "GPU-1")
    probe.devices = (device("GPU-1"), device("GPU-2"))
    await watch.refresh()
    assert watch.vanished == frozenset()


@pytest.mark.parametrize("error", [RuntimeError("broken"), OSError("odd")], ids=str)
async def test_row_61_a_probe_that_raises_has_not_answered(probe, clock, caplog, error):
    """It is said once."""
    watch = MemoryWatch(probe, ttl_s=TTL_S, clock=clock)
    assert await watch.refresh()
    probe.devices = error
    for _ in range(3):
        assert not await watch.refresh()
    assert free(watch, clock()) == {"GPU-1": 1}
    clock.advance(TTL_S + 1)
    assert not await watch.refresh()
    assert not watch.is_known(clock())
    assert [record.getMessage() for record in caplog.records] == [
        f"GPU memory cannot be read: {type(error).__name__}: {error}"
    ]


async def test_row_61_a_probe_that_hangs_does_not_delay_the_loop(probe):
    """Two seconds of hanging: a ticker of 10 ms goes on, and who asks waits for `timeout_s`, or not at all later on."""
    watch = MemoryWatch(probe, timeout_s=0.5)
    probe.hold()
    gaps = []

    async def tick():
        before = time.monotonic()
        while True:
            await asyncio.sleep(0.01)
            now = time.monotonic()
            gaps.append(now - before)
            before = now

    ticker = asyncio.ensure_future(tick())
    began = time.monotonic()
    assert not await watch.refresh()
    first_s = time.monotonic() - began
    while time.monotonic() < began + 2.0:
        asked = time.monotonic()
        assert not await watch.refresh()
        assert time.monotonic() - asked < 0.25  # the read is older than `timeout_s`
        await asyncio.sleep(0.05)
    ticker.cancel()
    assert 0.49 < first_s < 2.5
    assert len(gaps) > 20
    assert max(gaps) < 1.0
    assert probe.reads == 1


async def test_row_61_what_a_probe_says_in_the_end_is_still_taken(probe):
    watch = MemoryWatch(probe, timeout_s=0.01)
    probe.hold()
    assert not await watch.refresh()
    assert not watch.is_known(time.monotonic())
    probe.let_go()
    await until(lambda: watch.is_known(time.monotonic()))
    assert free(watch, time.monotonic()) == {"GPU-1": 1}


async def test_row_61_an_answer_that_took_longer_than_it_counts_is_not_believed(probe, clock):
    """It tells of a time too long ago; of what is there it tells all the same."""
    watch = MemoryWatch(probe, ttl_s=TTL_S, timeout_s=0.01, clock=clock)
    probe.hold()
    pending = asyncio.ensure_future(watch.refresh())
    await until(probe.entered.is_set)
    clock.advance(TTL_S + 1)
    probe.let_go()
    await pending
    await until(lambda: watch.asked_at == clock() - TTL_S - 1)
    assert watch.unknown(clock()) == {"GPU-1"}
    assert not watch.is_known(clock())


async def test_many_who_ask_share_one_read(probe):
    watch = MemoryWatch(probe, timeout_s=PATIENCE_S)
    probe.hold()
    asking = [asyncio.ensure_future(watch.refresh()) for _ in range(50)]
    await until(probe.entered.is_set)
    asking += [asyncio.ensure_future(watch.refresh()) for _ in range(50)]
    await asyncio.sleep(0)
    probe.let_go()
    assert await asyncio.gather(*asking) == [True] * 100
    assert probe.reads == 1
    assert await watch.refresh()
    assert probe.reads == 2


async def test_threads_do_not_pile_up_and_hold_up_no_exit(probe):
    watch = MemoryWatch(probe, timeout_s=0.0)
    probe.hold()
    for _ in range(20):
        assert not await watch.refresh()
    assert await asyncio.to_thread(probe.entered.wait, PATIENCE_S)
    (thread,) = probe.threads
    assert thread.daemon
    assert probe.reads == 1


async def test_one_who_leaves_takes_nobody_along(probe):
    watch = MemoryWatch(probe, timeout_s=PATIENCE_S)
    probe.hold()
    leaving, staying = asyncio.ensure_future(watch.refresh()), asyncio.ensure_future(watch.refresh())
    await until(probe.entered.is_set)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    probe.let_go()
    assert await staying
    assert watch._waiters == []


async def test_no_thread_to_be_had_is_no_answer(probe, monkeypatch):
    watch = MemoryWatch(probe)

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert not await watch.refresh()
    assert await watch.refresh()


def test_a_watch_outlives_its_loop(probe):
    """A loop that ends while the probe hangs is not waited for; the next one asks as ever."""
    watch = MemoryWatch(probe, timeout_s=0.05)
    probe.hold()
    assert not asyncio.run(watch.refresh())
    (thread,) = probe.threads

    async def leave():
        asyncio.ensure_future(watch.refresh())  # noqa: RUF006 - the loop ends before it does
        await asyncio.sleep(0)

    asyncio.run(leave())
    probe.let_go()
    thread.join(PATIENCE_S)
    assert watch.is_known(time.monotonic())
    assert asyncio.run(watch.refresh())
    assert probe.reads == 2


def test_a_loop_that_was_closed_keeps_no_answer_from_the_others(probe):
    """Closed as it is, with who asks on it: what the thread would wake is not there any more."""
    watch = MemoryWatch(probe, timeout_s=PATIENCE_S)
    probe.hold()
    closed = asyncio.new_event_loop()
    task = closed.create_task(watch.refresh())
    task._log_destroy_pending = False
    closed.run_until_complete(asyncio.sleep(0))
    closed.close()

    async def join():
        asking = asyncio.ensure_future(watch.refresh())
        await until(lambda: len(watch._waiters) == 2)
        probe.let_go()
        return await asking

    assert asyncio.run(join())


def test_loops_may_share_a_watch(probe):
    watch = MemoryWatch(probe, timeout_s=PATIENCE_S)
    probe.hold()
    answers = []
    loops = [threading.Thread(target=lambda: answers.append(asyncio.run(watch.refresh()))) for _ in range(3)]
    for loop in loops:
        loop.start()
    deadline = time.monotonic() + PATIENCE_S
    while len(watch._waiters) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    probe.let_go()
    for loop in loops:
        loop.join(PATIENCE_S)
    assert answers == [True] * 3
    assert probe.reads == 1


WORDS = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.one_of(st.none(), st.integers(0, 8)))


@settings(max_examples=200, deadline=None)
@given(answers=st.lists(st.tuples(st.floats(0.0, 8.0), WORDS), min_size=1, max_size=12), later_s=st.floats(0.0, 20.0))
def test_rows_61_and_62_every_device_is_read_unknown_or_vanished(answers, later_s):
    """One of the three, and a reading is never older than its time: checked against the whole history."""
    watch = MemoryWatch(StaticProbe(), ttl_s=TTL_S)
    now = 0.0
    history = {}
    for gap_s, words in answers:
        now += gap_s
        watch._take(now, tuple(device(uuid, free=free) for uuid, free in words.items()))
        for uuid, value in words.items():
            history.setdefault(uuid, []).append((now, value))
    now += later_s
    present = answers[-1][1].keys()
    readings = watch.readings(now)
    assert watch.vanished == history.keys() - present
    assert readings.keys() | watch.unknown(now) == present
    assert not readings.keys() & watch.unknown(now)
    for uuid in present:
        told = [(at, value) for at, value in history[uuid] if value is not None]
        at, value = told[-1] if told else history[uuid][-1]
        assert (uuid in readings) == (now - at <= TTL_S)
        if uuid in readings:
            assert readings[uuid].free_bytes == value


async def test_rows_61_and_62_from_the_driver_to_the_watch(clock):
    """A device that times out, one that is lost, and one that goes on."""
    fake = FakeNVML(Gpu("GPU-1", free=1), Gpu("GPU-2", free=2), Gpu("GPU-3", free=3))
    watch = MemoryWatch(NVMLProbe(fake), ttl_s=TTL_S, clock=clock)
    await watch.refresh()
    timeout, lost = fake.error("Timeout"), fake.error("GpuIsLost")
    fake.devices[0].fail = {"memory_v2": timeout}
    fake.devices[1].fail = {"memory_v2": lost}
    clock.advance(1.0)
    await watch.refresh()
    assert free(watch, clock()) == {"GPU-1": 1, "GPU-3": 3}
    assert watch.vanished == {"GPU-2"}
    clock.advance(TTL_S)
    await watch.refresh()
    assert free(watch, clock()) == {"GPU-3": 3}
    assert watch.unknown(clock()) == {"GPU-1"}
