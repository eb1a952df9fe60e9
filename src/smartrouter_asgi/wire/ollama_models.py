"""What Ollama tells of its models: rows of /api/tags, and /api/show for what the rows do not say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..deployment import Capabilities, ModelInfo
from .ollama_answer import unix_seconds

_LAYERS_DIFFER = (".attention.head_count", ".attention.head_count_kv", ".attention.sliding_window_pattern")
_NUM_CTX = re.compile(r"^num_ctx\s+(\d{1,9})\s*$", re.ASCII | re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What an answer to /api/show tells of a model."""

    capabilities: tuple[str, ...] = ()
    context_length: int | None = None
    num_ctx: int | None = None
    """Of the Modelfile's parameters."""
    metadata: Mapping[str, Any] | None = None
    """GGUF metadata without the tokenizer's; arrays of more than five entries are null unless asked for verbosely."""


def read_row(row: dict[str, Any], *, engine: Capabilities) -> ModelInfo:
    """Return what a row of /api/tags tells of a model; `engine` is what Ollama itself can do."""
    details = row.get("details")
    told = words(row.get("capabilities"))
    length = count(details.get("context_length")) if isinstance(details, dict) else None
    namespace = row["model"].rpartition("/")[0]
    return ModelInfo(
        id=row["model"],
        created=unix_seconds(row.get("modified_at")),
        owned_by=namespace or "library",
        size_bytes=count(row.get("size")),
        digest=text(row.get("digest")),
        capabilities=told,
        can=capable(told, length, engine=engine),
        remote=bool(row.get("remote_model") or row.get("remote_host")),
    )


def read_shown(answer: Any) -> Shown:
    """Return what an answer to /api/show tells, as far as it does."""
    if not isinstance(answer, dict):
        return Shown()
    keys, parameters = answer.get("model_info"), answer.get("parameters")
    keys = {k: v for k, v in keys.items() if not k.startswith("tokenizer.")} if isinstance(keys, dict) else {}
    set_to = _NUM_CTX.search(parameters) if isinstance(parameters, str) else None
    return Shown(
        capabilities=words(answer.get("capabilities")),
        context_length=count(keys.get(f"{keys.get('general.architecture')}.context_length")),
        num_ctx=int(set_to[1]) or None if set_to is not None else None,
        metadata=keys or None,
    )


def hides_layers(metadata: Mapping[str, Any]) -> bool:
    """Tell whether the memory of the layers differs and how was left out, as long arrays are unless asked verbosely."""
    return any(value is None and key.endswith(_LAYERS_DIFFER) for key, value in metadata.items())


def capable(told: tuple[str, ...], context_length: int | None, *, engine: Capabilities) -> Capabilities | None:
    """Return what a model can do by Ollama's own words; None when it says nothing."""
    if not told:
        return None if context_length is None else replace(engine, context_length=context_length)
    return replace(
        engine,
        chat="completion" in told,
        completions="completion" in told,
        embeddings=True,  # Ollama embeds with any model; one that cannot says so itself
        tools="tools" in told,
        vision="vision" in told,
        insert="insert" in told,
        thinking="thinking" in told,
        context_length=context_length,
    )


def words(value: Any) -> tuple[str, ...]:
    """Return the strings of a list; nothing when it is none."""
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def count(value: Any) -> int | None:
    """Return a whole number that is not negative."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def text(value: Any) -> str | None:
    """Return a string that is not empty."""
    return value if isinstance(value, str) and value else None
