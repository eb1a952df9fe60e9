"""How many bytes of GPU memory a model should need, by its shape: pure arithmetic, for models never loaded before.

An estimate errs on the large side, for too little ends in an engine that runs out of memory or moves half a model to
the CPU. It lasts until the first load, whose measured size replaces it.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024**2

CONTEXT_BYTES = 512 * MIB
"""What an engine's process takes of each GPU beside weights, cache and buffers."""
MIN_MARGIN_BYTES = 512 * MIB
MARGIN = 20
"""A twentieth is added, where that is more than the least margin."""
ASSUMED_VOCABULARY = 152_064
"""Tokens of a vocabulary of which nothing is told: engines tell its size only together with every token of it."""
SLIDING_PAD = 256
"""Caches of sliding layers are rounded up to a multiple of so many tokens."""

_PER_BLOCK = 32
_BLOCK_BYTES = {
    "f32": 128,
    "f16": 64,
    "bf16": 64,
    "q8_0": 34,
    "q5_1": 24,
    "q5_0": 22,
    "q4_1": 20,
    "q4_0": 18,
    "iq4_nl": 18,
}
"""Bytes that 32 values of a cache take, by its type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What decides how much memory a model takes, in the words of GGUF metadata; see `metadata.read_shape`.

    `weights_bytes` is the file, whole: all experts of a mixture are in memory, however few a token needs, and so are a
    projector's weights.
    """

    weights_bytes: int
    block_count: int
    """Layers."""
    embedding_length: int
    head_count: int
    head_count_kv: int | tuple[int, ...]
    """Of every layer, or of each; 0 for a layer without a key/value cache, as recurrent ones are."""
    key_length: int
    value_length: int
    sliding_window: int = 0
    """Tokens that a sliding layer looks back."""
    sliding: tuple[bool, ...] = ()
    """Which layers slide; empty: none."""
    recurrent_bytes: int = 0
    """State of the recurrent layers, for one slot; it does not grow with the context."""
    vocabulary: int = ASSUMED_VOCABULARY
    context_length: int | None = None
    """Tokens it was trained for; some engines cut a longer context down to it."""

    @property
    def heads_kv(self) -> tuple[int, ...]:
        """Heads with a cache, layer by layer."""
        if isinstance(self.head_count_kv, tuple):
            return self.head_count_kv
        return (self.head_count_kv,) * self.block_count


def estimate_bytes(
    shape: ModelShape,
    *,
    num_ctx: int,
    parallel: int,
    kv_type: str = "f16",
    flash_attention: bool = True,
    batch: int = 512,
    devices: int = 1,
) -> int:
    """Return what a model should need of GPU memory, all of it there: weights, caches, buffers, contexts, a margin.

    `num_ctx` is the context of one slot, `parallel` the number of slots, `batch` how many tokens are worked on at a
    time, `devices` the number of GPUs it is spread over; each has buffers and a context of its own. More of anything
    never needs less. Raises `ValueError` for a cache type that is not known.
    """
    cache = cache_bytes(
        shape, num_ctx=num_ctx, parallel=parallel, kv_type=kv_type, flash_attention=flash_attention, batch=batch
    )
    buffers = compute_bytes(shape, num_ctx=num_ctx, parallel=parallel, flash_attention=flash_attention, batch=batch)
    needed = shape.weights_bytes + cache + devices * (buffers + CONTEXT_BYTES)
    return needed + max(MIN_MARGIN_BYTES, needed // MARGIN)


def cache_bytes(
    shape: ModelShape,
    *,
    num_ctx: int,
    parallel: int,
    kv_type: str = "f16",
    flash_attention: bool = True,
    batch: int = 512,
) -> int:
    """Return what the keys and values of all slots take, and the state of recurrent layers.

    A quantised type has an effect only with flash attention. Layers with latent attention count as ordinary ones with
    the heads and lengths that are told of them, which is at least what they need.
    """
    if kv_type not in _BLOCK_BYTES:
        raise ValueError(f"no cache type {kv_type!r}: known are {', '.join(_BLOCK_BYTES)}")
    block_bytes = _BLOCK_BYTES[kv_type]
    if not flash_attention:
        block_bytes = max(block_bytes, _BLOCK_BYTES["f16"])
    # Engines either cut one cache for all slots to `window * slots + batch`, or one for each to `window + batch`.
    window = -(-(shape.sliding_window + batch) // SLIDING_PAD) * SLIDING_PAD
    sliding = shape.sliding or (False,) * shape.block_count
    tokens = sum(
        heads * (min(num_ctx, window) if slides else num_ctx)
        for heads, slides in zip(shape.heads_kv, sliding, strict=True)
    )
    values = tokens * (shape.key_length + shape.value_length)
    return parallel * (-(-values * block_bytes // _PER_BLOCK) + shape.recurrent_bytes)


def compute_bytes(
    shape: ModelShape, *, num_ctx: int, parallel: int, flash_attention: bool = True, batch: int = 512
) -> int:
    """Return what intermediate results take on each GPU; without flash attention the context of all slots counts."""
    outputs = 4 * batch * (shape.embedding_length + shape.vocabulary)
    if flash_attention:
        return outputs
    scores = 1 + 4 * shape.embedding_length + num_ctx * parallel * (1 + shape.head_count)
    return max(4 * batch * scores, outputs)


def guess_bytes(size_bytes: int) -> int:
    """Return what a model of which only the size of its file is known should need: a fifth more, and a context."""
    return size_bytes * 6 // 5 + CONTEXT_BYTES
