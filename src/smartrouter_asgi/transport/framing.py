"""Incremental framing of server-sent events and newline-delimited JSON over bytes; sans-IO.

Bytes are split on line ends alone, never on the wider set that `str.splitlines` takes for one: U+2028 inside JSON is
content. A frame over the limit is an error, not a growing buffer.
"""

from __future__ import annotations

import re

from ..exceptions import FramingError

MAX_FRAME_BYTES = 1024 * 1024

# Two line ends in a row, each LF, CRLF or CR; atomic, so that one CRLF is never read as CR + LF.
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")


class SSESplitter:
    """Cuts a byte stream into whole server-sent events, blank line included, however the bytes arrive."""

    __slots__ = ("_carry", "_max")

    def __init__(self, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self._carry = b""
        self._max = max_bytes

    @property
    def is_empty(self) -> bool:
        """Whether no part of an event is waiting for its rest."""
        return not self._carry

    def feed(self, data: bytes) -> list[bytes]:
        """Return the events completed by `data`, byte for byte. Raises `FramingError` over the limit."""
        carry = self._carry
        if carry:
            data = carry + data
        if b"\r" not in data:
            events = data.split(b"\n\n")
            rest = events.pop()
            events = [event + b"\n\n" for event in events]
        else:
            events, start = [], 0
            for match in _BLANK_LINE.finditer(data):
                events.append(data[start : match.end()])
                start = match.end()
            rest = data[start:]
        self._carry = rest
        if events:  # an overlong rest is told at the next call: what is whole goes first
            if len(max(events, key=len)) > self._max:
                raise _too_large(self._max)
        elif len(rest) > self._max:
            raise _too_large(self._max)
        return events

    def finish(self) -> bytes:
        """Return what is left without a blank line after it."""
        rest, self._carry = self._carry, b""
        return rest


class LineSplitter:
    """Cuts a byte stream into the lines of newline-delimited JSON, empty ones left out."""

    __slots__ = ("_carry", "_max")

    def __init__(self, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self._carry = b""
        self._max = max_bytes

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines completed by `data`, without their ends. Raises `FramingError` over the limit."""
        lines = (self._carry + data).split(b"\n") if self._carry else data.split(b"\n")
        self._carry = lines.pop()
        if lines:  # an overlong rest is told at the next call: what is whole goes first
            if len(max(lines, key=len)) > self._max:
                raise _too_large(self._max)
        elif len(self._carry) > self._max:
            raise _too_large(self._max)
        return [line for line in lines if line and not line.isspace()]

    def finish(self) -> bytes:
        """Return the last line if it had no end."""
        rest, self._carry = self._carry.strip(), b""
        return rest


def _too_large(limit: int) -> FramingError:
    return FramingError(f"the engine sent an event over {limit} bytes", code="event_too_large")


def sse_data(event: bytes) -> tuple[bytes | None, bytes | None, bytes | None]:
    """Read one event: its `data` lines joined by LF, its `event` name, and the value of a stray `error:` field.

    Each is None when there is no such line; the space after the colon is optional.
    """
    data: bytes | None = None
    name: bytes | None = None
    error: bytes | None = None
    for line in event.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
        field, colon, value = line.partition(b":")
        if not colon or not field:
            continue
        value = value.removeprefix(b" ")
        if field == b"data":
            data = value if data is None else data + b"\n" + value
        elif field == b"event":
            name = value
        elif field == b"error":
            error = value
    return data, name, error
