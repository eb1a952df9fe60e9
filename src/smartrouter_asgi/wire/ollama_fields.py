"""The members of an OpenAI request on their way to Ollama: each is taken, refused or listed as ignored."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from ..exceptions import RequestError, UnsupportedParameterError

T = TypeVar("T")

MAX_PARAM_LENGTH = 100

_INDEX = re.compile(r"\[\d+\]")
_WORDS: dict[type, str] = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    list: "a list",
    dict: "an object",
}


class RequestFields:
    """The members of one JSON object, each to be taken once; what nobody took is refused by `close`.

    A null counts as absent. `path` stands before the members' names in errors (`messages[2].`). All objects of one
    request share `ignored`, where a name stands once, without indices (`messages.name`).
    """

    __slots__ = ("_left", "_path", "ignored")

    def __init__(self, members: Any, path: str = "", ignored: dict[str, None] | None = None) -> None:
        if not isinstance(members, dict):
            raise RequestError(f"'{path.rstrip('.')}' must be an object", param=path.rstrip("."))
        self._left: dict[str, Any] = {name: value for name, value in members.items() if value is not None}
        self._path = path
        self.ignored: dict[str, None] = {} if ignored is None else ignored

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def inside(self, name: str, value: Any) -> RequestFields:
        """Return the members of an object found in this one, say under `tools[0]`."""
        return RequestFields(value, f"{self._path}{name}.", self.ignored)

    def take(self, name: str) -> Any:
        """Take a member as it is; None when it is absent."""
        return self._left.pop(name, None)

    def string(self, name: str) -> str | None:
        """Take a string. Raises `RequestError` (400) on any other type, as all the following do."""
        return self._typed(name, str)

    def boolean(self, name: str) -> bool | None:
        """Take a boolean."""
        return self._typed(name, bool)

    def items(self, name: str) -> list[Any] | None:
        """Take a list."""
        return self._typed(name, list)

    def mapping(self, name: str) -> dict[str, Any] | None:
        """Take an object."""
        return self._typed(name, dict)

    def integer(self, name: str, *, low: int | None = None, high: int | None = None) -> int | None:
        """Take a whole number between two bounds, both allowed."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(name, _WORDS[int])
        if low is not None and (value < low or (high is not None and value > high)):
            raise self.wrong(name, f"{low} or more" if high is None else f"between {low} and {high}")
        return value

    def number(self, name: str) -> float | int | None:
        """Take a number."""
        value = self.take(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise self.wrong(name, "a number")
        return value

    def ignore(self, name: str) -> None:
        """Take a member that has no effect on the answer; absent, it is not listed."""
        if self._left.pop(name, None) is not None:
            self.note(name)

    def note(self, name: str) -> None:
        """List a member, already taken, as ignored."""
        self.ignored[_INDEX.sub("", self._path) + name] = None

    def expect(self, name: str, value: Any, only: Any, hint: str) -> None:
        """List a member, already taken, whose value is how Ollama does it anyway; any other value is refused."""
        if value is None:
            return
        if value != only:
            raise self.unsupported(name, hint)
        self.note(name)

    def close(self, *, harmless: Iterable[str] = (), hints: Mapping[str, str] | None = None) -> None:
        """Ignore the harmless members that are left and refuse every other one; `hints` say what would be right."""
        for name in harmless:
            self.ignore(name)
        for name in self._left:
            hint = (hints or {}).get(name)
            raise self.unsupported(name, hint or "it is unknown here: correct its name or leave it out")

    def wrong(self, name: str, wanted: str) -> RequestError:
        """Return the error for a member of the wrong type or value."""
        param = self._param(name)
        return RequestError(f"'{param}' must be {wanted}", param=param)

    def unsupported(self, name: str, hint: str) -> UnsupportedParameterError:
        """Return the error for a member that Ollama cannot honour."""
        param = self._param(name)
        return UnsupportedParameterError(f"'{param}' is not supported by Ollama: {hint}", param=param)

    def _param(self, name: str) -> str:
        return (self._path + name)[:MAX_PARAM_LENGTH]

    def _typed(self, name: str, wanted: type[T]) -> T | None:
        value = self._left.pop(name, None)
        if value is not None and not isinstance(value, wanted):
            raise self.wrong(name, _WORDS[wanted])
        return value
