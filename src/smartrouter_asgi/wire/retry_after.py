"""When an upstream wants to be asked again."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC
from email.utils import parsedate_to_datetime

_SECONDS = re.compile(rb"[0-9]{1,10}(\.[0-9]{0,9})?")
_MILLISECONDS = re.compile(rb"[0-9]{1,13}(\.[0-9]{0,9})?")
_HTTP_DATE = re.compile(rb"[A-Z][a-z]{2,8},? [0-9A-Za-z:, -]{15,30}")


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
