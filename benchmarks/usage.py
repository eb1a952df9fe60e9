"""What processes use, read from /proc: CPU time and resident memory of a process and its children."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")
_TICKS_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def tree(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    found = [pid]
    for parent in found:
        for task in _children(parent):
            found += task
    return found


def _children(pid: int) -> Iterable[list[int]]:
    try:
        tasks = list((_PROC / str(pid) / "task").iterdir())
        return [[int(child) for child in (task / "children").read_text().split()] for task in tasks]
    except OSError:
        return []


def cpu_s(pids: Iterable[int]) -> float:
    """Return the CPU seconds used so far, to the nanosecond where the kernel says so and to its tick elsewhere."""
    return sum(_threads_cpu_s(pid) for pid in pids)


def _threads_cpu_s(pid: int) -> float:
    try:
        tasks = list((_PROC / str(pid) / "task").iterdir())
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
    except OSError:
        pass
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) * _TICKS_S


def rss_bytes(pids: Iterable[int]) -> int:
    """Return the resident memory of some processes together."""
    total = 0
    for pid in pids:
        try:
            total += int((_PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE_BYTES
        except OSError:
            continue
    return total


def to_be_accepted(port: int) -> int:
    """Return how many connections to a port the kernel has made and its server has not taken yet."""
    address, waiting = f"0100007F:{port:04X}", 0
    with (_PROC / "net" / "tcp").open() as table:
        for line in table:
            _, local, _, state, queues, *_ = line.split()
            if local == address and state == "0A":
                waiting += int(queues.partition(":")[2], 16)
    return waiting


def machine_busy_s() -> float:
    """Return the CPU seconds that the whole machine has been busy, time stolen by the hypervisor included."""
    user, nice, system, _idle, _wait, irq, soft, steal = map(
        int, (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + soft + steal) * _TICKS_S
