"""NVIDIA devices through NVML, by UUID; a machine without the library is a normal machine."""

from __future__ import annotations

import threading
from typing import Any

from .base import DeviceMemory


class NVMLProbe:
    """Reads every NVIDIA device.

    Nothing is raised: without driver or library the reading is empty, and a device that stops answering keeps its last
    known reading. `module` stands in for `pynvml`, which is imported on the first read only.
    """

    def __init__(self, module: Any = None) -> None:
        self._nvml = module
        self._ready = False
        self._lock = threading.Lock()
        self._known: dict[str, DeviceMemory] = {}
        self._uuid_of: dict[int, str] = {}

    def read(self) -> tuple[DeviceMemory, ...]:
        """Return one reading per device, in the driver's order."""
        with self._lock:
            if self._ready or self._start():
                self._read_all()
            return tuple(sorted(self._known.values(), key=lambda device: device.index))

    def close(self) -> None:
        """Give the library back; a later read starts it again."""
        with self._lock:
            if self._ready:
                self._ready = False
                try:
                    self._nvml.nvmlShutdown()
                except self._nvml.NVMLError:
                    return

    def _start(self) -> bool:
        if self._nvml is None:
            try:
                import pynvml
            except ImportError:
                return False
            self._nvml = pynvml
        try:
            self._nvml.nvmlInit()
        except (self._nvml.NVMLError, OSError):
            return False
        self._ready = True
        return True

    def _read_all(self) -> None:
        try:
            count = int(self._nvml.nvmlDeviceGetCount())
        except self._nvml.NVMLError:
            self._restart_next_time()
            return
        for index in range(count):
            try:
                device = self._read_one(index)
            except self._nvml.NVMLError:
                continue
            if device.total_bytes > 0:
                self._known[device.uuid] = device

    def _read_one(self, index: int) -> DeviceMemory:
        nvml = self._nvml
        uuid = self._uuid_of.get(index)
        if uuid is None:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = self._uuid_of[index] = _text(nvml.nvmlDeviceGetUUID(handle))
        else:
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        known = self._known.get(uuid)
        memory = self._memory(handle)
        return DeviceMemory(
            uuid=uuid,
            index=index,
            name=known.name if known is not None else self._name(handle),
            total_bytes=int(memory.total),
            free_bytes=int(memory.free),
        )

    def _memory(self, handle: Any) -> Any:
        """Read memory in the second version of the structure, in the first where the driver is older."""
        nvml = self._nvml
        version = getattr(nvml, "nvmlMemory_v2", None)
        if version is not None:
            try:
                return nvml.nvmlDeviceGetMemoryInfo(handle, version=version)
            except (nvml.NVMLError, TypeError):
                pass  # an older driver, or an older binding without the argument
        return nvml.nvmlDeviceGetMemoryInfo(handle)

    def _name(self, handle: Any) -> str:
        try:
            return _text(self._nvml.nvmlDeviceGetName(handle))
        except self._nvml.NVMLError:
            return "NVIDIA"

    def _restart_next_time(self) -> None:
        """Drop the session: after a driver reset only a new `nvmlInit` helps, and indices may have moved."""
        self._ready = False
        self._uuid_of.clear()
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError:
            return


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
