"""Reads the configuration file, YAML or TOML, and fills in `${NAME}`; what the keys mean is not known here."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from ..exceptions import ConfigurationError
from .fields import KeyPath, key_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_MAX_DEPTH = 32
_REFERENCE = re.compile(r"\$(?P<escaped>\$)?\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)?(?::-(?P<default>[^{}]*))?(?P<end>\})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A file's content after interpolation."""

    path: Path
    values: dict[str, Any] = field(repr=False)
    templates: dict[KeyPath, str]
    """The texts that held `${NAME}`, as written."""
    variables: frozenset[str]
    """The names they referred to."""
    warnings: tuple[str, ...] = ()


def read_file(path: Path, environ: Mapping[str, str], *, named_by: str = "") -> Document:
    """Read and interpolate one file.

    `named_by` says in errors where the path came from. Raises `ConfigurationError` for a file that cannot be read, is
    neither YAML nor TOML by its suffix, is not a mapping, or refers to a variable that is not set.
    """
    label = f"{named_by}: {path}" if named_by else str(path)
    if path.suffix.lower() not in (".yaml", ".yml", ".toml"):
        raise ConfigurationError(f"{label}: expected a file name that ends in .yaml, .yml or .toml")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{label}: expected UTF-8 text; byte {error.start} is not") from None
    except OSError as error:
        raise ConfigurationError(f"{label}: cannot be read: {error.strerror or type(error).__name__}") from None
    values = parse_toml(text, label) if path.suffix.lower() == ".toml" else parse_yaml(text, label)
    if values is None or values == {}:
        return Document(
            path=path, values={}, templates={}, variables=frozenset(), warnings=(f"{path}: the file is empty",)
        )
    if not isinstance(values, dict):
        raise ConfigurationError(f"{label}: expected a mapping at the top, such as `backends:` and `models:`")
    if "model_list" in values:
        raise ConfigurationError(
            f"{label}: model_list: this is a LiteLLM configuration, which this version does not read yet; "
            "write `backends:` and `models:` instead"
        )
    return _interpolated(path, values, environ)


def parse_toml(text: str, label: str) -> dict[str, Any]:
    """Parse TOML; raise `ConfigurationError` with line and column."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{label}: not TOML: {error}") from None


def parse_yaml(text: str, label: str) -> Any:
    """Parse YAML, refusing a key given twice; raise `ConfigurationError` with line and column."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_node(node, label, set())
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        # Only problem and place: the library's own text quotes the file, which may hold keys.
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = re.sub(r"(['\"])(?!<)[^'\"]{2,}\1", "...", error.problem or "cannot be read")
        raise ConfigurationError(f"{label}: {place}not YAML: {problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"{label}: not YAML: {type(error).__name__}") from None


def _check_node(node: yaml.Node, label: str, done: set[int], depth: int = 0) -> None:
    """Refuse duplicate keys, and what nests too deep (an anchor inside itself does so for ever)."""
    if id(node) in done:
        return
    line = node.start_mark.line + 1
    if depth > _MAX_DEPTH:
        raise ConfigurationError(f"{label}: line {line}: nested deeper than {_MAX_DEPTH} levels")
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_node(item, label, done, depth + 1)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                line = key.start_mark.line + 1
                if (first := lines.get((key.tag, key.value))) is not None:
                    raise ConfigurationError(f"{label}: line {line}: the key {key.value!r} is already on line {first}")
                lines[key.tag, key.value] = line
            _check_node(value, label, done, depth + 1)
    done.add(id(node))


def _interpolated(path: Path, values: dict[str, Any], environ: Mapping[str, str]) -> Document:
    templates: dict[KeyPath, str] = {}
    variables: set[str] = set()
    problems: list[str] = []

    def fill(value: Any, at: KeyPath) -> Any:
        if isinstance(value, dict):
            return {key: fill(item, (*at, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [fill(item, (*at, index)) for index, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        templates[at] = value
        variables.update(match["name"] for match in _REFERENCE.finditer(value) if match["name"])
        problems.extend(f"{path}: {key_path(at)}: {problem}" for problem in _reference_problems(value, environ))
        return _REFERENCE.sub(lambda match: _replacement(match, environ), value)

    filled = fill(values, ())
    if problems:
        raise ConfigurationError("\n".join(problems))
    return Document(path=path, values=filled, templates=templates, variables=frozenset(variables))


def _reference_problems(text: str, environ: Mapping[str, str]) -> Iterator[str]:
    for match in _REFERENCE.finditer(text):
        name = match["name"]
        if match["escaped"]:
            continue
        if name is None or match["end"] is None:
            yield "expected ${NAME} or ${NAME:-default} (write $${ for a literal ${)"
        elif match["default"] is None and not environ.get(name):
            yield f"the variable {name} is not set: set it, or write ${{{name}:-default}}"


def _replacement(match: re.Match[str], environ: Mapping[str, str]) -> str:
    if match["escaped"]:
        return match[0][1:]
    return environ.get(match["name"] or "") or match["default"] or ""
