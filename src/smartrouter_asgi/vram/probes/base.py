"""The seam between the gate and whatever can say how much GPU memory there is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias

BUDGET_PERCENT = 90

DeviceKind: TypeAlias = Literal["nvidia", "amd", "intel", "apple", "declared"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """One reading of one device."""

    uuid: str
    """Identifies the device, whatever the order; a slice of a divided device has its own (`MIG-...`)."""
    index: int
    """Its place in the driver's order, for people; slices of one device share it."""
    name: str
    total_bytes: int
    free_bytes: int | None
    """None: the device is there and does not tell."""
    kind: DeviceKind = "declared"
    unified: bool = False
    """Whether its memory is the system's."""

    @property
    def used_bytes(self) -> int | None:
        """What is not free, whoever holds it; None where that is not known."""
        return None if self.free_bytes is None else self.total_bytes - self.free_bytes

    def silent(self) -> DeviceMemory:
        """Return the reading of this device when it is there and does not tell."""
        return replace(self, free_bytes=None)


class MemoryProbe(Protocol):
    """Reads device memory; synchronous, may take its time, so that it belongs in a thread. It never raises."""

    def read(self) -> tuple[DeviceMemory, ...]:
        """Return one reading per device that is there, read now; empty where there is none to be had."""


def countable(devices: Iterable[DeviceMemory]) -> tuple[DeviceMemory, ...]:
    """Return the devices whose memory adds up: the dedicated ones, else the largest of the unified ones.

    Engines leave integrated graphics alone where there is a card, and what is the system's is there only once.
    """
    devices = tuple(devices)
    dedicated = tuple(device for device in devices if not device.unified)
    if dedicated or not devices:
        return dedicated
    return (max(devices, key=lambda device: device.total_bytes),)


def detect_budget_bytes(probe: MemoryProbe) -> int | None:
    """Return 90 % of all memory the probe sees; None when it sees none."""
    total_bytes = sum(device.total_bytes for device in countable(probe.read()))
    return total_bytes * BUDGET_PERCENT // 100 if total_bytes > 0 else None
