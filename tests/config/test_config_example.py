"""The example configuration says all there is to say, and what it says is true."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from smartrouter_asgi.config import load_settings

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "config.example.yaml"
SHOWN_BY_ONE = {"CapabilitySettings"}
UNSAID = {"warnings", "options"}  # what is no key, and what is one for some types of backends only
OF_THE_EXAMPLE = ("backends", "models", "aliases", "vram.max_total")


def sections(value: Any) -> Iterator[BaseModel]:
    """A section and all below it."""
    if isinstance(value, BaseModel):
        yield value
        for name in type(value).model_fields:
            yield from sections(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from sections(item)
    elif isinstance(value, tuple):
        for item in value:
            yield from sections(item)


def test_every_key_stands_in_it(tmp_path: Path) -> None:
    """With what is commented out switched on it is valid, and nothing of any section is left out."""
    file = tmp_path / "router.yaml"
    file.write_text(re.sub(r"^( *)# ([a-z_]+:)", r"\1\2", EXAMPLE.read_text(), flags=re.MULTILINE))
    said: dict[type[BaseModel], set[str]] = defaultdict(set)
    for section in sections(load_settings(file=file, environ={"ROUTER_ADMIN_API_KEY": "key"})):
        said[type(section)] |= section.model_fields_set
    for kind, names in said.items():
        if kind.__name__ not in SHOWN_BY_ONE:
            assert set(kind.model_fields) - names <= UNSAID, kind.__name__


def test_what_it_says_is_the_default() -> None:
    """Where it is not about this one's own engines and models."""
    settings, default = load_settings(file=EXAMPLE, environ={}), load_settings(environ={})

    def differences(ours: BaseModel, theirs: BaseModel, path: str = "") -> Iterator[str]:
        for name in type(ours).model_fields:
            mine, other = getattr(ours, name), getattr(theirs, name)
            where = f"{path}{name.removesuffix('_s').removesuffix('_bytes')}"
            if isinstance(mine, BaseModel):
                yield from differences(mine, other, f"{where}.")
            elif mine != other:
                yield where

    assert [path for path in differences(settings, default) if path not in OF_THE_EXAMPLE] == []
