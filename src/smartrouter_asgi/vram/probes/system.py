"""All probes together: what this machine has."""

from __future__ import annotations

import threading
from dataclasses import replace

from .amd import AMDProbe
from .apple import AppleProbe
from .base import DeviceMemory, MemoryProbe, countable
from .intel import IntelProbe
from .nvml import NVMLProbe
from .static import UnifiedProbe


class SystemProbe:
    """Reads NVIDIA, AMD, Intel and Apple devices, or what `probes` read; empty on a machine without any.

    - Integrated graphics is left out once a card was seen, also while that does not answer: engines would not use it.
      Where there are no cards it is the largest unified device.
    - Declared unified memory takes the place of the detected one of its kind, and is never left out.
    - A device keeps the first `index` it had here for good, so that a limit by index stays with it when the driver's
      order changes: the driver's where that is not taken yet, else the next number.
    """

    def __init__(
        self,
        *probes: MemoryProbe,
        amd_unified_memory_bytes: int | None = None,
        apple_unified_memory_bytes: int | None = None,
    ) -> None:
        self._probes: tuple[MemoryProbe, ...] = probes or (NVMLProbe(), AMDProbe(), IntelProbe(), AppleProbe())
        self._declared: list[UnifiedProbe] = []
        self._replaced: set[str] = set()
        if amd_unified_memory_bytes is not None:
            self._declare(UnifiedProbe(kind="amd", total_bytes=amd_unified_memory_bytes), "amd")
        if apple_unified_memory_bytes is not None:
            self._declare(UnifiedProbe(kind="apple", total_bytes=apple_unified_memory_bytes), "apple")
        self._last: dict[int, tuple[DeviceMemory, ...]] = {}
        self._lock = threading.Lock()
        self._saw_card = False
        self._index: dict[str, int] = {}

    def read(self) -> tuple[DeviceMemory, ...]:
        """Return one reading per device, by index; one read at a time."""
        with self._lock:
            return self._read()

    def _read(self) -> tuple[DeviceMemory, ...]:
        found = [device for place, probe in enumerate(self._probes) for device in self._ask(place, probe)]
        kept = [device for device in found if not (device.unified and device.kind in self._replaced)]
        self._saw_card = self._saw_card or any(not device.unified for device in kept)
        detected = [device for device in kept if not device.unified] if self._saw_card else list(countable(kept))
        declared = [device for probe in self._declared for device in probe.read()]
        numbered = [replace(device, index=self._number(device)) for device in (*detected, *declared)]
        return tuple(sorted(numbered, key=lambda device: device.index))

    def _declare(self, probe: UnifiedProbe, kind: str) -> None:
        self._declared.append(probe)
        self._replaced.add(kind)

    def _ask(self, place: int, probe: MemoryProbe) -> tuple[DeviceMemory, ...]:
        """Read one probe; one that breaks its word and raises makes its devices silent, and no others."""
        try:
            devices = probe.read()
        except Exception:
            devices = tuple(device.silent() for device in self._last.get(place, ()))
        self._last[place] = devices
        return devices

    def _number(self, device: DeviceMemory) -> int:
        taken = self._index.values()
        free = device.index if device.index not in taken else max(taken) + 1
        return self._index.setdefault(device.uuid, free)
