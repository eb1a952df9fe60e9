"""Durations and sizes as people write them, turned into seconds and bytes; pure."""

from __future__ import annotations

import math
import re
from decimal import Decimal

KIB = 2**10
MIB = 2**20
GIB = 2**30
TIB = 2**40

FOREVER = -1.0
"""What `-1` becomes where a duration may be endless."""

_NUMBER_AND_UNIT = re.compile(r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))\s*([A-Za-z]*)", re.ASCII)

_SECONDS = {"": Decimal(1), "ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}

_BYTES = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": TIB,
}

_DURATION_EXPECTED = "expected a duration such as 500ms, 30s, 5m or 1h, or a number of seconds"
_SIZE_EXPECTED = "expected a size such as 512MiB, 6GiB or 12GB, or a whole number of bytes"


def parse_duration(value: object, *, forever: bool = False) -> float:
    """Return seconds for `500ms`, `30s`, `5m`, `1h` or a bare number of seconds.

    With `forever`, `-1` is allowed and returned as `FOREVER`. Raises `ValueError` with a message that says what would
    be right and does not repeat the value.
    """
    expected = _DURATION_EXPECTED + (", or -1" if forever else "")
    number, unit = _split(value, expected)
    if unit not in _SECONDS:
        raise ValueError(f"{expected}; the units are ms, s, m and h")
    if forever and number == -1 and unit in ("", "s"):
        return FOREVER
    if number < 0:
        raise ValueError(f"{expected}; it cannot be negative")
    seconds = float(number * _SECONDS[unit])
    if not math.isfinite(seconds):
        raise ValueError(f"{expected}; this one is too large")
    return seconds


def parse_size(value: object) -> int:
    """Return bytes for `512MiB`, `6GiB`, `12GB` (decimal) or a bare number of bytes.

    A fraction of a unit is rounded down to whole bytes. Raises `ValueError` with a message that says what would be
    right and does not repeat the value.
    """
    number, unit = _split(value, _SIZE_EXPECTED)
    if unit not in _BYTES:
        raise ValueError(f"{_SIZE_EXPECTED}; the units are B, KB, MB, GB, TB, KiB, MiB, GiB and TiB")
    if number < 0:
        raise ValueError(f"{_SIZE_EXPECTED}; it cannot be negative")
    if unit in ("", "b") and number != number.to_integral_value():
        raise ValueError(f"{_SIZE_EXPECTED}; there are no fractions of a byte")
    if number.adjusted() > 18:
        raise ValueError(f"{_SIZE_EXPECTED}; this one is too large")
    return int(number * _BYTES[unit])


def format_duration(seconds: float) -> str:
    """Write seconds so that `parse_duration` gives the same number back, in the largest unit that fits evenly."""
    if seconds == FOREVER:
        return "-1"
    exact = Decimal(repr(seconds))
    for unit in ("h", "m", "s", "ms"):
        count, rest = divmod(exact, _SECONDS[unit])
        if exact and not rest:
            return f"{count:f}{unit}"
    return f"{exact:f}s"


def format_size(size_bytes: int) -> str:
    """Write bytes so that `parse_size` gives the same number back, in the largest binary unit that fits evenly."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        count, rest = divmod(size_bytes, _BYTES[unit.lower()])
        if size_bytes and not rest:
            return f"{count}{unit}"
    return f"{size_bytes}B"


def _split(value: object, expected: str) -> tuple[Decimal, str]:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(expected)
    if not isinstance(value, str):
        number = Decimal(repr(value))
        if not number.is_finite():
            raise ValueError(expected)
        return number, ""
    match = _NUMBER_AND_UNIT.fullmatch(value.strip())
    if match is None:
        raise ValueError(expected)
    return Decimal(match[1]), match[2].lower()
