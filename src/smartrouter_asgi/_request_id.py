"""Request ids: the client's own where it may be kept, else one that no other process and no other request has."""

from __future__ import annotations

import os
import re
import secrets
from itertools import count

_GIVEN = re.compile(rb"[A-Za-z0-9_.-]{1,128}")


def new_request_id(given: bytes | None = None) -> str:
    """Return the id of a request: `given` if it is fit for headers and logs, else 24 hex digits.

    The first 16 of them belong to the process and are random, the rest counts: a random number for each request would
    take a system call.
    """
    if given is not None and _GIVEN.fullmatch(given):
        return given.decode("ascii")
    return f"{_process}{next(_numbers) & 0xFFFFFFFF:08x}"


def _begin() -> None:
    global _process, _numbers
    _process = secrets.token_hex(8)
    _numbers = count(1)


_process: str
_numbers: count[int]
_begin()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin)
