"""What Ollama tells of its models: rows of /api/tags, and /api/show where an older release's rows say too little."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..deployment import Capabilities, ModelInfo
from .ollama_answer import unix_seconds


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


def read_shown(answer: Any) -> tuple[tuple[str, ...], int | None]:
    """Return the capabilities and the context length of an answer to /api/show, as far as it tells them."""
    if not isinstance(answer, dict):
        return (), None
    keys = answer.get("model_info")
    keys = keys if isinstance(keys, dict) else {}
    return words(answer.get("capabilities")), count(keys.get(f"{keys.get('general.architecture')}.context_length"))


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
