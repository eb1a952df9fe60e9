"""What a run is doing and how long it still takes, on standard error."""

from __future__ import annotations

import sys
import time
from typing import TextIO

LINE_EVERY_S = 5.0
"""How often a line is printed where lines cannot be written over."""


class Progress:
    """Counts the steps of one question; the time left is guessed from those done."""

    def __init__(self, question: str, steps: int, *, to: TextIO | None = None) -> None:
        self._question = question
        self._steps = steps
        self._to = to or sys.stderr
        self._done = 0
        self._began = time.monotonic()
        self._printed = 0.0

    def step(self, doing: str) -> None:
        """Say what begins now."""
        now = time.monotonic()
        line = f"{self._question} {min(self._done + 1, self._steps)}/{self._steps}: {doing}{self._left(now)}"
        self._done += 1
        if self._to.isatty():
            self._to.write(f"\r\x1b[K{line}")
        elif now - self._printed >= LINE_EVERY_S:
            self._to.write(line + "\n")
            self._printed = now
        self._to.flush()

    def _left(self, now: float) -> str:
        if not self._done:
            return ""
        left_s = (now - self._began) / self._done * max(0, self._steps - self._done)
        return f", about {as_time(left_s)} left"

    def end(self) -> None:
        """Say how long it took."""
        begin = "\r\x1b[K" if self._to.isatty() else ""
        self._to.write(f"{begin}{self._question}: done in {as_time(time.monotonic() - self._began)}\n")
        self._to.flush()


def as_time(seconds: float) -> str:
    """Write a time as minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
