"""Drain: no new requests from a moment on, and a limit after which those that still run are ended.

1. `begin`: whoever comes now is refused (503 `gateway_draining`); whoever runs goes on.
2. The limit passes, and each request that runs has exactly one end. One whose answer has not begun is cancelled and
   refused after all, wherever it waits: for its body, in a queue, between two attempts, for a first token. A stream
   that has begun is told by one `gateway_draining` event. A plain answer that is being sent goes on: it is whole.
"""

from __future__ import annotations

import asyncio
import logging
import math

from .exceptions import DrainingError
from .state import RequestState

logger = logging.getLogger("smartrouter_asgi")

RETRY_AFTER_S = 5.0
"""When a client may try again: by then somebody else answers here, or this gateway anew."""


class Drain:
    """The requests that run, and the one way to have no more of them. One event loop at a time."""

    def __init__(self) -> None:
        self.active = False
        self._requests: set[RequestState] = set()
        self._limit_at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    @property
    def running(self) -> int:
        """How many requests run."""
        return len(self._requests)

    def enter(self, state: RequestState) -> None:
        """Count a request among those that run, until it is given to `leave`. Raises `DrainingError` (503)."""
        if self.active:
            raise refusal()
        self._requests.add(state)

    def leave(self, state: RequestState) -> None:
        """Let go of a request that is over."""
        self._requests.discard(state)

    def begin(self, timeout_s: float) -> None:
        """Refuse new requests, and end those that still run in `timeout_s`. A later call can only bring that forward.

        To be called in the event loop.
        """
        if not self.active:
            self.active = True
            if self.running:
                logger.info("draining: %d requests run, for at most %g s", self.running, timeout_s)
        loop = asyncio.get_running_loop()
        limit_at = loop.time() + timeout_s
        if limit_at < self._limit_at:
            self._stop_timer()
            self._limit_at = limit_at
            self._timer = loop.call_at(limit_at, self._end_all)

    def reset(self, *, active: bool = False) -> None:
        """Forget the limit; `active`: new requests are still refused, else everything is as it was before `begin`."""
        self._stop_timer()
        self._limit_at = math.inf
        self.active = active

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_all(self) -> None:
        self._timer = None
        if self._requests:
            logger.warning("the drain's time is up: ending %d requests that still run", self.running)
        for state in tuple(self._requests):
            _end(state)


def refusal() -> DrainingError:
    """Return what a client is told that the gateway cannot serve any more."""
    return DrainingError("the gateway is shutting down: try again in a moment", retry_after_s=RETRY_AFTER_S)


def _end(state: RequestState) -> None:
    if not state.committed:
        state.ended = refusal()
        if state.work is not None:
            state.work.cancel()
    elif state.attempt is not None and state.attempt.watchdog is not None:
        state.attempt.watchdog.expire(DrainingError.code)
