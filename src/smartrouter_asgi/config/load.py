"""Puts command line, environment, file and defaults together, in this order of precedence."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from .fields import KeyPath, is_unset
from .file import Document, read_file
from .models import Settings
from .problems import Origin, Sources, configuration_error, shown
from .variables import Placed, Variables, read_environment, unknown_warnings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def load_settings(
    *,
    file: Path | str | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Return the settings of command line > environment > file > default.

    `file` wins over `ROUTER_CONFIG`; `environ` is `os.environ` when not given; `overrides` are the command line's
    values by dotted key (`server.host`), and None among them means not given. Raises `ConfigurationError` with one line
    for each problem.
    """
    environ = os.environ if environ is None else environ
    variables = read_environment(environ)
    document = _document(file, variables, environ)
    commanded = list(_commanded(overrides or {}))

    values = copy.deepcopy(document.values) if document else {}
    explicit = document is not None or variables.names_a_backend
    warnings = unknown_warnings(variables, document.variables if document else ())
    warnings += document.warnings if document else ()
    placed: list[Placed] = []
    if any(item.path[0] == "backends" for item in commanded):
        placed += [item for item in commanded if item.path[0] == "backends"]
        explicit = True
    elif not values.get("backends"):
        backend, notes = variables.backend()
        placed += backend
        warnings += notes
    else:
        warnings += _ignored(variables, document)

    sources = _merge(values, placed, document, {})
    if document is not None:
        # A mistake in the file is told even where a variable or an option would hide it.
        _validated(values, sources)
    sources = _merge(values, [*variables.settings(), *commanded], document, sources.origins)
    return _validated(values, sources).noted(warnings=warnings, backends_explicit=explicit)


def _document(file: Path | str | None, variables: Variables, environ: Mapping[str, str]) -> Document | None:
    if not is_unset(file) and file is not None:
        return read_file(Path(file).expanduser(), environ)
    if variables.values.config is not None:
        return read_file(Path(variables.values.config).expanduser(), environ, named_by="ROUTER_CONFIG")
    return None


def _commanded(overrides: Mapping[str, Any]) -> Iterable[Placed]:
    for key, value in overrides.items():
        if not is_unset(value):
            secret = "key" in key.rpartition(".")[2]
            origin = Origin(label=f"command line: {key}", shown="" if secret else shown(value))
            yield Placed(path=tuple(key.split(".")), value=value, origin=origin)


def _ignored(variables: Variables, document: Document | None) -> list[str]:
    used = {name.upper() for name in document.variables} if document else set()
    names = [name for name in variables.backend_variables() if name not in used]
    return [f"{', '.join(names)}: ignored, because the file defines backends"] if names else []


def _merge(
    values: dict[str, Any], placed: Iterable[Placed], document: Document | None, origins: Mapping[KeyPath, Origin]
) -> Sources:
    """Put each value at its place in `values`; return what errors need to name where a value came from."""
    merged = dict(origins)
    for item in placed:
        section = values
        for part in item.path[:-1]:
            if not isinstance(section.get(str(part)), dict):
                section[str(part)] = {}
            section = section[str(part)]
        section[str(item.path[-1])] = item.value
        merged[item.path] = item.origin
    return Sources(
        name=str(document.path) if document else "configuration",
        origins=merged,
        templates=document.templates if document else {},
    )


def _validated(values: dict[str, Any], sources: Sources) -> Settings:
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise configuration_error(error, Settings, sources) from None
