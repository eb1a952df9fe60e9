"""Probes never raise, and say nothing rather than something wrong."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from smartrouter_asgi.vram import DeviceMemory, NVMLProbe, StaticProbe, detect_budget_bytes

GIB = 1024**3
ERRORS = [
    "Uninitialized",
    "NotSupported",
    "NoPermission",
    "NotFound",
    "DriverNotLoaded",
    "Timeout",
    "LibraryNotFound",
    "FunctionNotFound",
    "GpuIsLost",
    "LibRmVersionMismatch",
    "Unknown",
]


class FakeNVML:
    """What of `pynvml` the probe uses. `fail[name]` makes a function raise."""

    nvmlMemory_v2 = 0x02000028

    class NVMLError(Exception):
        pass

    def __init__(self, *devices):
        self.devices = list(devices)
        self.fail = {}
        self.calls = []

    def error(self, name):
        return type(f"NVMLError_{name}", (self.NVMLError,), {})()

    def _call(self, name):
        self.calls.append(name)
        if name in self.fail:
            raise self.fail[name]

    def nvmlInit(self):
        self._call("nvmlInit")

    def nvmlShutdown(self):
        self._call("nvmlShutdown")

    def nvmlDeviceGetCount(self):
        self._call("nvmlDeviceGetCount")
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index):
        self._call("nvmlDeviceGetHandleByIndex")
        return self.devices[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):
        self._call("nvmlDeviceGetHandleByUUID")
        return next(device for device in self.devices if device.uuid == uuid)

    def nvmlDeviceGetUUID(self, handle):
        self._call("nvmlDeviceGetUUID")
        return handle.uuid

    def nvmlDeviceGetName(self, handle):
        self._call("nvmlDeviceGetName")
        return handle.name

    def nvmlDeviceGetMemoryInfo(self, handle, version=None):
        self._call("memory_v2" if version else "memory_v1")
        if handle.error is not None:
            raise handle.error
        return SimpleNamespace(total=handle.total, free=handle.free, used=0)


def gpu(uuid="GPU-1", *, total=24 * GIB, free=20 * GIB, name="RTX"):
    return SimpleNamespace(uuid=uuid, name=name, total=total, free=free, error=None)


def test_every_device_is_read_with_what_is_free():
    probe = NVMLProbe(FakeNVML(gpu("GPU-1"), gpu("GPU-2", total=8 * GIB, free=GIB, name=b"A2")))
    assert probe.read() == (
        DeviceMemory(uuid="GPU-1", index=0, name="RTX", total_bytes=24 * GIB, free_bytes=20 * GIB),
        DeviceMemory(uuid="GPU-2", index=1, name="A2", total_bytes=8 * GIB, free_bytes=GIB),
    )
    assert probe.read()[1].used_bytes == 7 * GIB


def test_the_library_is_imported_on_the_first_read_only(monkeypatch):
    fake = FakeNVML(gpu())
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    probe = NVMLProbe()
    assert fake.calls == []
    assert len(probe.read()) == 1


def test_a_machine_without_the_module_reads_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert NVMLProbe().read() == ()


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize(
    "function",
    ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID", "memory_v2+memory_v1"],
)
def test_no_error_of_the_library_gets_out_of_a_first_read(function, name):
    fake = FakeNVML(gpu())
    fake.fail = dict.fromkeys(function.split("+"), fake.error(name))
    assert NVMLProbe(fake).read() == ()


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("function", ["nvmlDeviceGetCount", "nvmlDeviceGetHandleByUUID", "memory_v2+memory_v1"])
def test_a_reading_that_fails_later_leaves_the_last_known_one(function, name):
    fake = FakeNVML(gpu())
    probe = NVMLProbe(fake)
    known = probe.read()
    fake.fail = dict.fromkeys(function.split("+"), fake.error(name))
    assert probe.read() == known
    fake.fail = {}
    fake.devices[0].free = GIB
    assert probe.read()[0].free_bytes == GIB


def test_one_lost_device_does_not_hide_the_others():
    fake = FakeNVML(gpu("GPU-1"), gpu("GPU-2"))
    fake.devices[0].error = fake.error("GpuIsLost")
    assert [device.uuid for device in NVMLProbe(fake).read()] == ["GPU-2"]


def test_an_older_driver_is_read_in_the_first_version_of_the_structure():
    fake = FakeNVML(gpu())
    fake.fail = {"memory_v2": fake.error("FunctionNotFound")}
    assert NVMLProbe(fake).read()[0].free_bytes == 20 * GIB


def test_a_device_without_a_name_is_still_read():
    fake = FakeNVML(gpu())
    fake.fail = {"nvmlDeviceGetName": fake.error("Unknown")}
    assert NVMLProbe(fake).read()[0].name == "NVIDIA"


def test_a_device_keeps_its_uuid_when_the_order_changes():
    fake = FakeNVML(gpu("GPU-1", free=1), gpu("GPU-2", free=2))
    probe = NVMLProbe(fake)
    probe.read()
    fake.devices.reverse()
    assert {device.uuid: device.free_bytes for device in probe.read()} == {"GPU-1": 1, "GPU-2": 2}


def test_the_library_is_started_again_after_it_was_lost():
    fake = FakeNVML(gpu())
    probe = NVMLProbe(fake)
    probe.read()
    fake.fail = {"nvmlDeviceGetCount": fake.error("Uninitialized"), "nvmlShutdown": fake.error("Uninitialized")}
    probe.read()
    fake.fail = {}
    probe.read()
    assert fake.calls.count("nvmlInit") == 2


def test_closing_gives_the_library_back_once():
    fake = FakeNVML(gpu())
    probe = NVMLProbe(fake)
    probe.close()
    probe.read()
    probe.close()
    probe.close()
    assert fake.calls.count("nvmlShutdown") == 1


def test_closing_does_not_raise():
    fake = FakeNVML(gpu())
    probe = NVMLProbe(fake)
    probe.read()
    fake.fail = {"nvmlShutdown": fake.error("Unknown")}
    probe.close()


def test_the_real_library_never_raises_on_this_machine():
    pytest.importorskip("pynvml")
    probe = NVMLProbe()
    assert isinstance(probe.read(), tuple)
    probe.close()


@pytest.mark.gpu
def test_a_real_device_is_read():
    devices = NVMLProbe().read()
    if not devices:
        pytest.skip("no NVIDIA device answers here")
    for device in devices:
        assert device.uuid.startswith(("GPU-", "MIG-"))
        assert 0 < device.free_bytes <= device.total_bytes


@pytest.mark.parametrize(
    ("probe", "budget"),
    [
        (StaticProbe(), None),
        (StaticProbe(total_bytes=0), None),
        (StaticProbe(total_bytes=10 * GIB), 9 * GIB),
        (NVMLProbe(FakeNVML(gpu("GPU-1", total=10 * GIB), gpu("GPU-2", total=20 * GIB))), 27 * GIB),
    ],
)
def test_the_budget_is_ninety_percent_of_what_is_detected(probe, budget):
    assert detect_budget_bytes(probe) == budget


def test_a_static_probe_says_what_it_was_told():
    device = DeviceMemory(uuid="u", index=0, name="n", total_bytes=5, free_bytes=2)
    assert StaticProbe(device).read() == (device,)
    (declared,) = StaticProbe(total_bytes=7).read()
    assert (declared.total_bytes, declared.free_bytes) == (7, 7)
