"""Aliases and tiny values that every layer shares; no logic."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

T_co = TypeVar("T_co", covariant=True)

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

JSONObject: TypeAlias = dict[str, Any]
"""A decoded JSON object; `Any` is allowed here, at the JSON edges, and nowhere else."""

Headers: TypeAlias = list[tuple[bytes, bytes]]
"""Raw header pairs, names in lower case, order and duplicates kept."""

Operation: TypeAlias = Literal["chat", "completions", "embeddings"]
"""What a client asks for. A breaker has one more, `stream`: the set-up of a streamed answer."""

Clock: TypeAlias = Callable[[], float]
"""Monotonic seconds. Wall-clock time never decides anything."""

Random: TypeAlias = Callable[[], float]
"""A number in [0, 1), as `random.random`."""


class Closable(Protocol[T_co]):
    """What comes bit by bit: an asynchronous iterator that can be closed, as asynchronous generators are."""

    def __aiter__(self) -> AsyncIterator[T_co]:
        """Return itself."""

    async def __anext__(self) -> T_co:
        """Return the next bit, or raise `StopAsyncIteration`."""

    async def aclose(self) -> None:
        """Ask for no more."""


class Secret:
    """A credential that shows itself only to who asks for it by name: `repr` and `str` are masked."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the credential itself."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)
