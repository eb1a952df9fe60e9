"""The seam between the gate and whatever can say how much GPU memory there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

BUDGET_PERCENT = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """One reading of one device. `uuid` identifies it; `index` is the driver's order, for people."""

    uuid: str
    index: int
    name: str
    total_bytes: int
    free_bytes: int

    @property
    def used_bytes(self) -> int:
        """What is not free, whoever holds it."""
        return self.total_bytes - self.free_bytes


class MemoryProbe(Protocol):
    """Reads device memory; synchronous, may be called in a thread, never raises."""

    def read(self) -> tuple[DeviceMemory, ...]:
        """Return one reading per device; empty where there is none to be had."""


def detect_budget_bytes(probe: MemoryProbe) -> int | None:
    """Return 90 % of all memory the probe sees; None when it sees none."""
    total_bytes = sum(device.total_bytes for device in probe.read())
    return total_bytes * BUDGET_PERCENT // 100 if total_bytes > 0 else None
