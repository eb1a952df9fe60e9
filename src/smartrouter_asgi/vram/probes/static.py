"""Probes that say what they were told: declared budgets, declared unified memory, and values for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from .apple import AppleProbe
from .base import DeviceMemory
from .meminfo import read_meminfo


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


class UnifiedProbe:
    """One device of declared size in the system's memory; free is what the system has, up to that.

    `available_bytes` asks the system; None is its answer where it cannot tell, as on a machine of another make.
    """

    def __init__(
        self,
        *,
        kind: Literal["amd", "apple"],
        total_bytes: int,
        available_bytes: Callable[[], int | None] | None = None,
    ) -> None:
        self._kind: Literal["amd", "apple"] = kind
        self._total_bytes = total_bytes
        self._available_bytes = available_bytes or (_of_linux if kind == "amd" else AppleProbe().available_bytes)

    def read(self) -> tuple[DeviceMemory, ...]:
        """Return the reading of the one device."""
        available_bytes = self._available_bytes()
        return (
            DeviceMemory(
                uuid=f"{self._kind}-unified",
                index=0,
                name=f"{self._kind} unified memory",
                total_bytes=self._total_bytes,
                free_bytes=None if available_bytes is None else min(available_bytes, self._total_bytes),
                kind=self._kind,
                unified=True,
            ),
        )


def _of_linux() -> int | None:
    system = read_meminfo()
    return None if system is None else system.available_bytes
