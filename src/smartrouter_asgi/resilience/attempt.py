"""One attempt, and what it holds: a permit, a lease, its place in a race."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from .retry import counts_as_failure

if TYPE_CHECKING:
    from ..deployment import Deployment
    from ..exceptions import FailureKind
    from ..transport.watchdog import Watchdog
    from .breaker import CircuitBreaker, Permit
    from .hedging import Entry


class Held(Protocol):
    """A lease on GPU memory, as an attempt sees it."""

    def release(self) -> None:
        """Give it back: the engine has stopped working."""

    def drain(self) -> None:
        """Give it back once the engine has stopped working, which it perhaps has not yet."""


class Attempt(msgspec.Struct, kw_only=True, eq=False):
    """One dispatch to one deployment, numbered from 1. The permit is taken late and settled exactly once."""

    number: int
    deployment: Deployment
    operation: str = "chat"
    started: float = 0.0
    admitted: float | None = None
    """When the engine was asked, after all queueing; monotonic seconds, as `started`."""
    breaker: CircuitBreaker | None = None
    permit: Permit | None = None
    lease: Held | None = None
    keeps_lease: bool = False
    """The attempt loop is in charge of the lease after a failure, so that a retry costs no reload."""
    others: bool = False
    """Another candidate is left that has not been asked yet: a long wait for this one is not worth it."""
    waits: bool = True
    """It may stand in line: for memory, for a slot, for a load. A hedge may not."""
    entry: Entry | None = None
    """Its place in a race with another attempt of the same request."""
    watchdog: Watchdog | None = None
    """What may end its stream, while there is one."""
    first_token_s: float | None = None
    """From admission to the first token of a stream, or to the whole of a plain answer."""

    def start(self) -> None:
        """Take the permit, right before the engine is asked. Raises `BreakerOpenError`. Harmless when taken already."""
        if self.permit is None and self.breaker is not None:
            self.permit = self.breaker.acquire()

    def succeed(self) -> None:
        """Settle the permit: the engine has answered, or begun to."""
        if self.permit is not None:
            self.permit.success(self.first_token_s if self.operation == "stream" else None)

    def fail(self, kind: FailureKind) -> None:
        """Settle the permit by what the failure says about the backend."""
        if self.permit is not None:
            if counts_as_failure(kind):
                self.permit.failure()
            else:
                self.permit.release()

    def cancel(self) -> None:
        """Settle the permit as if nothing had happened."""
        if self.permit is not None:
            self.permit.release()

    def stream_ended(self, *, failed: bool) -> None:
        """Record how a committed stream ended, apart from how it began."""
        if self.permit is not None:
            self.permit.late_outcome(failed)

    def upstream_ended(self, *, busy: bool = False) -> None:
        """Say that the exchange is over: the lease need not wait for a slow reader, only for a `busy` engine."""
        let_go(self.lease, busy=busy)


def let_go(lease: Held | None, *, busy: bool) -> None:
    """Give a lease back: at once, or as soon as a `busy` engine has stopped."""
    if lease is not None:
        if busy:
            lease.drain()
        else:
            lease.release()
