"""NVIDIA through NVML: every error says something of one device, of the session, or nothing; none gets out."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartrouter_asgi.vram.probes import DeviceMemory, NVMLProbe

from .fake_nvml import CALLS, ERRORS, GIB, OTHERS, FakeNVML, Gpu

MEMORY = "memory_v2+memory_v1"
GONE = ["GpuIsLost", "ResetRequired", "NotFound"]
UNDIVIDED = ["NotSupported", "FunctionNotFound", "InvalidArgument", "AttributeError"]
SILENT = [name for name in ERRORS if name not in [*GONE, "Uninitialized", "NotSupported"]]


@pytest.fixture
def meminfo(tmp_path):
    path = tmp_path / "meminfo"
    path.write_text(
        "MemTotal:       127600748 kB\nMemFree:        1000 kB\nMemAvailable:   118566368 kB\nHugePages_Total: 0\n"
    )
    return path


def failing(calls, error):
    return dict.fromkeys(calls.split("+"), error)


def reason(error):
    return type(error).__name__.removeprefix("NVMLError_")


def by_uuid(devices):
    return {device.uuid: device for device in devices}


def test_every_device_is_read_with_what_is_free():
    probe = NVMLProbe(FakeNVML(Gpu("GPU-1"), Gpu("GPU-2", total=8 * GIB, free=GIB, name=b"A2")))
    assert probe.read() == (
        DeviceMemory(
            uuid="GPU-1", index=0, name="RTX", total_bytes=24 * GIB, free_bytes=20 * GIB, kind="nvidia", unified=False
        ),
        DeviceMemory(
            uuid="GPU-2", index=1, name="A2", total_bytes=8 * GIB, free_bytes=GIB, kind="nvidia", unified=False
        ),
    )
    assert probe.read()[1].used_bytes == 7 * GIB


def test_the_library_is_imported_on_the_first_read_only(monkeypatch):
    fake = FakeNVML(Gpu())
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    probe = NVMLProbe()
    assert fake.calls == []
    assert len(probe.read()) == 1


@pytest.mark.parametrize("stranger", [None, object()])
def test_a_machine_without_the_module_reads_nothing(monkeypatch, stranger):
    monkeypatch.setitem(sys.modules, "pynvml", stranger)
    assert NVMLProbe().read() == ()


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize(
    "calls", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID", MEMORY]
)
def test_row_61_no_error_of_the_library_gets_out_of_a_first_read(tmp_path, calls, name):
    fake = FakeNVML(Gpu())
    fake.fail = failing(calls, fake.error(name))
    assert NVMLProbe(fake, meminfo=tmp_path / "none").read() == ()


@pytest.mark.parametrize("calls", ["nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID", MEMORY])
@pytest.mark.parametrize("error", [*SILENT, *OTHERS], ids=str)
def test_row_61_a_device_that_does_not_answer_is_there_without_what_is_free(calls, error):
    """And tells again when it is asked again."""
    fake = FakeNVML(Gpu())
    probe = NVMLProbe(fake)
    (known,) = probe.read()
    fake.fail = failing(calls, fake.error(error) if isinstance(error, str) else error)
    for _ in range(3):
        assert probe.read() == (known.silent(),)
        assert known.silent().used_bytes is None
    fake.fail = {}
    fake.devices[0].free = GIB
    assert probe.read()[0].free_bytes == GIB


@pytest.mark.parametrize("calls", ["nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID", MEMORY])
def test_row_61_a_lost_session_is_begun_again_within_the_read(calls):
    """Once; while that does not help either, the devices are silent."""
    fake = FakeNVML(Gpu())
    probe = NVMLProbe(fake)
    known = probe.read()
    fake.fail = failing(calls, fake.error("Uninitialized")) | {"nvmlShutdown": fake.error("Uninitialized")}
    fake.hook = lambda name: fake.fail.clear() if name == "nvmlInit" else None
    assert probe.read() == known
    assert fake.calls.count("nvmlInit") == 2

    fake.hook = lambda name: None
    fake.fail = failing(calls, fake.error("Uninitialized"))
    assert probe.read() == (known[0].silent(),)
    assert fake.calls.count("nvmlInit") == 3
    fake.fail = {}
    assert probe.read() == known


@pytest.mark.parametrize("name", ["DriverNotLoaded", "LibraryNotFound"])
def test_row_62_devices_are_gone_with_their_driver(name):
    fake = FakeNVML(Gpu())
    probe = NVMLProbe(fake)
    probe.read()
    fake.fail = {"nvmlDeviceGetCount": fake.error("Uninitialized"), "nvmlInit": fake.error(name)}
    assert probe.read() == ()


@pytest.mark.parametrize("name", ["LibRmVersionMismatch", "Unknown", "NoPermission"])
def test_row_61_devices_stay_when_a_new_session_is_refused(name):
    """A driver was updated beneath running engines: they still hold its memory."""
    fake = FakeNVML(Gpu())
    probe = NVMLProbe(fake)
    (known,) = probe.read()
    fake.fail = {"nvmlDeviceGetCount": fake.error("Uninitialized"), "nvmlInit": fake.error(name)}
    assert probe.read() == (known.silent(),)


@pytest.mark.parametrize("calls", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID", "nvmlDeviceGetMigMode", MEMORY])
@pytest.mark.parametrize("name", GONE)
def test_row_62_a_lost_device_disappears_and_the_others_go_on(calls, name):
    fake = FakeNVML(Gpu("GPU-1"), Gpu("GPU-2"), Gpu("GPU-3"))
    probe = NVMLProbe(fake)
    before = by_uuid(probe.read())
    fake.devices[1].fail = failing(calls, fake.error(name))
    assert by_uuid(probe.read()) == {uuid: before[uuid] for uuid in ("GPU-1", "GPU-3")}
    fake.devices[1].fail = {}
    assert by_uuid(probe.read()) == before


def test_row_62_a_device_keeps_its_uuid_when_the_order_changes():
    fake = FakeNVML(Gpu("GPU-1", free=1), Gpu("GPU-2", free=2))
    probe = NVMLProbe(fake)
    probe.read()
    fake.devices.reverse()
    assert {device.uuid: (device.free_bytes, device.index) for device in probe.read()} == {
        "GPU-1": (1, 1),
        "GPU-2": (2, 0),
    }


def test_row_62_a_device_that_is_not_counted_any_more_is_gone():
    fake = FakeNVML(Gpu("GPU-1"), Gpu("GPU-2"))
    probe = NVMLProbe(fake)
    probe.read()
    del fake.devices[0]
    assert [device.uuid for device in probe.read()] == ["GPU-2"]


def test_row_62_a_silent_index_hides_no_device_that_moved():
    """What cannot be told apart at a silent index is what was there and is nowhere else."""
    fake = FakeNVML(Gpu("GPU-1"), Gpu("GPU-2"))
    probe = NVMLProbe(fake)
    probe.read()
    fake.devices.reverse()
    fake.devices[0].fail = {"nvmlDeviceGetUUID": fake.error("Timeout")}
    assert [(device.uuid, device.index) for device in probe.read()] == [("GPU-1", 1)]


def mig(*slices, uuid="GPU-parent"):
    return Gpu(uuid, slices=list(slices))


def test_a_divided_device_is_its_slices():
    """Holes are passed over, and the parent's memory is not asked for."""
    fake = FakeNVML(
        mig(Gpu("MIG-a", total=10 * GIB, free=9 * GIB, name="1g.10gb"), None, Gpu("MIG-b", total=20 * GIB)),
        Gpu("GPU-2"),
    )
    devices = NVMLProbe(fake).read()
    assert [(device.uuid, device.index, device.total_bytes) for device in devices] == [
        ("MIG-a", 0, 10 * GIB),
        ("MIG-b", 0, 20 * GIB),
        ("GPU-2", 1, 24 * GIB),
    ]
    assert fake.calls.count("memory_v2") == 3


def test_row_61_a_divided_device_is_never_taken_for_a_whole_one():
    """Its parent's memory, where it may be read, is that of its slices."""
    fake = FakeNVML(mig(Gpu("MIG-a")))
    fake.fail = {"nvmlDeviceGetMigMode": fake.error("Timeout")}
    assert NVMLProbe(fake).read() == ()


@pytest.mark.parametrize("name", [*GONE, *SILENT])
@pytest.mark.parametrize("calls", ["nvmlDeviceGetUUID", MEMORY])
def test_row_62_an_error_of_one_slice_is_no_error_of_the_others(calls, name):
    bad, good = Gpu("MIG-bad"), Gpu("MIG-good")
    fake = FakeNVML(mig(bad, good))
    probe = NVMLProbe(fake)
    before = by_uuid(probe.read())
    bad.fail = failing(calls, fake.error(name))
    after = by_uuid(probe.read())
    assert after["MIG-good"] == before["MIG-good"]
    assert after.get("MIG-bad") == (None if name in GONE else before["MIG-bad"].silent())


def test_row_62_a_device_divided_anew_is_other_devices():
    fake = FakeNVML(Gpu("GPU-1"))
    probe = NVMLProbe(fake)
    probe.read()
    fake.devices[0] = mig(Gpu("MIG-a"), Gpu("MIG-b"), uuid="GPU-1")
    assert by_uuid(probe.read()).keys() == {"MIG-a", "MIG-b"}
    fake.devices[0].slices = [Gpu("MIG-c"), None]
    assert by_uuid(probe.read()).keys() == {"MIG-c"}
    fake.devices[0] = Gpu("GPU-1")
    assert by_uuid(probe.read()).keys() == {"GPU-1"}


def test_row_61_slices_are_silent_when_their_handles_are_refused():
    fake = FakeNVML(mig(Gpu("MIG-a"), Gpu("MIG-b")))
    probe = NVMLProbe(fake)
    probe.read()
    fake.fail = {"nvmlDeviceGetMigDeviceHandleByIndex": fake.error("NoPermission")}
    assert {device.uuid: device.free_bytes for device in probe.read()} == {"MIG-a": None, "MIG-b": None}


@pytest.mark.parametrize("error", ["NotSupported", "FunctionNotFound", AttributeError("an older binding")], ids=str)
def test_a_device_that_knows_nothing_of_division_is_whole(error):
    fake = FakeNVML(Gpu())
    fake.fail = {"nvmlDeviceGetMigMode": fake.error(error) if isinstance(error, str) else error}
    assert NVMLProbe(fake).read()[0].free_bytes == 20 * GIB


def test_memory_that_is_not_supported_is_the_systems(meminfo):
    """GB10, Jetson: what NVML does not tell `/proc/meminfo` does."""
    gb10 = Gpu("GPU-gb10", name="NVIDIA GB10")
    fake = FakeNVML(gb10)
    gb10.fail = failing(MEMORY, fake.error("NotSupported"))
    (device,) = NVMLProbe(fake, meminfo=meminfo).read()
    assert (device.total_bytes, device.free_bytes) == (127600748 * 1024, 118566368 * 1024)
    assert device.unified
    assert device.kind == "nvidia"


def test_a_device_of_no_size_has_the_systems_memory(meminfo):
    assert NVMLProbe(FakeNVML(Gpu(total=0, free=0)), meminfo=meminfo).read()[0].unified


def test_unified_memory_that_cannot_be_read_makes_the_device_silent(meminfo):
    fake = FakeNVML(Gpu(fail=failing(MEMORY, FakeNVML().error("NotSupported"))))
    probe = NVMLProbe(fake, meminfo=meminfo)
    (known,) = probe.read()
    meminfo.write_text("MemTotal: many\n")
    assert probe.read() == (known.silent(),)
    meminfo.unlink()
    assert probe.read() == (known.silent(),)


@pytest.mark.parametrize("slices", [False, True])
def test_the_systems_memory_is_never_taken_for_that_of_a_device_with_its_own(meminfo, slices):
    device = Gpu("MIG-a" if slices else "GPU-1")
    fake = FakeNVML(mig(device) if slices else device)
    probe = NVMLProbe(fake, meminfo=meminfo)
    if not slices:
        probe.read()
    device.fail = failing(MEMORY, fake.error("NotSupported"))
    assert not [reading for reading in probe.read() if reading.unified or reading.free_bytes is not None]


@pytest.mark.parametrize("error", ["FunctionNotFound", "InvalidArgument", TypeError("no argument `version`")], ids=str)
def test_an_older_driver_is_read_in_the_first_version_of_the_structure(error):
    fake = FakeNVML(Gpu())
    fake.fail = {"memory_v2": fake.error(error) if isinstance(error, str) else error}
    assert NVMLProbe(fake).read()[0].free_bytes == 20 * GIB


def test_an_older_binding_is_read_in_the_first_version_of_the_structure(monkeypatch):
    monkeypatch.delattr(FakeNVML, "nvmlMemory_v2")
    fake = FakeNVML(Gpu())
    assert NVMLProbe(fake).read()[0].free_bytes == 20 * GIB
    assert "memory_v2" not in fake.calls


@pytest.mark.parametrize(
    ("total", "free", "expected"),
    [(None, None, None), (GIB, None, (GIB, None)), (GIB, 2 * GIB, (GIB, GIB)), (GIB, -1, (GIB, 0))],
)
def test_numbers_that_cannot_be_are_not_passed_on(tmp_path, total, free, expected):
    devices = NVMLProbe(FakeNVML(Gpu(total=total, free=free)), meminfo=tmp_path / "none").read()
    assert [(device.total_bytes, device.free_bytes) for device in devices] == ([expected] if expected else [])


def test_a_device_without_a_name_is_still_read():
    fake = FakeNVML(Gpu())
    fake.fail = {"nvmlDeviceGetName": fake.error("Unknown")}
    assert NVMLProbe(fake).read()[0].name == "NVIDIA"


def test_closing_gives_the_library_back_once():
    fake = FakeNVML(Gpu())
    probe = NVMLProbe(fake)
    probe.close()
    probe.read()
    probe.close()
    probe.close()
    assert fake.calls.count("nvmlShutdown") == 1
    assert len(probe.read()) == 1


def test_closing_does_not_raise():
    fake = FakeNVML(Gpu())
    probe = NVMLProbe(fake)
    probe.read()
    fake.fail = {"nvmlShutdown": fake.error("Unknown")}
    probe.close()


@settings(max_examples=300, deadline=None)
@given(
    rate=st.floats(0.05, 0.9),
    seed=st.integers(0, 2**32 - 1),
    reads=st.integers(1, 8),
)
def test_row_61_no_sequence_of_errors_gets_out_or_lies(rate, seed, reads):
    """Each call of each read may fail in any way: a reading is then of what is there now, or says that it is silent."""
    chance = random.Random(seed)
    fake = FakeNVML(
        Gpu("GPU-1", total=8, free=1), mig(Gpu("MIG-a", total=8, free=2), None, Gpu("MIG-b", total=8, free=3))
    )
    errors = [*(fake.error(name) for name in ERRORS), *OTHERS]
    true = {"GPU-1": 1, "MIG-a": 2, "MIG-b": 3}
    probe = NVMLProbe(fake, meminfo=Path(__file__))

    def fail_at_random(name):
        if chance.random() < rate:
            error = chance.choice(errors)
            if name != "nvmlDeviceGetMigMode" or reason(error) not in UNDIVIDED:
                raise error

    fake.hook = fail_at_random
    for _ in range(reads):
        devices = probe.read()
        assert len(by_uuid(devices)) == len(devices)
        for device in devices:
            assert device.total_bytes == 8
            assert device.free_bytes in (None, true[device.uuid])
    fake.hook = lambda name: None
    assert {device.uuid: device.free_bytes for device in probe.read()} == true


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("error", [*ERRORS, *OTHERS], ids=str)
def test_row_61_every_error_of_every_call_leaves_the_next_read_whole(tmp_path, call, error):
    fake = FakeNVML(Gpu("GPU-1"), mig(Gpu("MIG-a")))
    probe = NVMLProbe(fake, meminfo=tmp_path / "none")
    whole = probe.read()
    fake.fail = {call: fake.error(error) if isinstance(error, str) else error}
    told_whole = call == "nvmlDeviceGetMigMode" and reason(fake.fail[call]) in UNDIVIDED
    assert by_uuid(probe.read()).keys() <= ({"GPU-1", "GPU-parent"} if told_whole else by_uuid(whole).keys())
    fake.fail = {}
    assert probe.read() == whole


def test_the_real_library_never_raises_on_this_machine():
    pytest.importorskip("pynvml")
    probe = NVMLProbe()
    assert isinstance(probe.read(), tuple)
    probe.close()
