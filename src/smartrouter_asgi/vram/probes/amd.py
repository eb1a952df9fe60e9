"""AMD devices through what the amdgpu driver puts into sysfs: no library, no privilege, no process started."""

from __future__ import annotations

from pathlib import Path

from .base import DeviceMemory
from .meminfo import MEMINFO, read_meminfo
from .sysfs import DRM, Card, cards, read_int, read_text

_APU_METRICS = 2


class AMDProbe:
    """Reads every card that amdgpu runs.

    A card's memory is its VRAM. GTT, system memory that it may map, counts for integrated graphics alone, and there
    only where it is larger than the part of the system's memory set aside as VRAM: a card of 8 GiB in a machine of
    128 GiB has a larger GTT too, and a model in it crawls over PCIe.
    """

    def __init__(self, root: Path = DRM, *, meminfo: Path = MEMINFO) -> None:
        self._root = root
        self._meminfo = meminfo
        self._known: dict[str, DeviceMemory] = {}
        self._integrated: dict[str, bool] = {}

    def read(self) -> tuple[DeviceMemory, ...]:
        """Return one reading per card, in the kernel's order."""
        found = cards(self._root, vendor="0x1002", drivers=("amdgpu",))
        devices = [device for index, card in enumerate(found) if (device := self._read_one(card, index)) is not None]
        self._known = {device.uuid: device for device in devices}
        return tuple(devices)

    def _read_one(self, card: Card, index: int) -> DeviceMemory | None:
        unique_id = read_text(card.path / "unique_id")
        uuid = f"GPU-{unique_id}" if unique_id else f"PCI-{card.slot}"  # the first is what ROCm calls it
        vram_bytes = read_int(card.path / "mem_info_vram_total")
        if not vram_bytes:
            known = self._known.get(uuid)
            return None if known is None else known.silent()
        unified = self._is_integrated(card)
        total_bytes = vram_bytes
        free_bytes = _minus(vram_bytes, read_int(card.path / "mem_info_vram_used"))
        gtt_bytes = read_int(card.path / "mem_info_gtt_total") or 0
        if unified and gtt_bytes > vram_bytes:
            total_bytes += gtt_bytes
            free_gtt_bytes = self._mappable(gtt_bytes, read_int(card.path / "mem_info_gtt_used"))
            free_bytes = None if free_bytes is None or free_gtt_bytes is None else free_bytes + free_gtt_bytes
        return DeviceMemory(
            uuid=uuid,
            index=index,
            name=read_text(card.path / "product_name") or f"AMD {card.device_id}".strip(),
            total_bytes=total_bytes,
            free_bytes=free_bytes,
            kind="amd",
            unified=unified,
        )

    def _is_integrated(self, card: Card) -> bool:
        """Whether it is an APU: those write their metrics in formats 2 and 3, cards in format 1.

        Asked until it is answered: a card that sleeps refuses. Before Renoir there is no such file, and an APU then
        counts as a card with the VRAM set aside for it.
        """
        known = self._integrated.get(card.slot)
        if known is not None:
            return known
        try:
            with (card.path / "gpu_metrics").open("rb") as file:
                header = file.read(4)  # u16 size, u8 format, u8 content
        except OSError:
            return False
        if len(header) < 4:
            return False
        return self._integrated.setdefault(card.slot, header[2] >= _APU_METRICS)

    def _mappable(self, gtt_bytes: int, used_bytes: int | None) -> int | None:
        """Return what is left of GTT: no more than the system itself has."""
        free_bytes = _minus(gtt_bytes, used_bytes)
        system = read_meminfo(self._meminfo)
        return free_bytes if free_bytes is None or system is None else min(free_bytes, system.available_bytes)


def _minus(total_bytes: int, used_bytes: int | None) -> int | None:
    return None if used_bytes is None else max(total_bytes - used_bytes, 0)
