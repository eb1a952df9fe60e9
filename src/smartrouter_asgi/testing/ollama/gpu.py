"""The memory of one simulated GPU: who holds how many bytes. Pure bookkeeping."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable


class SimulatedGPU:
    """Bytes of one GPU. `outside` tells how many of them another process holds at this moment."""

    def __init__(self, total_bytes: int, outside: Callable[[], int] = lambda: 0) -> None:
        self.total_bytes = total_bytes
        self.peak_used_bytes = 0
        self._outside = outside
        self._held: dict[Hashable, int] = {}

    @property
    def used_bytes(self) -> int:
        """Bytes the engine's own runners hold, those included that are not given back yet."""
        return sum(self._held.values())

    @property
    def free_bytes(self) -> int:
        """Bytes a probe of the device would report as free."""
        return max(0, self.total_bytes - self._outside() - self.used_bytes)

    def hold(self, owner: Hashable, held_bytes: int) -> bool:
        """Set what `owner` holds; False, and nothing changes, when so much is not free."""
        grows_by = held_bytes - self._held.get(owner, 0)
        if grows_by > self.free_bytes:
            return False
        self._held[owner] = held_bytes
        self.peak_used_bytes = max(self.peak_used_bytes, self.used_bytes)
        return True

    def release(self, owner: Hashable) -> None:
        """Give back everything `owner` holds."""
        self._held.pop(owner, None)
