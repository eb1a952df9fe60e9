"""Errors as clients see them: the OpenAI envelope, its headers, and the one event that ends a broken stream."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from ..exceptions import MethodNotAllowedError, RouteExhaustedError, SmartRouterError
from ..types import Headers

ErrorEncoder: TypeAlias = Callable[[SmartRouterError], bytes]
"""Renders an error as the body of its answer; each API surface has its own."""

_encode = msgspec.json.Encoder().encode


def openai_envelope(exc: SmartRouterError) -> bytes:
    """`{"error": {"message", "type", "param", "code"}}`, plus `attempts` on an exhausted route."""
    error: dict[str, Any] = {"message": exc.message, "type": exc.type, "param": exc.param, "code": exc.code}
    if isinstance(exc, RouteExhaustedError):
        error["attempts"] = [
            {
                "deployment": a.deployment,
                "status": a.status,
                "code": a.code,
                "duration_s": round(a.duration_s, 3),
            }
            for a in exc.attempts
        ]
    return _encode({"error": error})


MAX_RETRY_AFTER_S = 24 * 3600.0
"""What an engine says beyond this is passed on as this."""


def error_headers(exc: SmartRouterError) -> Headers:
    """Headers that go with an error: Retry-After (whole seconds) and its exact form, Allow, x-should-retry."""
    headers: Headers = []
    wait_s = None if exc.retry_after_s is None else min(max(0.0, exc.retry_after_s), MAX_RETRY_AFTER_S)
    if exc.status in (429, 503):
        wait_s = 1.0 if wait_s is None else wait_s
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(wait_s))))
        headers.append((b"retry-after-ms", b"%d" % math.ceil(wait_s * 1000)))
    elif wait_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(wait_s))))
    if isinstance(exc, RouteExhaustedError):
        headers.append((b"x-should-retry", b"false"))
        headers.append((b"x-smartrouter-attempts", b"%d" % len(exc.attempts)))
    if isinstance(exc, MethodNotAllowedError):
        headers.append((b"allow", ", ".join(exc.allow).encode()))
    return headers


def stream_error_event(*, message: str, code: str, type: str = "upstream_error") -> bytes:
    """The one `data:` event that tells an OpenAI client that its stream broke; nothing follows it."""
    return b"data: " + _encode({"error": {"message": message, "type": type, "param": None, "code": code}}) + b"\n\n"
