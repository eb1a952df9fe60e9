"""The values that say where a model can be served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine can do; asked instead of its class."""

    chat: bool = True
    completions: bool = True
    embeddings: bool = True
    tools: bool = True
    vision: bool = True
    json_schema: bool = True
    insert: bool = True
    """Completions between a prompt and a `suffix`."""
    thinking: bool | None = None
    """Whether it reasons before it answers; None when nobody tells."""
    context_length: int | None = None
    """Tokens a prompt and its answer may have together; None when nobody tells."""
    can_load: bool = False
    """`load` and `unload` bring a model into and out of memory."""
    can_report_loaded: bool = False
    """`running` tells which models are in memory."""
    can_report_idle: bool = False
    """`is_idle` tells whether the engine has stopped working."""
    loads_on_demand: bool = False
    """A first request may block while the engine loads the model by itself."""

    is_limited: bool = field(init=False, compare=False, repr=False)
    """Whether there is a request that it cannot honour, as far as is known."""

    def __post_init__(self) -> None:
        whole = (
            self.chat
            and self.completions
            and self.embeddings
            and self.tools
            and self.vision
            and self.json_schema
            and self.insert
        )
        object.__setattr__(self, "is_limited", self.context_length is not None or not whole)


@dataclass(frozen=True, slots=True, kw_only=True)
class FootprintKey:
    """What identifies a load: with all of it the same, a model takes the same memory."""

    engine: str
    """The type of the backend."""
    digest: str
    num_ctx: int
    """Context of one slot, as asked for or as the engine chooses."""
    parallel: int
    """Slots."""
    kv_type: str
    """Type of the key/value cache, such as `f16`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One place that can serve a model: backend x upstream model id x limits."""

    backend: str
    model: str
    """The id sent upstream, prefix included."""
    vram_bytes: int | None = None
    """What it needs of GPU memory by the operator's word."""
    order: int = 1
    weight: float = 1.0
    max_parallel: int | None = None
    gated: bool = False
    """Whether it needs a lease on GPU memory."""
    capabilities: Capabilities | None = field(default=None, compare=False, repr=False)
    """What the model can do there; None when nothing more is known than of the backend."""
    estimate_bytes: int | None = field(default=None, compare=False)
    """What it should need of GPU memory by what is known of the model; None when nothing is."""
    footprint_key: FootprintKey | None = field(default=None, compare=False, repr=False)
    """Under which what it was measured to need is remembered; None when its engine does not identify models."""

    id: str = field(init=False, compare=False, repr=False)
    """`backend/model`, the name used in logs, metrics and error lists."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", f"{self.backend}/{self.model}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A model as a backend lists it."""

    id: str
    created: int = 0
    """Unix seconds; 0 when the engine does not tell."""
    owned_by: str = ""
    size_bytes: int | None = None
    """Size of the weights on disk, where the engine tells."""
    digest: str | None = None
    capabilities: tuple[str, ...] = field(default=())
    """What it can do, in the engine's own words."""
    can: Capabilities | None = None
    """What it can do, where the engine tells."""
    remote: bool = False
    """The engine only forwards to somebody else's machine: no memory is needed here."""
    num_ctx: int | None = None
    """Context the model itself asks to be loaded with, where nobody asks for another."""
    metadata: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    """GGUF metadata, as the engine shows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model in the memory of an engine now."""

    id: str
    vram_bytes: int | None = None
    """Bytes of GPU memory it holds, where the engine tells."""
    size_bytes: int | None = None
    """Bytes it holds in all; more than `vram_bytes` when part of it runs on the CPU."""
    digest: str | None = None
