"""What the processes that may be read hold of device memory, from `/proc/*/fdinfo`.

Source: the kernel's `Documentation/gpu/drm-usage-stats.rst`; the regions of device memory are called `vram0` by xe and
`local0` by i915. It is a lower bound: other users' processes and other containers are not seen.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

PROC = Path("/proc")
_REGION = re.compile(r"drm-(resident|total)-(?:vram|local)\d+")
_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def held_by_slot(proc: Path = PROC) -> dict[str, int]:
    """Return the bytes held per PCI address; none for devices of which no client is seen. Never raises."""
    clients: dict[tuple[str, str], int] = {}
    for process in _numbered(proc):
        for number in _numbered(process / "fd"):
            try:
                if not os.readlink(number).startswith("/dev/dri/"):
                    continue
                text = (process / "fdinfo" / number.name).read_text(errors="replace")
            except OSError:
                continue  # it ended, or it is not for us
            facts = {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
            slot, client = facts.get("drm-pdev"), facts.get("drm-client-id")
            if slot and client:
                clients[slot, client] = _held_bytes(facts)  # one client may have several descriptors
    held: dict[str, int] = {}
    for (slot, _), held_bytes in clients.items():
        held[slot] = held.get(slot, 0) + held_bytes
    return held


def _numbered(path: Path) -> list[Path]:
    try:
        return [entry for entry in path.iterdir() if entry.name.isdigit()]
    except OSError:
        return []


def _held_bytes(facts: dict[str, str]) -> int:
    sums = {"resident": 0, "total": 0}
    for key, value in facts.items():
        if match := _REGION.fullmatch(key):
            sums[match[1]] += _bytes(value)
    return sums["resident"] or sums["total"]


def _bytes(text: str) -> int:
    number, _, unit = text.partition(" ")
    return int(number) * _UNITS.get(unit.strip(), 0) if number.isascii() and number.isdigit() else 0
