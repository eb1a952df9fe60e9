"""The simulated models, the library that finds them by name, and a set for demonstrations."""

from __future__ import annotations

import hashlib
import re
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

GIB = 1024**3
MIB = 1024**2

MAX_SHOWN = 5
"""Entries of an array that /api/show tells unasked."""

_NAME = re.compile(
    r"(?:(?P<host>[\w.\-]+(?::\d+)?)/)?(?:(?P<namespace>[\w\-]+)/)?(?P<model>\w[\w.\-]*)(?::(?P<tag>\w[\w.\-]*))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class SimulatedModel:
    """One tag of the simulated library. Models with an equal `digest` are the same blob and share one runner.

    The allocation of a loaded runner is `size_bytes + kv_bytes_per_token * num_ctx * parallel + overhead_bytes`.
    Times are engine seconds: the engine multiplies them by its `time_scale`.
    """

    name: str
    size_bytes: int
    _: KW_ONLY
    digest: str = ""
    """64 hex digits; derived from name and sizes when empty. Give two names one digest to make aliases."""
    capabilities: tuple[str, ...] = ("completion",)
    num_layers: int = 32
    head_count: int = 32
    head_count_kv: int = 8
    head_dim: int = 128
    kv_bytes: int | None = None
    """Bytes of key/value cache a token takes; computed from the architecture (f16) when None."""
    overhead_bytes: int = 256 * MIB
    context_length: int = 8192
    load_s: float | None = None
    """How long a load takes; a warm page cache and the size decide when None."""
    tokens_per_s: float = 50.0
    prompt_tokens_per_s: float = 2000.0
    answer_tokens: int = 40
    """At least so many tokens are in an unlimited answer."""
    embedding_length: int = 4096
    parameter_size: str = ""
    quantization_level: str = "Q4_K_M"
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Options set in the Modelfile, such as `num_ctx`."""
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """More GGUF keys, without the architecture before them, such as `attention.sliding_window`. They are told only:
    what a load takes is as above."""
    tool_calls_in: Literal["chunk", "final"] = "chunk"
    """Where tool calls are written: one chunk per call, or all of them in the chunk with `done`."""

    def __post_init__(self) -> None:
        name = canonical_name(self.name)
        if name is None:
            raise ValueError(f"{self.name!r} is not a model name: use model, model:tag or namespace/model:tag")
        object.__setattr__(self, "name", name)
        if not self.digest:
            content = f"{name} {self.size_bytes} {self.kv_bytes_per_token} {self.overhead_bytes}"
            object.__setattr__(self, "digest", hashlib.sha256(content.encode()).hexdigest())

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of key/value cache for one token of one slot."""
        if self.kv_bytes is not None:
            return self.kv_bytes
        return 2 * self.num_layers * self.head_count_kv * self.head_dim * 2

    @property
    def load_time_s(self) -> float:
        """How long a load takes, in engine seconds."""
        return 1.5 + 0.2 * self.size_bytes / GIB if self.load_s is None else self.load_s

    def can(self, capability: str) -> bool:
        """Tell whether the model has a capability: completion, tools, thinking, vision, insert, embedding."""
        return capability in self.capabilities

    def details(self) -> dict[str, Any]:
        """Return the `details` object of /api/tags, /api/ps and /api/show; the family says that it is simulated."""
        size = self.parameter_size or f"{self.size_bytes / GIB * 1.7:.1f}B"
        return {
            "parent_model": "",
            "format": "gguf",
            "family": "simulated",
            "families": ["simulated"],
            "parameter_size": size,
            "quantization_level": self.quantization_level,
        }

    def info(self, *, verbose: bool) -> dict[str, Any]:
        """Return the GGUF keys of /api/show; arrays of more than five entries are null unless `verbose`."""
        lengths = self.head_dim
        if self.kv_bytes is not None and self.head_count_kv:
            lengths = self.kv_bytes // (4 * self.num_layers * self.head_count_kv)
        info = {
            "general.architecture": "simulated",
            "general.file_type": 15,
            "general.parameter_count": int(self.size_bytes * 1.7),
            "simulated.attention.head_count": self.head_count,
            "simulated.attention.head_count_kv": self.head_count_kv,
            "simulated.attention.key_length": lengths,
            "simulated.attention.value_length": lengths,
            "simulated.block_count": self.num_layers,
            "simulated.context_length": self.context_length,
            "simulated.embedding_length": self.embedding_length,
            **{f"simulated.{key}": value for key, value in self.metadata.items()},
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.tokens": [f"<{n}>" for n in range(8)],
        }
        return {key: None if _is_long(value) and not verbose else value for key, value in info.items()}


def _is_long(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > MAX_SHOWN


class Library:
    """The models on the simulated disk, found by name as Ollama finds them. Raises `ValueError` on a name twice."""

    def __init__(self, models: Sequence[SimulatedModel]) -> None:
        self._models: dict[str, SimulatedModel] = {}
        for model in models:
            key = model.name.lower()
            if key in self._models:
                raise ValueError(f"two simulated models are named {model.name!r}")
            self._models[key] = model

    def __iter__(self) -> Iterator[SimulatedModel]:
        return iter(self._models.values())

    def find(self, name: str) -> SimulatedModel | None:
        """Return the model of that name; a missing tag means `:latest`, letter case does not matter."""
        canonical = canonical_name(name)
        return None if canonical is None else self._models.get(canonical.lower())


def canonical_name(name: str) -> str | None:
    """Return the shortest full name with its tag, None when it can be no model's name."""
    match = _NAME.fullmatch(name)
    if match is None or len(name) > 350:
        return None
    prefix = ""
    host, namespace = match["host"], match["namespace"]
    if host and not namespace:
        host, namespace = None, host
    if host and host.lower() != "registry.ollama.ai":
        prefix = f"{host}/{namespace}/"
    elif namespace and namespace.lower() != "library":
        prefix = f"{namespace}/"
    return f"{prefix}{match['model']}:{match['tag'] or 'latest'}"


def demo_models() -> list[SimulatedModel]:
    """Five models that do not fit together on one 24 GiB GPU, so that swapping can be watched."""
    return [
        SimulatedModel(
            name="sim-small:3b",
            size_bytes=2 * GIB,
            capabilities=("completion", "tools"),
            num_layers=28,
            tokens_per_s=90.0,
            parameter_size="3.2B",
        ),
        SimulatedModel(
            name="sim-chat:8b",
            size_bytes=5 * GIB,
            capabilities=("completion", "tools"),
            tokens_per_s=60.0,
            parameter_size="8.0B",
        ),
        SimulatedModel(
            name="sim-think:14b",
            size_bytes=9 * GIB,
            capabilities=("completion", "tools", "thinking"),
            num_layers=40,
            tokens_per_s=40.0,
            parameter_size="14.8B",
        ),
        SimulatedModel(
            name="sim-large:27b",
            size_bytes=16 * GIB,
            capabilities=("completion", "vision"),
            num_layers=46,
            head_count_kv=4,
            tokens_per_s=25.0,
            parameter_size="27.2B",
        ),
        SimulatedModel(
            name="sim-embed",
            size_bytes=GIB // 2,
            capabilities=("embedding",),
            num_layers=24,
            head_count=16,
            head_count_kv=16,
            head_dim=64,
            context_length=2048,
            embedding_length=768,
            load_s=0.8,
            parameter_size="335M",
            quantization_level="F16",
        ),
    ]
