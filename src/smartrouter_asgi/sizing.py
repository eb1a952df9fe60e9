"""What loading a model will take: which context and slots it gets, and how much memory these need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from .deployment import FootprintKey, ModelInfo
from .vram.estimate import ModelShape, estimate_bytes, guess_bytes
from .vram.footprints import footprint_key
from .vram.metadata import read_shape

GIB = 1024**3

OLLAMA_CONTEXTS = ((47 * GIB, 262144), (23 * GIB, 32768), (0, 4096))
"""The context Ollama gives a model when nobody asks for one, by the memory of all GPUs; if that is too much, less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """Tells before the first load what models should need.

    `budget_bytes` is what the gate shares out. It is taken for nine tenths of what there is, as a detected one is: the
    context that Ollama chooses depends on it.
    """

    budget_bytes: int | None = None

    def estimate_bytes(
        self, info: ModelInfo, *, num_ctx: int | None, parallel: int | None, kv_type: str = "f16"
    ) -> int | None:
        """Return what a model should need, by its metadata, else by its size on disk; None when not even that is known.

        `num_ctx` and `parallel` are what the operator said; parallel requests need not be slots, and a context that
        nobody asked for is given by the engine. What is only assumed is not held against a model: while it does not fit
        into the budget, less is assumed.
        """
        if info.size_bytes is None:
            return None
        shape = read_shape(info.metadata, size_bytes=info.size_bytes) if info.metadata is not None else None
        if shape is None:
            return guess_bytes(info.size_bytes)
        needed = 0
        for ctx, slots in product(self._contexts(shape, num_ctx or info.num_ctx), _slots(parallel)):
            needed = estimate_bytes(shape, num_ctx=ctx, parallel=slots, kv_type=kv_type)
            if self.budget_bytes is None or needed <= self.budget_bytes:
                break
        return needed

    def footprint_key(
        self, info: ModelInfo, *, engine: str, num_ctx: int | None, parallel: int | None, kv_type: str = "f16"
    ) -> FootprintKey | None:
        """Return under which name the measured size of such a load is remembered; None where nothing identifies it."""
        return footprint_key(
            info,
            engine=engine,
            num_ctx=num_ctx or info.num_ctx or next(self._defaults()),
            parallel=parallel or 1,
            kv_type=kv_type,
        )

    def _contexts(self, shape: ModelShape, asked: int | None) -> list[int]:
        contexts = self._defaults() if asked is None else (asked,)
        longest = shape.context_length  # Ollama gives no more, whatever is asked for
        return list(dict.fromkeys(ctx if longest is None else min(ctx, longest) for ctx in contexts))

    def _defaults(self) -> Iterator[int]:
        total_bytes = (self.budget_bytes or 0) * 10 // 9
        return (ctx for least, ctx in OLLAMA_CONTEXTS if total_bytes >= least)


def _slots(parallel: int | None) -> tuple[int, ...]:
    return (parallel, 1) if parallel is not None and parallel > 1 else (1,)
