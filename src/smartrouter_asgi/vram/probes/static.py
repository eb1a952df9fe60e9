"""A probe that says what it was told, for declared budgets and for tests."""

from __future__ import annotations

from .base import DeviceMemory


class StaticProbe:
    """Devices given as values, or one device of `total_bytes`, all of it free."""

    def __init__(self, *devices: DeviceMemory, total_bytes: int | None = None) -> None:
        if total_bytes is not None:
            declared = DeviceMemory(
                uuid="static", index=len(devices), name="declared", total_bytes=total_bytes, free_bytes=total_bytes
            )
            devices = (*devices, declared)
        self._devices = devices

    def read(self) -> tuple[DeviceMemory, ...]:
        """Return the given devices."""
        return self._devices
