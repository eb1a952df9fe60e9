"""The system's memory as Linux tells it, for devices that have none of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemMemory:
    """`available_bytes` can be had without swapping, caches that give way included."""

    total_bytes: int
    available_bytes: int


def read_meminfo(path: Path = MEMINFO) -> SystemMemory | None:
    """Return the system's memory; None where there is no such file, or not all of it."""
    try:
        lines = path.read_text().splitlines()
        kib = {key: int(rest.split()[0]) for key, _, rest in (line.partition(":") for line in lines) if rest.strip()}
        return SystemMemory(total_bytes=kib["MemTotal"] * 1024, available_bytes=kib["MemAvailable"] * 1024)
    except (OSError, ValueError, KeyError):
        return None
