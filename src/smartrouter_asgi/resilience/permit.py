"""Permits: the right to make one attempt, as an owned value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from types import TracebackType


class Settles(Protocol):
    """Whoever issued a permit and takes its outcome back."""

    def is_system_error(self, exception: Exception) -> bool:
        """Tell whether an exception speaks against the backend."""

    def _settle(
        self,
        epoch: int,
        probe: int,
        failed: bool | None,
        exc: Exception | None = None,
        first_token_s: float | None = None,
    ) -> None: ...

    def _end(self, epoch: int, failed: bool) -> None: ...


class Permit:
    """The right to make one attempt, settled exactly once: the first of success, failure and release wins.

    As a context manager it settles by how the block ends: a system error is a failure, an excluded exception a
    success, and a cancellation or other `BaseException` releases it.
    """

    __slots__ = ("_breaker", "_ended", "_epoch", "_probe", "_settled")

    def __init__(self, breaker: Settles, epoch: int, probe: int) -> None:
        self._breaker = breaker
        self._epoch = epoch
        self._probe = probe
        self._settled = False
        self._ended = False

    def success(self, first_token_s: float | None = None) -> None:
        """Settle: the backend is well; `first_token_s` after the attempt began its first token came, where known."""
        if not self._settled:
            self._settled = True
            self._breaker._settle(self._epoch, self._probe, False, None, first_token_s)

    def failure(self, exc: Exception | None = None) -> None:
        """Settle: the backend failed; `exc` is what listeners hear."""
        if not self._settled:
            self._settled = True
            self._breaker._settle(self._epoch, self._probe, True, exc)

    def release(self) -> None:
        """Settle without an outcome: nothing was learnt, a probe's slot is free again."""
        if not self._settled:
            self._settled = True
            self._breaker._settle(self._epoch, self._probe, None)

    def late_outcome(self, failed: bool) -> None:
        """Record how a stream ended, once, as an outcome of its own in the epoch the permit was issued in."""
        if not self._ended:
            self._ended = True
            self._breaker._end(self._epoch, failed)

    def settle_by(self, exc: BaseException | None) -> None:
        """Settle by what the attempt raised (None: it succeeded)."""
        if exc is None:
            self.success()
        elif not isinstance(exc, Exception):
            self.release()
        elif self._breaker.is_system_error(exc):
            self.failure(exc)
        else:
            self.success()

    def __enter__(self) -> Permit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.settle_by(exc)


class NullPermit(Permit):
    """The permit of a breaker that is switched off: it may be settled any number of times."""

    __slots__ = ()

    def __init__(self) -> None:
        """Belong to no breaker."""

    def success(self, first_token_s: float | None = None) -> None:
        """Do nothing."""

    def failure(self, exc: Exception | None = None) -> None:
        """Do nothing."""

    def release(self) -> None:
        """Do nothing."""

    def late_outcome(self, failed: bool) -> None:
        """Do nothing."""

    def settle_by(self, exc: BaseException | None) -> None:
        """Do nothing."""


NULL_PERMIT = NullPermit()
"""One for all, since it keeps nothing."""
