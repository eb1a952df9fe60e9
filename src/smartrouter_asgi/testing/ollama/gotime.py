"""Durations and instants as a Go program writes them: `keep_alive` values, RFC 3339 with nanoseconds."""

from __future__ import annotations

import math
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from .errors import APIError

FOREVER_S = math.inf
"""What a negative `keep_alive` means."""

GO_FOREVER_S = (2**63 - 1) / 1e9
"""The longest Go duration, about 292 years: how far ahead `expires_at` lies for a runner kept forever."""

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TERM = re.compile(r"(\d+\.?\d*|\.\d+)([^\d.]*)")


def parse_duration(text: str) -> float:
    """Seconds of a Go duration string such as `1h30m`; raises `ValueError` in Go's words."""
    quoted = '"' + text + '"'
    sign, rest = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    if rest == "0":
        return 0.0
    if not rest:
        raise ValueError(f"time: invalid duration {quoted}")
    seconds, at = 0.0, 0
    while at < len(rest):
        term = _TERM.match(rest, at)
        if term is None:
            raise ValueError(f"time: invalid duration {quoted}")
        number, unit = term.groups()
        if not unit:
            raise ValueError(f"time: missing unit in duration {quoted}")
        if unit not in _UNITS_S:
            raise ValueError(f'time: unknown unit "{unit}" in duration {quoted}')
        seconds += float(number) * _UNITS_S[unit]
        at = term.end()
    return sign * seconds


def parse_keep_alive(value: Any) -> float | None:
    """Seconds of a `keep_alive` field, `FOREVER_S` when negative, None when absent; raises `APIError` (400)."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise APIError(400, f"Unsupported type: '{value}'")
    if isinstance(value, str):
        try:
            value = parse_duration(value)
        except ValueError as exc:
            raise APIError(400, str(exc)) from None
    return FOREVER_S if value < 0 else float(value)


def timestamp(ahead_s: float = 0.0) -> str:
    """RFC 3339 in UTC with nanoseconds, trailing zeros cut as Go does; `ahead_s` seconds from now."""
    now_ns = time.time_ns()
    whole_s = min(ahead_s, GO_FOREVER_S)
    seconds, ns = divmod(now_ns + int(whole_s * 1e9), 10**9)
    instant = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    fraction = f".{ns:09d}".rstrip("0").rstrip(".")
    return f"{instant:%Y-%m-%dT%H:%M:%S}{fraction}Z"


def nanoseconds(seconds: float) -> int:
    """Return a duration as Ollama reports it."""
    return max(0, round(seconds * 1e9))
