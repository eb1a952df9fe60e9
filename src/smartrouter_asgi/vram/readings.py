"""What is in use on the devices, as the gate wants to know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


class Readings(Protocol):
    """Reads the devices; never raises, never blocks the event loop."""

    async def refresh(self) -> None:
        """Read them all again; returns in bounded time, whatever they do."""

    def used_bytes(self) -> Mapping[str, int | None]:
        """Return what is in use by device id, whoever uses it; None where it cannot be told now."""
