"""How long to wait before coming back: our own delays, and the upstream's word in Retry-After."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import backoff

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..types import Random

_LAST_STEP = 64
"""Doubling stops here: far over any limit that can be configured, far under what a float can hold."""

_SECONDS = re.compile(rb"[0-9]{1,10}(\.[0-9]{0,9})?")
_MILLISECONDS = re.compile(rb"[0-9]{1,13}(\.[0-9]{0,9})?")
_HTTP_DATE = re.compile(rb"[A-Z][a-z]{2,8},? [0-9A-Za-z:, -]{15,30}")


def compute_delay_s(attempt: int, *, base_delay_s: float, max_delay_s: float, random: Random) -> float:
    """Return the full-jitter delay after the `attempt`th failure (from 1): 0 to min(max, base x 2^(attempt-1))."""
    delays = backoff.expo(base=2, factor=base_delay_s, max_value=max_delay_s)
    next(delays)  # backoff's generators take a first, empty step
    ceiling = 0.0
    for _ in range(max(1, min(attempt, _LAST_STEP))):
        ceiling = next(delays)
    # backoff.full_jitter is this very formula over the global random module; here randomness is injected, so that a
    # test can say what comes out and seeding the host application's generator changes nothing.
    return max(0.0, min(ceiling, max_delay_s)) * random()


def parse_retry_after(headers: Iterable[tuple[bytes, bytes]], *, now_wall: float) -> float | None:
    """Return the seconds an upstream asks to wait (>= 0), or None when it does not say or says nonsense.

    `retry-after-ms` goes before `retry-after`, which is seconds or an HTTP date; a date is compared with `now_wall`
    (Unix seconds), and one in the past says nothing. Never raises; the caller caps the value.
    """
    milliseconds: float | None = None
    seconds: float | None = None
    for name, value in headers:
        key = name.lower()
        if key == b"retry-after-ms" and milliseconds is None:
            text = value.strip()
            milliseconds = float(text) if _MILLISECONDS.fullmatch(text) else None
        elif key == b"retry-after" and seconds is None:
            seconds = _parse_value(value.strip(), now_wall)
    return seconds if milliseconds is None else milliseconds / 1000


def _parse_value(text: bytes, now_wall: float) -> float | None:
    if _SECONDS.fullmatch(text):
        return float(text)
    if not _HTTP_DATE.fullmatch(text):
        return None
    try:
        date = parsedate_to_datetime(text.decode("ascii"))
        if date.tzinfo is None:  # the asctime form names no zone; HTTP has only one
            date = date.replace(tzinfo=UTC)
        remaining = date.timestamp() - now_wall
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return remaining if remaining > 0 else None
