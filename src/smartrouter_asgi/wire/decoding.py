"""What can go wrong when JSON is decoded, whoever sent it."""

from __future__ import annotations

import msgspec

JSON_ERRORS = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
"""Not JSON, nested too deeply, not UTF-8."""
