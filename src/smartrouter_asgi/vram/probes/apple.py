"""Apple silicon through `sysctl` and `vm_stat`: the GPU may keep a part of the system's memory resident."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import TypeAlias

from .base import DeviceMemory

Run: TypeAlias = Callable[[Sequence[str]], str]
"""Runs a command and returns what it wrote; raises OSError or `subprocess.SubprocessError`."""

MIB = 1 << 20
GIB = 1 << 30
_SYSCTL = (
    "sysctl",
    "hw.memsize",
    "hw.optional.arm64",
    "machdep.cpu.brand_string",
    "iogpu.wired_limit_mb",  # macOS 14 and later; 0: the system's own limit
    "debug.iogpu.wired_limit",  # macOS 13, in bytes
)
_SMALL_BYTES = 32 * GIB
_CLAIMABLE = ("Pages free", "Pages inactive", "Pages speculative")


class AppleProbe:
    """Reads the one GPU of Apple silicon; elsewhere nothing.

    In total it has what was set as its limit, else the system's own: two thirds of the memory up to 32 GiB, three
    quarters above (Metal's recommendedMaxWorkingSetSize; newer systems allow somewhat more). Free is what the system
    can give without swapping, up to that.
    """

    def __init__(self, *, run: Run | None = None, platform: str = sys.platform) -> None:
        self._run = run or _run
        self._platform = platform
        self._known: DeviceMemory | None = None

    def read(self) -> tuple[DeviceMemory, ...]:
        """Return the reading of the one device."""
        if self._platform != "darwin":
            return ()
        facts = dict(line.split(": ", 1) for line in self._output(_SYSCTL).splitlines() if ": " in line)
        memory_bytes = _number(facts.get("hw.memsize"))
        if memory_bytes <= 0:  # not told: what is known of it stays
            return () if self._known is None else (self._known.silent(),)
        if facts.get("hw.optional.arm64") != "1":
            return ()
        limit_bytes = _number(facts.get("iogpu.wired_limit_mb")) * MIB or _number(facts.get("debug.iogpu.wired_limit"))
        default_bytes = memory_bytes * 2 // 3 if memory_bytes <= _SMALL_BYTES else memory_bytes * 3 // 4
        total_bytes = min(limit_bytes or default_bytes, memory_bytes)
        available_bytes = self.available_bytes()
        self._known = DeviceMemory(
            uuid="apple-gpu",
            index=0,
            name=facts.get("machdep.cpu.brand_string", "Apple"),
            total_bytes=total_bytes,
            free_bytes=None if available_bytes is None else min(available_bytes, total_bytes),
            kind="apple",
            unified=True,
        )
        return (self._known,)

    def available_bytes(self) -> int | None:
        """Return what the system can give without swapping; None where it does not tell."""
        if self._platform != "darwin":
            return None
        text = self._output(("vm_stat",))
        page = re.search(r"page size of (\d+) bytes", text)
        pages = [match[1] for name in _CLAIMABLE if (match := re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE))]
        return int(page[1]) * sum(map(int, pages)) if page and len(pages) == len(_CLAIMABLE) else None

    def _output(self, command: Sequence[str]) -> str:
        try:
            return self._run(command)
        except (OSError, ValueError, subprocess.SubprocessError):
            return ""


def _run(command: Sequence[str]) -> str:
    """Run a command of the system; `sysctl` fails when one of the names is unknown, and still tells the others."""
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=2.0, check=False
    ).stdout


def _number(text: str | None) -> int:
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() else 0
