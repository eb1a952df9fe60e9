"""A length said more than once in a head: taken where all say the same, as RFC 9110 (8.6) allows.

Servers made at home do so when they copy the headers of another answer and add their own. The parser refuses them all,
so such a head is written anew and read again.
"""

from __future__ import annotations

import re

_LENGTH = re.compile(rb"\r\ncontent-length:([^\r\n]*)(?=\r\n)", re.IGNORECASE)
_REPEATED = re.compile(
    rb"\r\ncontent-length:[ \t]*\d+[ \t]*(?:(?=,)|\r\n(?:[^\r\n]+\r\n)*(?=content-length:))", re.IGNORECASE
)
_END = b"\r\n\r\n"


def repeated_at(begun: bytes) -> int | None:
    """Return where a head, perhaps not yet whole, begins to say a length for the second time, if it does."""
    found = _REPEATED.search(begun)
    return found.end() if found is not None else None


def with_one_length(data: bytes) -> bytes | None:
    """Return what has come with the length said once. None if its lengths differ, or are none.

    `data` holds a whole head, and whatever follows it is kept.
    """
    end = data.index(_END) + 2
    head, rest = data[:end], data[end:]
    said = [one.strip(b" \t") for line in _LENGTH.findall(head) for one in line.split(b",")]
    if len(said) < 2 or not said[0].isdigit() or set(said) != {said[0]}:
        return None
    first = iter([b"\r\ncontent-length: " + said[0]])
    return _LENGTH.sub(lambda _: next(first, b""), head) + rest
