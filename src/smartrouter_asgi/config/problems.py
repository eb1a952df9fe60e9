"""Turns what pydantic found wrong into lines a person can act on, without ever showing a secret."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args, get_origin

from ..exceptions import ConfigurationError
from .fields import KeyPath, Section, did_you_mean, key_path

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

SECRET_KEYS = frozenset({"api_key", "api_keys", "headers", "options", "admin"})
"""Nothing under these keys is ever shown."""

_SHAPES = {
    "model_type": "expected a mapping (key: value)",
    "model_attributes_type": "expected a mapping (key: value)",
    "dict_type": "expected a mapping (key: value)",
    "tuple_type": "expected a list",
    "list_type": "expected a list",
    "missing": "missing, and it has no default",
    "string_too_short": "expected text that is not empty",
    "invalid_key": "expected a key of text: put it in quotes",
}

_SCALARS = {
    "string_type": "expected text: put it in quotes",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "int_parsing_size": "expected a smaller number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "finite_number": "expected a finite number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a value came from, if not from the file: what to call it, and what to show as its value."""

    label: str
    shown: str = ""
    """As `shown()` wrote it; empty for a secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What an error needs to know to name its culprit."""

    name: str = "configuration"
    """The file's name."""
    origins: Mapping[KeyPath, Origin] = field(default_factory=dict)
    templates: Mapping[KeyPath, str] = field(default_factory=dict)
    """Texts before interpolation, shown in place of what came out of it."""


def configuration_error(error: ValidationError, root: type[BaseModel], sources: Sources) -> ConfigurationError:
    """Return one error with one line for each problem."""
    lines = [line for detail in error.errors(include_url=False) for line in _lines(detail, root, sources)]
    return ConfigurationError("\n".join(dict.fromkeys(lines)))


def shown(value: object) -> str:
    """Write a value for an error message: short, on one line, without the credentials a URL may hold."""
    if isinstance(value, str):
        text = re.sub(r"//.*@", "//***@", value, flags=re.DOTALL)
        text = re.sub(r"(://.*)\?.*", r"\1?***", text, flags=re.DOTALL)
        return repr(text if len(text) <= 80 else text[:77] + "...")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)[:80]
    return ""


def _lines(detail: ErrorDetails, root: type[BaseModel], sources: Sources) -> Iterator[str]:
    path: KeyPath = tuple(part for part in detail["loc"] if part != "[key]")
    context: dict[str, Any] = detail.get("ctx", {})
    if detail["type"] == "problems":
        for problem in context["problems"]:
            yield _line(path + problem.path, problem.value, problem.message, sources)
    elif detail["type"] == "extra_forbidden":
        yield _line(path, None, _unknown_key(path, root), sources)
    elif detail["type"] in _SHAPES:
        yield _line(path, None, _SHAPES[detail["type"]] + _given(detail), sources)
    else:
        yield _line(path, detail["input"], _message(detail, context), sources)


def _line(path: KeyPath, value: object, message: str, sources: Sources) -> str:
    origin = next((sources.origins[path[:n]] for n in range(len(path), 0, -1) if path[:n] in sources.origins), None)
    if origin is not None:
        where, text = [origin.label], origin.shown
    else:
        where = [sources.name, key_path(path)] if path else [sources.name]
        hidden = value is None or not SECRET_KEYS.isdisjoint(path)
        text = "" if hidden else shown(sources.templates.get(path, value))
    return ": ".join([*where, *([text] if text else []), message])


def _message(detail: ErrorDetails, context: Mapping[str, Any]) -> str:
    kind = detail["type"]
    if kind in _SCALARS:
        return _SCALARS[kind]
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        expected = str(context["expected"])
        hint = did_you_mean(str(detail["input"]), re.findall(r"'([^']+)'", expected))
        return f"expected {expected}{hint}"
    return (
        detail["msg"].replace("Input should", "must").replace("Value should", "must").replace("String should", "must")
    )


def _given(detail: ErrorDetails) -> str:
    value = detail["input"]
    if not detail["type"].endswith("_type"):
        return ""
    if isinstance(value, Mapping):
        return ", not a mapping"
    if isinstance(value, list | tuple):
        return ", not a list"
    return ", not text" if isinstance(value, str) else ", not a single value"


def _unknown_key(path: KeyPath, root: type[BaseModel]) -> str:
    section = _section_at(path[:-1], root)
    if section is None:
        return "unknown key"
    keys = section.file_keys()
    return "unknown key" + (did_you_mean(str(path[-1]), keys) or f"; there is: {', '.join(keys)}")


def _section_at(path: KeyPath, root: type[BaseModel]) -> type[Section] | None:
    annotation: Any = root
    for part in path:
        if get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
        elif get_origin(annotation) is tuple:
            annotation = get_args(annotation)[0]
        elif isinstance(annotation, type) and issubclass(annotation, Section):
            fields = annotation.model_fields
            annotation = next((f.annotation for name, f in fields.items() if part in (name, f.alias)), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None
