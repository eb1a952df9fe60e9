"""Probes together: what counts, under which number, and that none of them takes the others down."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from smartrouter_asgi.vram import DeviceMemory, NVMLProbe, StaticProbe, detect_budget_bytes
from smartrouter_asgi.vram.probes import AMDProbe, AppleProbe, IntelProbe, SystemProbe, countable

from .fake_nvml import GIB, FakeNVML, Gpu


def device(uuid, *, index=0, total=8 * GIB, free=0, kind="nvidia", unified=False):
    return DeviceMemory(
        uuid=uuid, index=index, name=uuid, total_bytes=total, free_bytes=free, kind=kind, unified=unified
    )


def apu(uuid="apu", *, index=0, total=32 * GIB):
    return device(uuid, index=index, total=total, kind="amd", unified=True)


class Probe:
    """Reads what `devices` is now, or raises it."""

    def __init__(self, *devices):
        self.devices = devices

    def read(self):
        if isinstance(self.devices, Exception):
            raise self.devices
        return self.devices


def numbers(probe):
    return {reading.uuid: reading.index for reading in probe.read()}


@pytest.mark.parametrize(
    ("probe", "budget"),
    [
        (StaticProbe(), None),
        (StaticProbe(total_bytes=0), None),
        (StaticProbe(total_bytes=10 * GIB), 9 * GIB),
        (NVMLProbe(FakeNVML(Gpu("GPU-1", total=10 * GIB), Gpu("GPU-2", total=20 * GIB))), 27 * GIB),
        (StaticProbe(device("GPU-1", total=10 * GIB), apu(total=90 * GIB)), 9 * GIB),
        (StaticProbe(apu(total=10 * GIB), apu("other", total=20 * GIB)), 18 * GIB),
    ],
)
def test_the_budget_is_ninety_percent_of_what_is_detected(probe, budget):
    assert detect_budget_bytes(probe) == budget


def test_a_static_probe_says_what_it_was_told():
    told = DeviceMemory(uuid="u", index=0, name="n", total_bytes=5, free_bytes=2)
    assert (told.kind, told.unified) == ("declared", False)
    assert StaticProbe(told).read() == (told,)
    (declared,) = StaticProbe(total_bytes=7).read()
    assert (declared.total_bytes, declared.free_bytes) == (7, 7)


def test_what_is_free_may_be_unknown():
    silent = device("GPU-1", free=GIB).silent()
    assert (silent.free_bytes, silent.used_bytes, silent.total_bytes) == (None, None, 8 * GIB)


def test_nothing_counts_of_nothing():
    assert countable([]) == ()


def test_a_machine_without_devices_reads_nothing(tmp_path):
    absent = tmp_path / "none"
    fake = FakeNVML()
    fake.fail = {"nvmlInit": fake.error("LibraryNotFound")}
    probes = (NVMLProbe(fake), AMDProbe(absent), IntelProbe(absent), AppleProbe(platform="linux"))
    assert SystemProbe(*probes).read() == ()


def test_the_devices_of_this_machine_are_read_without_raising():
    uuids = [reading.uuid for reading in SystemProbe().read()]
    assert len(uuids) == len(set(uuids))


def test_numbers_are_the_drivers_where_they_are_not_taken():
    slices = [device("MIG-a", index=0), device("MIG-b", index=0), device("GPU-2", index=1)]
    probe = SystemProbe(Probe(*slices), Probe(device("amd-0", index=0, kind="amd")))
    assert numbers(probe) == {"MIG-a": 0, "MIG-b": 1, "GPU-2": 2, "amd-0": 3}
    assert numbers(SystemProbe(Probe(device("GPU-1", index=1)))) == {"GPU-1": 1}


def test_row_62_a_number_stays_with_its_device():
    """Whatever the driver's order becomes, and also while the device is away."""
    nvidia, amd = Probe(device("GPU-0", index=0), device("GPU-1", index=1)), Probe(device("amd-0", kind="amd"))
    probe = SystemProbe(nvidia, amd)
    assert numbers(probe) == {"GPU-0": 0, "GPU-1": 1, "amd-0": 2}
    nvidia.devices = (device("GPU-1", index=0), device("GPU-0", index=1))
    assert numbers(probe) == {"GPU-0": 0, "GPU-1": 1, "amd-0": 2}
    nvidia.devices = (device("GPU-1", index=0), device("GPU-new", index=1))
    assert numbers(probe) == {"GPU-1": 1, "amd-0": 2, "GPU-new": 3}
    nvidia.devices = (device("GPU-0", index=0),)
    assert numbers(probe) == {"GPU-0": 0, "amd-0": 2}


def test_row_62_integrated_graphics_does_not_stand_in_for_a_card_that_was_lost():
    """D27: its memory is the system's, and the engines do not use it."""
    nvidia = Probe(device("GPU-0"))
    probe = SystemProbe(nvidia, Probe(apu()))
    assert numbers(probe).keys() == {"GPU-0"}
    nvidia.devices = ()
    assert numbers(probe) == {}
    assert numbers(SystemProbe(nvidia, Probe(apu()))).keys() == {"apu"}


def test_row_61_a_probe_that_raises_takes_no_other_down():
    nvidia, amd = Probe(device("GPU-0", free=GIB)), Probe(device("amd-0", index=1, free=GIB, kind="amd"))
    probe = SystemProbe(nvidia, amd)
    first, second = probe.read()
    nvidia.devices = RuntimeError("broken")
    for _ in range(2):
        assert probe.read() == (first.silent(), second)
    assert SystemProbe(nvidia, amd).read() == (second,)


def test_reads_from_two_threads_come_one_after_the_other():
    inside, most = [], []

    class Slow(Probe):
        def read(self):
            inside.append(1)
            most.append(len(inside))
            gate.wait(0.05)
            inside.pop()
            return self.devices

    gate = threading.Event()
    probe = SystemProbe(Slow(device("GPU-0")))
    threads = [threading.Thread(target=probe.read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert most == [1] * 4


def test_declared_memory_takes_the_place_of_the_detected():
    """Of its kind alone, and it counts beside a card."""
    probe = SystemProbe(Probe(device("GPU-0")), Probe(apu()), amd_unified_memory_bytes=96 * GIB)
    card, declared = probe.read()
    assert card.uuid == "GPU-0"
    assert (declared.uuid, declared.index, declared.total_bytes, declared.kind) == ("amd-unified", 1, 96 * GIB, "amd")
    assert numbers(SystemProbe(Probe(apu()), amd_unified_memory_bytes=96 * GIB)) == {"amd-unified": 0}
    discrete = replace(apu("amd-card"), unified=False)
    probe = SystemProbe(Probe(discrete, apu()), amd_unified_memory_bytes=96 * GIB)
    assert numbers(probe).keys() == {"amd-card", "amd-unified"}
    probe = SystemProbe(Probe(apu()), apple_unified_memory_bytes=64 * GIB)
    assert numbers(probe).keys() == {"apu", "apple-unified"}
