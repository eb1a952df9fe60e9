"""From a backend's type to its class, imported only when it is used."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import TypeAlias, cast

from ..exceptions import ConfigurationError
from ..transport.http import Transport
from .base import Backend, BackendSpec
from .presets import PRESETS

BackendFactory: TypeAlias = Callable[[BackendSpec, Transport], Backend]

ENTRY_POINT_GROUP = "smartrouter_asgi.backends"
"""Where other packages name theirs: `mine = "my_package:MyBackend"`, a `BackendFactory`."""

_BUILT_IN = {
    "ollama": "ollama:OllamaBackend",
    "llama.cpp": "llamacpp:LlamaCppBackend",
    "llama-swap": "llamaswap:LlamaSwapBackend",
    **dict.fromkeys(PRESETS, "openai_compat:OpenAICompatBackend"),
    "vllm": "vllm:VLLMBackend",
    "localai": "localai:LocalAIBackend",
    "lmstudio": "lmstudio:LMStudioBackend",
    "anthropic": "anthropic:AnthropicBackend",
    "auto": "auto:AutoBackend",
}


def create_backend(spec: BackendSpec, transport: Transport) -> Backend:
    """Make the backend that a spec describes. Raises `ConfigurationError` for a type that nobody provides."""
    return find_factory(spec.type)(spec, transport)


def find_factory(backend_type: str) -> BackendFactory:
    """Find the class for a type: built in, else from the entry points. Raises `ConfigurationError`."""
    built_in = _BUILT_IN.get(backend_type)
    if built_in is not None:
        module, _, name = built_in.partition(":")
        return cast("BackendFactory", getattr(import_module(f".{module}", __package__), name))
    found = entry_points(group=ENTRY_POINT_GROUP)
    for entry in found:
        if entry.name == backend_type:
            try:
                return cast("BackendFactory", entry.load())
            except Exception as exc:
                raise ConfigurationError(
                    f"backend type {backend_type!r} cannot be loaded from its entry point {entry.value!r}: "
                    f"{type(exc).__name__}: {exc}"
                ) from exc
    known = [*_BUILT_IN, *found.names]
    near = difflib.get_close_matches(backend_type, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    raise ConfigurationError(f"no backend of type {backend_type!r}: {hint}")
