"""When an upstream wants to be asked again."""

from __future__ import annotations

import math
from email.utils import parsedate_to_datetime

from ..types import Headers

_MAX_LENGTH = 64


def parse_retry_after(headers: Headers, *, now_wall: float) -> float | None:
    """Return the seconds to wait, from `retry-after-ms` or `retry-after` (seconds or HTTP date).

    Anything absurd (negative, not finite, a past date, over-long, not a number) counts as not said: None.
    `now_wall` is Unix time, needed for dates only.
    """
    found = {name: value for name, value in reversed(headers) if name in (b"retry-after", b"retry-after-ms")}
    millis = _number(found.get(b"retry-after-ms"))
    if millis is not None:
        return millis / 1000
    value = found.get(b"retry-after")
    seconds = _number(value)
    if seconds is not None or value is None or len(value) > _MAX_LENGTH:
        return seconds
    try:
        wait = parsedate_to_datetime(value.decode("ascii")).timestamp() - now_wall
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    return wait if wait >= 0 else None


def _number(value: bytes | None) -> float | None:
    if value is None or len(value) > _MAX_LENGTH:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
