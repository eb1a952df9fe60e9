"""aiobreaker's vocabulary of states, and the error of a refusal, in terms of our own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import aiobreaker
from aiobreaker.state import CircuitClosedState, CircuitHalfOpenState, CircuitOpenState

from ..exceptions import BreakerOpenError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .circuit import CircuitState
    from .stock import StockInterface

_T = TypeVar("_T")

MEMBERS: dict[CircuitState, aiobreaker.CircuitBreakerState] = {
    "closed": aiobreaker.CircuitBreakerState.CLOSED,
    "half-open": aiobreaker.CircuitBreakerState.HALF_OPEN,
    "open": aiobreaker.CircuitBreakerState.OPEN,
}
NAMES = {member: name for name, member in MEMBERS.items()}


class _Reopening(aiobreaker.CircuitBreakerError):  # type: ignore[misc]  # aiobreaker is not typed
    """aiobreaker's error without its local wall-clock arithmetic: it remembers how long, not until when."""

    def __init__(self, message: str) -> None:
        super().__init__(message, None)
        self.reopen_time = datetime.now(UTC)

    @property
    def time_remaining(self) -> timedelta:
        """How long to wait, as of the refusal."""
        return timedelta(seconds=getattr(self, "retry_after_s", None) or 0.0)


class CircuitOpenError(BreakerOpenError, _Reopening):
    """The breaker refused (503 with Retry-After); also aiobreaker's `CircuitBreakerError`, for who catches that."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.reopen_time += timedelta(seconds=retry_after_s)


class _Tag:
    """Makes aiobreaker's state objects mere tags: a call on one is a call on its breaker."""

    _breaker: StockInterface

    def call(self, func: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
        return self._breaker.call(func, *args, **kwargs)

    async def call_async(self, func: Callable[..., Awaitable[_T]], *args: Any, **kwargs: Any) -> _T:
        return await self._breaker.call_async(func, *args, **kwargs)


class _ClosedTag(_Tag, CircuitClosedState):  # type: ignore[misc]
    pass


class _HalfOpenTag(_Tag, CircuitHalfOpenState):  # type: ignore[misc]
    pass


class _OpenTag(_Tag, CircuitOpenState):  # type: ignore[misc]
    pass


TAGS = {
    aiobreaker.CircuitBreakerState.CLOSED: _ClosedTag,
    aiobreaker.CircuitBreakerState.HALF_OPEN: _HalfOpenTag,
    aiobreaker.CircuitBreakerState.OPEN: _OpenTag,
}
