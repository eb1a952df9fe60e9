"""Time that stands still until a test moves it."""

from __future__ import annotations


class ManualClock:
    """A clock for whatever takes `clock=`: `clock()` is the instant, in seconds, and only `advance` changes it."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now = start_s

    def __call__(self) -> float:
        """Return the instant."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass. Raises `ValueError` for a step back: monotonic time has none."""
        if seconds < 0:
            raise ValueError(f"time does not go back, not even by {-seconds:g} s")
        self._now += seconds

    async def sleep(self, seconds: float) -> None:
        """Let the time pass at once instead of waiting for it: for whatever takes `sleep=`."""
        self.advance(seconds)

    def __repr__(self) -> str:
        return f"<ManualClock at {self._now:g} s>"
