"""The options that some backend types take: which, and what they may be."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from .fields import KeyPath, Problem, did_you_mean, is_unset
from .units import parse_duration


def _place(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[a-z0-9][a-z0-9-]*", value):
        raise ValueError("expected a name of lower-case letters, digits and '-', such as us-east-1")
    return value


def _project(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[a-z0-9][a-z0-9.:-]*", value):
        raise ValueError("expected the id or the number of a project: put it in quotes")
    return value


def _ttl(value: object) -> float:
    seconds = parse_duration(value)
    if not seconds:
        raise ValueError("expected more than 0")
    return seconds


def _sleep_level(value: object) -> int:
    if isinstance(value, bool) or value not in (1, 2):
        raise ValueError("expected 1 (weights kept in main memory) or 2 (weights discarded)")
    return int(str(value))


_READERS: Mapping[str, Callable[[object], Any]] = MappingProxyType(
    {"region": _place, "location": _place, "project": _project, "ttl": _ttl, "sleep_level": _sleep_level}
)


def read_options(engine: str, given: Mapping[str, Any], known: Iterable[str]) -> tuple[dict[str, Any], list[Problem]]:
    """Return the options of a built-in type in their own units, and what is wrong with them."""
    known = tuple(known)
    if not known:
        return {}, [Problem(path=("options",), message=f"type {engine} takes no options")]
    options: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, value in given.items():
        path: KeyPath = ("options", name)
        if name not in known:
            hint = did_you_mean(name, known) or f"; type {engine} takes {', '.join(known)}"
            problems.append(Problem(path=path, message="unknown key" + hint))
        elif not is_unset(value):
            try:
                options[name] = _READERS[name](value)
            except ValueError as exc:
                problems.append(Problem(path=path, message=str(exc)))
    return options, problems
