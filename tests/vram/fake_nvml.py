"""A module that stands in for `pynvml`: devices, slices, and an error for any call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

GIB = 1024**3

ERRORS = [
    "Uninitialized",
    "InvalidArgument",
    "NotSupported",
    "NoPermission",
    "NotFound",
    "DriverNotLoaded",
    "Timeout",
    "LibraryNotFound",
    "FunctionNotFound",
    "GpuIsLost",
    "ResetRequired",
    "LibRmVersionMismatch",
    "Unknown",
]
"""The classes of NVML's own errors."""

OTHERS = [OSError("odd"), AttributeError("odd"), TypeError("odd"), ValueError("odd"), KeyError("odd")]
"""What a wrapper raises on an odd installation."""


@dataclass
class Gpu:
    """A device, or a slice; `fail[name]` makes a call about it raise."""

    uuid: str = "GPU-1"
    total: int | None = 24 * GIB
    free: int | None = 20 * GIB
    name: str | bytes = "RTX"
    slices: list[Gpu | None] | None = None
    """None: no MIG; None within: a hole."""
    fail: dict[str, Exception] = field(default_factory=dict)


class FakeNVML:
    """What of `pynvml` the probe uses. `fail[name]` makes a call raise; `hook(name)` is called first of all."""

    nvmlMemory_v2 = 0x02000028

    class NVMLError(Exception):
        pass

    def __init__(self, *devices: Gpu) -> None:
        self.devices = list(devices)
        self.fail: dict[str, Exception] = {}
        self.hook: Callable[[str], None] = lambda name: None
        self.calls: list[str] = []

    def error(self, name: str) -> Exception:
        return type(f"NVMLError_{name}", (self.NVMLError,), {})()

    def _call(self, name: str, device: Gpu | None = None) -> None:
        self.calls.append(name)
        self.hook(name)
        failure = self.fail.get(name) or (device.fail.get(name) if device is not None else None)
        if failure is not None:
            raise failure

    def nvmlInit(self):
        self._call("nvmlInit")

    def nvmlShutdown(self):
        self._call("nvmlShutdown")

    def nvmlDeviceGetCount(self):
        self._call("nvmlDeviceGetCount")
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index):
        self._call("nvmlDeviceGetHandleByIndex", self.devices[index])
        return self.devices[index]

    def nvmlDeviceGetUUID(self, handle):
        self._call("nvmlDeviceGetUUID", handle)
        return handle.uuid

    def nvmlDeviceGetName(self, handle):
        self._call("nvmlDeviceGetName", handle)
        return handle.name

    def nvmlDeviceGetMigMode(self, handle):
        self._call("nvmlDeviceGetMigMode", handle)
        if handle.slices is None:
            raise self.error("NotSupported")
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle):
        self._call("nvmlDeviceGetMaxMigDeviceCount", handle)
        return len(handle.slices)

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle, place):
        self._call("nvmlDeviceGetMigDeviceHandleByIndex", handle)
        if handle.slices[place] is None:
            raise self.error("NotFound")
        return handle.slices[place]

    def nvmlDeviceGetMemoryInfo(self, handle, version=None):
        self._call("memory_v2" if version else "memory_v1", handle)
        return SimpleNamespace(total=handle.total, free=handle.free, used=0)


CALLS = [
    "nvmlInit",
    "nvmlShutdown",
    "nvmlDeviceGetCount",
    "nvmlDeviceGetHandleByIndex",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetName",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetMaxMigDeviceCount",
    "nvmlDeviceGetMigDeviceHandleByIndex",
    "memory_v2",
    "memory_v1",
]
