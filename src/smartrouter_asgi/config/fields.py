"""The pydantic vocabulary of the sections: their base class, the annotated field types, and how a check refuses."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ..types import Secret
from .units import parse_duration, parse_size

KeyPath: TypeAlias = tuple[str | int, ...]
"""Where a value stands in the file: mapping keys and list indices, from the top."""


class Section(BaseModel):
    """A mapping in the file: unknown keys are refused, an empty value is the default, instances do not change.

    Constructors take the file's key names (`connect="5s"`); attributes carry their unit (`connect_s`).
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False, protected_namespaces=()
    )

    @classmethod
    def file_keys(cls) -> tuple[str, ...]:
        """List the keys this section takes in the file."""
        keys: list[str] = []
        for name, field in cls.model_fields.items():
            if isinstance(field.validation_alias, AliasChoices):
                keys += [choice for choice in field.validation_alias.choices if isinstance(choice, str)]
            else:
                keys.append(field.alias or name)
        return tuple(keys)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        known = cls.file_keys()
        return {key: value for key, value in data.items() if key not in known or not is_unset(value)}


def is_unset(value: object) -> bool:
    """Tell whether a value in the file or the environment counts as not given."""
    return value is None or value == ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong: where, relative to the section that found it, which value, and what would be right."""

    path: KeyPath
    message: str
    value: object = None


def refuse(problems: Iterable[Problem]) -> None:
    """Raise the problems, if there are any, as one pydantic error that keeps their paths."""
    found = tuple(problems)
    if found:
        summary = "; ".join(f"{key_path(problem.path)}: {problem.message}" for problem in found)
        raise PydanticCustomError("problems", "{summary}", {"summary": summary, "problems": found})


def key_path(path: Iterable[str | int]) -> str:
    """Write a path as `models[0].deployments[1].backend`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[\w-]+", part):
            text += f".{part}" if text else part
        else:
            text += f"[{part!r}]"
    return text


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return `; did you mean 'x'?` for the nearest known name, or nothing."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    nearest = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=cutoff)
    return f"; did you mean {by_folded[nearest[0]]!r}?" if nearest else ""


def _not_a_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


def _secret(value: object) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str):
        raise ValueError("expected text: put it in quotes")
    text = value.strip()
    if not re.fullmatch(r"[\x21-\x7e]+", text):
        raise ValueError("expected a key of visible ASCII characters, without blanks")
    return Secret(text)


def _header_value(value: object) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str) or not re.fullmatch(r"[\x20-\x7e\t]*", value):
        raise ValueError("expected the header's value as text in quotes, ASCII, on one line")
    return Secret(value)


def _header_name(value: str) -> str:
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", value):
        raise ValueError("expected a header name such as X-Title")
    return value


def _device(value: object) -> int | str:
    if isinstance(value, str) and value.strip():
        text = value.strip()
        return int(text) if text.isascii() and text.isdigit() else text
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError("expected a device index such as 0, or a device UUID")


def _name(value: str) -> str:
    if value != value.strip() or not value.isprintable():
        raise ValueError("expected a name without surrounding blanks or control characters")
    return value


def lowered(value: object) -> object:
    """Make text a choice's spelling: lower case, no surrounding blanks."""
    return value.strip().lower() if isinstance(value, str) else value


def _raised(value: object) -> object:
    return value.strip().upper() if isinstance(value, str) else value


_DURATION_SCHEMA = WithJsonSchema({"type": ["string", "number"], "examples": ["500ms", "30s", "5m", "1h", 30]})
_SIZE_SCHEMA = WithJsonSchema({"type": ["string", "integer"], "examples": ["512MiB", "6GiB", "12GB", 1048576]})
_SECRET_SCHEMA = WithJsonSchema({"type": "string", "writeOnly": True})
_MASKED = PlainSerializer(lambda _: "***", return_type=str)


def _duration_or_forever(value: object) -> float:
    return parse_duration(value, forever=True)


Seconds: TypeAlias = Annotated[float, BeforeValidator(parse_duration), _DURATION_SCHEMA]
PositiveSeconds: TypeAlias = Annotated[float, BeforeValidator(parse_duration), Field(gt=0), _DURATION_SCHEMA]
SecondsOrForever: TypeAlias = Annotated[float, BeforeValidator(_duration_or_forever), _DURATION_SCHEMA]
PositiveBytes: TypeAlias = Annotated[int, BeforeValidator(parse_size), Field(gt=0), _SIZE_SCHEMA]

WholeNumber: TypeAlias = Annotated[int, BeforeValidator(_not_a_bool), Field(ge=0)]
Count: TypeAlias = Annotated[int, BeforeValidator(_not_a_bool), Field(ge=1)]
Port: TypeAlias = Annotated[int, BeforeValidator(_not_a_bool), Field(ge=0, le=65535)]
NonNegative: TypeAlias = Annotated[float, BeforeValidator(_not_a_bool), Field(ge=0)]
Positive: TypeAlias = Annotated[float, BeforeValidator(_not_a_bool), Field(gt=0)]
Percent: TypeAlias = Annotated[float, BeforeValidator(_not_a_bool), Field(gt=0, le=100)]

Name: TypeAlias = Annotated[str, Field(min_length=1), AfterValidator(_name)]
SecretText: TypeAlias = Annotated[Secret, PlainValidator(_secret), _MASKED, _SECRET_SCHEMA]
HeaderName: TypeAlias = Annotated[str, AfterValidator(_header_name)]
HeaderValue: TypeAlias = Annotated[Secret, PlainValidator(_header_value), _MASKED, _SECRET_SCHEMA]
DeviceId: TypeAlias = Annotated[int | str, PlainValidator(_device), WithJsonSchema({"type": ["integer", "string"]})]

Provider: TypeAlias = Annotated[Literal["ollama", "llama.cpp", "openai", "auto"], BeforeValidator(lowered)]
UnloadStrategy: TypeAlias = Annotated[Literal["lru", "largest", "cost"], BeforeValidator(lowered)]
TransportName: TypeAlias = Annotated[Literal["auto", "direct", "httpx"], BeforeValidator(lowered)]
LogLevel: TypeAlias = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_raised)]
LogFormat: TypeAlias = Annotated[Literal["text", "json"], BeforeValidator(lowered)]
