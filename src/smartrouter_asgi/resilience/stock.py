"""aiobreaker's own interface, for those who know it: calls, decorator, states, times, exclusions.

Everything here rests on two verbs of the subclass, `acquire` and `peek`, and on its `Circuit`.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import aiobreaker

from .states import MEMBERS, NAMES, TAGS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from .circuit import Circuit, CircuitState
    from .hooks import Hooks
    from .permit import Permit

_T = TypeVar("_T")


class StockInterface(aiobreaker.CircuitBreaker):  # type: ignore[misc]  # aiobreaker is not typed
    """What aiobreaker's users call, in terms of permits; abstract."""

    _circuit: Circuit
    _state: aiobreaker.state.CircuitBreakerBaseState
    _hooks: Hooks

    def acquire(self) -> Permit:
        """Return a permit for one attempt or raise CircuitOpenError."""
        raise NotImplementedError

    def peek(self) -> float | None:
        """Return None when a permit may be had now, else the seconds after which to ask again."""
        raise NotImplementedError

    def _force(self, state: CircuitState) -> None:
        raise NotImplementedError

    def call(self, func: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
        """Call `func` under a permit; what it raises comes out unchanged, a generator is guarded to its end."""
        if self._guards(func):
            return func(*args, **kwargs)
        permit = self._begin(func, args, kwargs)
        try:
            result = func(*args, **kwargs)
        except BaseException as exc:
            permit.settle_by(exc)
            raise
        if isinstance(result, GeneratorType):
            return cast("_T", _guarded(permit, result))
        _refuse_stream(permit, result)
        _refuse_coroutine(permit, result)
        permit.success()
        return result

    async def call_async(self, func: Callable[..., Awaitable[_T]], *args: Any, **kwargs: Any) -> _T:
        """Await `func` under a permit; what it raises comes out unchanged, cancellation is no outcome."""
        if self._guards(func):
            return await func(*args, **kwargs)
        with self._begin(func, args, kwargs) as permit:
            awaitable = func(*args, **kwargs)
            _refuse_stream(permit, awaitable)
            return await awaitable

    def __call__(self, *call_args: Any, ignore_on_call: bool = True) -> Any:
        """Decorate a function; called over this same breaker it is counted once, over another one by both."""
        if not call_args:
            return partial(self.__call__, ignore_on_call=ignore_on_call)
        decorated = super().__call__(*call_args, ignore_on_call=ignore_on_call)
        decorated._guarded_by = (*getattr(decorated, "_guarded_by", ()), self)
        return decorated

    def is_system_error(self, exception: Exception) -> bool:
        """Tell whether an exception speaks against the backend: it is none of the excluded ones."""
        return not any(self._excludes(exclusion, exception) for exclusion in self._excluded_exceptions)

    def open(self) -> None:
        """Open it now, for a whole open time."""
        self._force("open")

    def half_open(self) -> None:
        """Let probes through now."""
        self._force("half-open")

    def close(self) -> None:
        """Close it now, with an empty window."""
        self._force("closed")

    @property
    def state(self) -> aiobreaker.state.CircuitBreakerBaseState:
        """The state as aiobreaker's object; `.state` is its enum member."""
        return self._state

    @state.setter
    def state(self, state: aiobreaker.CircuitBreakerState) -> None:
        self._force(NAMES[state])

    @property
    def current_state(self) -> aiobreaker.CircuitBreakerState:
        """The state as aiobreaker's enum member."""
        return MEMBERS[self._circuit.state]

    @property
    def fail_counter(self) -> int:
        """How many failures the window holds."""
        return self._circuit.failures

    @property
    def fail_max(self) -> int:
        """How many failures in the window open it."""
        return self._circuit.policy.failure_threshold

    @fail_max.setter
    def fail_max(self, number: int) -> None:
        self._circuit.policy = replace(self._circuit.policy, failure_threshold=number)

    @property
    def timeout_duration(self) -> timedelta:
        """How long it stays open, at the least."""
        return timedelta(seconds=self._circuit.policy.reset_timeout_s)

    @timeout_duration.setter
    def timeout_duration(self, timeout: timedelta) -> None:
        self._circuit.policy = replace(self._circuit.policy, reset_timeout_s=timeout.total_seconds())

    @property
    def opens_at(self) -> datetime | None:
        """When to ask again, in UTC and for display only; None when a permit may be had now."""
        remaining = self.time_until_open
        return None if remaining is None else datetime.now(UTC) + remaining

    @property
    def time_until_open(self) -> timedelta | None:
        """How long until to ask again; None when a permit may be had now."""
        remaining = self.peek()
        return None if remaining is None else timedelta(seconds=remaining)

    async def sleep_until_open(self) -> None:
        """Sleep until it is worth asking again."""
        await asyncio.sleep(self.peek() or 0.0)

    def _create_new_state(
        self, new_state: aiobreaker.CircuitBreakerState, prev_state: object = None, notify: bool = False
    ) -> aiobreaker.state.CircuitBreakerBaseState:
        # never notifies: aiobreaker's loop over listeners is not guarded, `Hooks` is
        return TAGS[new_state](self, prev_state=prev_state, notify=False)

    def _begin(self, func: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Permit:
        permit = self.acquire()
        if self._listeners:
            self._note("before_call", func, *args, **kwargs)
            self._hooks.tell()
        return permit

    def _excludes(self, exclusion: Callable[[Exception], bool] | type[Exception], exception: Exception) -> bool:
        # aiobreaker takes a class with a metaclass of its own for a predicate, true for everything
        if isinstance(exclusion, type):
            return isinstance(exception, exclusion)
        try:
            return bool(exclusion(exception))
        except Exception as exc:
            self._hooks.complain(exc)
            return False

    def _note(self, method: str, /, *args: Any, **kwargs: Any) -> None:
        for listener in self._listeners:
            self._hooks.note(listener, method, self, *args, **kwargs)

    def _guards(self, func: Callable[..., object]) -> bool:
        return getattr(func, "_ignore_on_call", False) and self in getattr(func, "_guarded_by", ())


def _refuse_stream(permit: Permit, result: object) -> None:
    if isinstance(result, AsyncGeneratorType):
        permit.release()
        raise TypeError("an async generator outlives the call: acquire() a permit and settle it by the stream")


def _refuse_coroutine(permit: Permit, result: object) -> None:
    if isinstance(result, CoroutineType):
        permit.release()
        result.close()
        raise TypeError("a coroutine has done nothing yet when the call is over: use call_async()")


def _guarded(permit: Permit, generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    with permit:
        return (yield from generator)
