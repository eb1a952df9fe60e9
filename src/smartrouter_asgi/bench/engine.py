"""The engine under test: of which type it is, which model is asked, and how it is reached without the router."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from ..backends.auto import detect, root_of, url_for
from ..backends.base import BackendSpec
from ..backends.http import HTTPBackend
from ..backends.ollama import OllamaBackend
from ..backends.openai_compat import OpenAICompatBackend
from ..backends.registry import create_backend
from ..deployment import ModelInfo
from ..exceptions import ConfigurationError
from ..transport.http import Transport
from ..types import Secret
from .client import Target

NAME = "engine"
"""The backend's name, in messages and in the router's configuration."""
LIST_WITHIN_S = 15.0

OLLAMA_PATH = "/api/chat"
PATH = "/chat/completions"


class NoModelError(Exception):
    """It cannot be told which model to ask; the message says what would help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """An engine, the model that is asked, and why that one."""

    type: str
    url: str
    """As its backend type wants it written."""
    model: str
    chosen: str
    """Why this model, in words."""
    direct: Target


async def find_engine(
    url: str,
    transport: Transport,
    *,
    type: str = "auto",
    model: str | None = None,
    key: str = "",
    usable: Callable[[str, ModelInfo], bool] = lambda name, info: True,
) -> Engine:
    """Ask the engine what it is and what it serves; a model that is not named is chosen among those that are `usable`.

    Raises `AttemptError` when it does not answer, `ConfigurationError` for a type that is not spoken to in OpenAI's
    shape, `NoModelError` when no model is named and none can be chosen.
    """
    spec = BackendSpec(name=NAME, type=type, url=url, api_keys=(Secret(key),) if key else ())
    if type == "auto":
        kind = await detect(spec, transport)
        if kind is None:
            raise ConfigurationError("the engine answers like none known here: name its kind with --type")
        type = kind
    if spec.type == "auto":
        url = url_for(type, url)
    if type == "ollama":
        url = root_of(url)
    spec = BackendSpec(name=NAME, type=type, url=url, api_keys=spec.api_keys)
    backend = create_backend(spec, transport)
    if not isinstance(backend, OllamaBackend | OpenAICompatBackend):
        raise ConfigurationError(
            f"type {type!r} is not asked in OpenAI's shape, so there is no direct way to compare with: measure what "
            "speaks OpenAI's API"
        )
    try:
        chosen, why = (model, "as told") if model is not None else await _choose(backend, usable)
    finally:
        await backend.aclose()
    return Engine(type=type, url=url, model=chosen, chosen=why, direct=_direct(backend, chosen, key))


def routed_target(base_url: str, model: str, key: str = "") -> Target:
    """Return how a router is asked for a model; its address may end in `/v1` or not."""
    headers = [(b"content-type", b"application/json"), (b"accept-encoding", b"identity")]
    if key:
        headers.append((b"authorization", b"Bearer " + key.encode()))
    return Target(url=f"{root_of(base_url)}/v1{PATH}", headers=headers, model=model, secret=key)


async def _choose(backend: HTTPBackend, usable: Callable[[str, ModelInfo], bool]) -> tuple[str, str]:
    async with asyncio.timeout(LIST_WITHIN_S):
        models = await backend.list_models()
    found = [info.id for info in models if usable(info.id, info)]
    if not found:
        raise NoModelError("the engine lists no model" + (" for chat" if models else "") + ": name one with --model")
    if len(found) == 1:
        return found[0], "the only one" + (" for chat" if len(models) > 1 else "")
    others = ", ".join(found[1:4]) + (", ..." if len(found) > 4 else "")
    return found[0], f"the first of {len(found)}; others are {others}; choose with --model"


def _direct(backend: HTTPBackend, model: str, key: str) -> Target:
    """Return how the engine is asked without the router: in the language that the router speaks to it.

    So the engine does the same work either way; Ollama's OpenAI-compatible API would be another one.
    """
    native = isinstance(backend, OllamaBackend)
    request = backend.request("POST", OLLAMA_PATH if native else PATH, secret=key or None)
    return Target(
        url=request.url,
        headers=request.headers,
        model=model,
        dialect="ollama" if native else "openai",
        secret=key,
    )
