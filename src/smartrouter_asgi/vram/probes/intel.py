"""Intel cards through the drivers xe and i915: no library, no process started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .base import DeviceMemory
from .drm_query import LocalMemory, query_local_memory
from .fdinfo import PROC, held_by_slot
from .sysfs import DRM, Card, cards, read_int

DRI = Path("/dev/dri")


class IntelProbe:
    """Reads every card with memory of its own; integrated graphics is left out.

    What is used, in this order: the driver's word, which it gives to the privileged; what the processes that may be
    read hold, so that what is free is an upper bound; where none of them is seen it is not known.
    """

    def __init__(
        self,
        root: Path = DRM,
        *,
        dev: Path = DRI,
        proc: Path = PROC,
        query: Callable[[Path, str], LocalMemory | None] = query_local_memory,
    ) -> None:
        self._root = root
        self._dev = dev
        self._proc = proc
        self._query = query
        self._known: dict[str, DeviceMemory] = {}

    def read(self) -> tuple[DeviceMemory, ...]:
        """Return one reading per card, in the kernel's order."""
        found = cards(self._root, vendor="0x8086", drivers=("xe", "i915"))
        memories = [(card, memory) for card in found if (memory := self._memory(card)) is not None]
        told = all(memory.used_bytes is not None for _, memory in memories)
        held = {} if told else held_by_slot(self._proc)
        devices = [_device(card, index, memory, held.get(card.slot)) for index, (card, memory) in enumerate(memories)]
        self._known = {device.uuid: device for device in devices}
        return tuple(devices)

    def _memory(self, card: Card) -> LocalMemory | None:
        """Return the card's memory; None for integrated graphics, and where the total cannot be had."""
        for node in sorted((card.path / "drm").glob("renderD*")):
            memory = self._query(self._dev / node.name, card.driver)
            if memory is not None:
                return memory if memory.total_bytes > 0 else None
        total_bytes = _total_of_sysfs(card)
        if total_bytes <= 0:
            known = self._known.get(_uuid(card))
            total_bytes = known.total_bytes if known is not None else 0
        return LocalMemory(total_bytes=total_bytes, used_bytes=None) if total_bytes > 0 else None


def _total_of_sysfs(card: Card) -> int:
    """Return what some drivers put there: i915 of Intel's own packages, and xe by tile in some versions."""
    total_bytes = read_int(card.path.parent / "lmem_total_bytes") or 0
    tiles = card.path.glob("tile*/physical_vram_size_bytes")
    return total_bytes or sum(read_int(tile) or 0 for tile in tiles)


def _device(card: Card, index: int, memory: LocalMemory, held_bytes: int | None) -> DeviceMemory:
    used_bytes = memory.used_bytes if memory.used_bytes is not None else held_bytes
    return DeviceMemory(
        uuid=_uuid(card),
        index=index,
        name=f"Intel {card.device_id}".strip(),
        total_bytes=memory.total_bytes,
        free_bytes=None if used_bytes is None else max(memory.total_bytes - used_bytes, 0),
        kind="intel",
    )


def _uuid(card: Card) -> str:
    return f"PCI-{card.slot}"
