"""Cancel scopes as anyio makes them, without asking it each time which event loop this is."""

from __future__ import annotations

from collections.abc import Callable

import anyio

_of_this_loop: Callable[[], anyio.CancelScope] | None = None


def cancel_scope() -> anyio.CancelScope:
    """Return a new cancel scope; to be called on the event loop. This package runs on asyncio alone."""
    global _of_this_loop
    if _of_this_loop is None:
        _of_this_loop = type(anyio.CancelScope())
    return _of_this_loop()
