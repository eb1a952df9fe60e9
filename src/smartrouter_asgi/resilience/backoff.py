"""How long to wait before coming back to a candidate that failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import backoff

if TYPE_CHECKING:
    from ..types import Random

_LAST_STEP = 64
"""Doubling stops here: far over any limit that can be configured, far under what a float can hold."""


def compute_delay_s(attempt: int, *, base_delay_s: float, max_delay_s: float, random: Random) -> float:
    """Return the full-jitter delay after the `attempt`th failure (from 1): 0 to min(max, base x 2^(attempt-1))."""
    delays = backoff.expo(base=2, factor=base_delay_s, max_value=max_delay_s)
    for _ in range(max(1, min(attempt, _LAST_STEP))):
        next(delays)  # the first step of backoff's generators is an empty one
    # backoff.full_jitter is this very formula over the global random module; here randomness is injected, so that a
    # test can say what comes out and seeding the host application's generator changes nothing.
    return next(delays) * random()
