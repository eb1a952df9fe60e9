"""NVIDIA devices through NVML, by UUID; a machine without the library is a normal machine.

What an error says of a device:

1. `Uninitialized`: nothing; the session is gone. A new one is begun and everything read once more.
2. `GpuIsLost`, `ResetRequired`, `NotFound`: it is gone. It is in no reading.
3. `NotSupported` of memory, on a device that never told any: its memory is the system's (GB10, Jetson).
4. Anything else (`Timeout`, `NoPermission`, `Unknown`, a wrapper that stumbles): nothing. It is there and silent: its
   last known total without what is free; in no reading while nothing was ever known of it.

A divided device (MIG) is its slices; its own memory, which needs a privilege, is never asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .base import DeviceMemory
from .meminfo import MEMINFO, read_meminfo

_GONE = {"GpuIsLost", "ResetRequired", "NotFound"}
_NO_DRIVER = {"DriverNotLoaded", "LibraryNotFound"}
_UNDIVIDED = {"NotSupported", "FunctionNotFound", "InvalidArgument", "AttributeError"}
"""How a device, a driver or a binding answers that knows nothing of slices."""


class _SessionLostError(Exception):
    """Only a new `nvmlInit` helps; indices may have moved."""


class NVMLProbe:
    """Reads every NVIDIA device and every slice of a divided one.

    `module` stands in for `pynvml`, which is imported on the first read only; `meminfo` tells of unified memory.
    """

    def __init__(self, module: Any = None, *, meminfo: Path = MEMINFO) -> None:
        self._nvml = module
        self._meminfo = meminfo
        self._ready = False
        self._lock = threading.Lock()
        self._known: dict[str, DeviceMemory] = {}

    def read(self) -> tuple[DeviceMemory, ...]:
        """Return one reading per device, in the driver's order."""
        with self._lock:
            found = self._read_session()
            self._known = {device.uuid: device for device in found}
            return tuple(found)

    def close(self) -> None:
        """Give the library back; a later read starts it again. A read under way keeps it."""
        if self._lock.acquire(blocking=False):
            try:
                self._end_session()
            finally:
                self._lock.release()

    def _read_session(self) -> list[DeviceMemory]:
        for _ in range(2):
            if not self._ready:
                refusal = self._begin_session()
                if refusal is not None:
                    return [] if refusal in _NO_DRIVER else self._all_silent()
            try:
                return self._read_all()
            except _SessionLostError:
                self._end_session()
        return self._all_silent()

    def _begin_session(self) -> str | None:
        """Return None when there is a session, else the reason why not."""
        try:
            if self._nvml is None:
                import pynvml

                self._nvml = pynvml
            self._nvml.nvmlInit()
        except Exception as error:  # whatever an odd installation raises
            return _reason(error)
        self._ready = True
        return None

    def _end_session(self) -> None:
        if not self._ready:
            return
        self._ready = False
        try:
            self._nvml.nvmlShutdown()
        except Exception:
            return  # it was gone already

    def _all_silent(self) -> list[DeviceMemory]:
        return [device.silent() for device in self._known.values()]

    def _read_all(self) -> list[DeviceMemory]:
        try:
            count = int(self._nvml.nvmlDeviceGetCount())
        except Exception as error:
            if _reason(error) == "Uninitialized":
                raise _SessionLostError from error
            self._end_session()
            return self._all_silent()
        found: dict[str, DeviceMemory] = {}
        silent: set[int] = set()
        gone: set[str] = set()
        for index in range(count):
            self._read_index(index, found, silent, gone)
        for device in self._known.values():
            if device.uuid not in found and device.uuid not in gone and device.index in silent:
                found[device.uuid] = device.silent()
        return sorted(found.values(), key=lambda device: device.index)

    def _read_index(self, index: int, found: dict[str, DeviceMemory], silent: set[int], gone: set[str]) -> None:
        """Put what the driver has at `index` where it belongs; `silent` are indices where something did not tell."""
        try:
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            parts = list(self._parts(handle, index, silent))
        except Exception as error:
            self._note(error, index, silent)
            return
        for part, divided in parts:
            try:
                device = self._read_one(part, index, divided=divided, gone=gone)
            except Exception as error:
                self._note(error, index, silent)
                continue
            if device is not None:
                found[device.uuid] = device

    def _parts(self, handle: Any, index: int, silent: set[int]) -> Iterator[tuple[Any, bool]]:
        """Yield the handles to read: the device itself, or the slices of a divided one."""
        nvml = self._nvml
        try:
            divided = bool(nvml.nvmlDeviceGetMigMode(handle)[0])
        except Exception as error:
            if _reason(error) not in _UNDIVIDED:
                raise  # taken for whole, a divided device would be read twice
            divided = False
        if not divided:
            yield handle, False
            return
        for place in range(int(nvml.nvmlDeviceGetMaxMigDeviceCount(handle))):
            try:
                part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
            except Exception as error:
                if _reason(error) not in ("NotFound", "InvalidArgument"):  # these are holes
                    self._note(error, index, silent)
                continue
            yield part, True

    def _read_one(self, handle: Any, index: int, *, divided: bool, gone: set[str]) -> DeviceMemory | None:
        uuid = None
        try:
            uuid = _text(self._nvml.nvmlDeviceGetUUID(handle))
            known = self._known.get(uuid)
            sizes = self._sizes(handle, may_be_unified=not divided and (known is None or known.unified))
        except Exception as error:
            reason = _reason(error)
            if reason == "Uninitialized":
                raise _SessionLostError from error
            if reason in _GONE:
                gone.add(uuid or "")
                return None
            if uuid is None:
                raise
            silent = self._known.get(uuid)
            return None if silent is None else silent.silent()
        total_bytes, free_bytes, unified = sizes
        return DeviceMemory(
            uuid=uuid,
            index=index,
            name=self._name(handle) if known is None else known.name,
            total_bytes=total_bytes,
            free_bytes=free_bytes,
            kind="nvidia",
            unified=unified,
        )

    def _sizes(self, handle: Any, *, may_be_unified: bool) -> tuple[int, int | None, bool]:
        """Return total, free and whether both are the system's. Raises what NVML raises."""
        try:
            memory = self._memory(handle)
            total_bytes = int(memory.total)
            if total_bytes > 0:
                free_bytes = memory.free
                return total_bytes, None if free_bytes is None else min(max(int(free_bytes), 0), total_bytes), False
            failure: Exception = ValueError("a device without memory")
        except Exception as error:
            if _reason(error) != "NotSupported":
                raise
            failure = error
        system = read_meminfo(self._meminfo) if may_be_unified else None
        if system is None:
            raise failure
        return system.total_bytes, system.available_bytes, True

    def _memory(self, handle: Any) -> Any:
        """Read memory in the second version of the structure, in the first where the driver is older."""
        nvml = self._nvml
        version = getattr(nvml, "nvmlMemory_v2", None)
        if version is not None:
            try:
                return nvml.nvmlDeviceGetMemoryInfo(handle, version=version)
            except Exception as error:  # an older driver, or an older binding without the argument
                if _reason(error) in _GONE | {"Uninitialized", "Timeout"}:
                    raise
        return nvml.nvmlDeviceGetMemoryInfo(handle)

    def _name(self, handle: Any) -> str:
        try:
            return _text(self._nvml.nvmlDeviceGetName(handle))
        except Exception:
            return "NVIDIA"

    def _note(self, error: Exception, index: int, silent: set[int]) -> None:
        """Draw the conclusion from an error at `index`. Raises `_SessionLostError`."""
        reason = _reason(error)
        if isinstance(error, _SessionLostError) or reason == "Uninitialized":
            raise _SessionLostError from error
        if reason not in _GONE:
            silent.add(index)


def _reason(error: Exception) -> str:
    """Return the name that NVML's binding gives an error, without its prefix; of others their own."""
    return type(error).__name__.removeprefix("NVMLError_")


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
