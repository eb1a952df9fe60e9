"""Decoding JSON of whoever sent it, and what can go wrong."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import msgspec

JSON_ERRORS = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
"""Not JSON, nested too deeply, not UTF-8."""

_decoder = msgspec.json.Decoder()


def decode_json(data: bytes) -> Any:
    """Decode a JSON value. Raises `JSON_ERRORS`.

    msgspec refuses half of a surrogate pair, which JSON allows and engines send that cut text between two tokens.
    """
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError:
        if b"\\u" not in data:
            raise
        text = data.decode()
        try:
            return json.loads(text, parse_constant=_refuse)
        except ValueError:
            pass
        raise


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
