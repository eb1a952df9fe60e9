"""Engine time: real time divided by a scale, so that a load of three seconds can take three hundredths."""

from __future__ import annotations

import asyncio
import time


class EngineClock:
    """Seconds as the engine lives them; one takes `time_scale` real seconds. Raises `ValueError` unless positive."""

    def __init__(self, time_scale: float) -> None:
        if time_scale <= 0:
            raise ValueError(f"time_scale must be positive, not {time_scale}")
        self.time_scale = time_scale

    def now_s(self) -> float:
        """Return the monotonic instant."""
        return time.monotonic() / self.time_scale

    def real_s(self, seconds: float) -> float:
        """Return how long so many engine seconds really take."""
        return seconds * self.time_scale

    async def sleep(self, seconds: float) -> None:
        """Pass engine time; always lets other tasks run."""
        await asyncio.sleep(max(0.0, self.real_s(seconds)))

    async def sleep_until(self, instant_s: float) -> None:
        """Pass engine time until an instant; always lets other tasks run."""
        await self.sleep(instant_s - self.now_s())
