"""What is in use on the devices, as the gate wants to know it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..types import Clock
    from .probes import MemoryWatch


class Readings(Protocol):
    """Reads the devices; never raises, never blocks the event loop."""

    async def refresh(self) -> object:
        """Read them all again; returns in bounded time, whatever they do."""

    def used_bytes(self) -> Mapping[str, int | None]:
        """Return what is in use by device id, whoever uses it; None where it cannot be told now."""

    def vanished(self) -> frozenset[str]:
        """Return the devices that are not there any more."""


class WatchedReadings:
    """The readings of a watch, for the devices that the gate shares out."""

    def __init__(self, watch: MemoryWatch, devices: Iterable[str], *, clock: Clock = time.monotonic) -> None:
        self._watch = watch
        self._devices = tuple(devices)
        self._clock = clock

    async def refresh(self) -> bool:
        """Read all devices again, in bounded time."""
        return await self._watch.refresh()

    def used_bytes(self) -> dict[str, int | None]:
        """Return what is in use by device; a device that never tells is left out: its books are all there is."""
        known = self._watch.readings(self._clock())
        return {
            device: known[device].used_bytes if device in known else None
            for device in self._devices
            if device not in known or known[device].used_bytes is not None
        }

    def vanished(self) -> frozenset[str]:
        """Return the devices that were there and are not."""
        return self._watch.vanished & frozenset(self._devices)
