"""What the drivers of Linux tell of graphics cards under `/sys/class/drm`."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

DRM = Path("/sys/class/drm")
_CARD = re.compile(r"card(\d+)")
"""Not `card0-DP-1`: that is a connector."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A card and the directory of its PCI device."""

    path: Path
    slot: str
    """The PCI address: `0000:03:00.0`."""
    driver: str
    device_id: str


def cards(root: Path, *, vendor: str, drivers: Collection[str]) -> list[Card]:
    """Return the cards of a vendor (`0x1002`) that one of `drivers` runs, in the kernel's order. Never raises."""
    try:
        numbers = sorted(int(match[1]) for path in root.iterdir() if (match := _CARD.fullmatch(path.name)))
    except OSError:
        return []
    found: dict[str, Card] = {}
    for number in numbers:
        path = root / f"card{number}" / "device"
        if read_text(path / "vendor") != vendor:
            continue
        facts = dict(line.split("=", 1) for line in (read_text(path / "uevent") or "").splitlines() if "=" in line)
        driver, slot = facts.get("DRIVER", ""), facts.get("PCI_SLOT_NAME", "")
        if driver in drivers and slot:
            found.setdefault(
                slot, Card(path=path, slot=slot, driver=driver, device_id=read_text(path / "device") or "")
            )
    return list(found.values())


def read_text(path: Path) -> str | None:
    """Return a file's text without surrounding blanks; None where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def read_int(path: Path) -> int | None:
    """Return a file's number; None where there is none."""
    text = read_text(path)
    return int(text) if text is not None and text.isascii() and text.isdigit() else None
