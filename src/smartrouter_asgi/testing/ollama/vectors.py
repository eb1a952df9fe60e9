"""Embedding vectors: words hashed into dimensions, so that texts with common words are close. Deterministic."""

from __future__ import annotations

import functools
import hashlib
import math
import struct

POSITIONS = 16


def embed(text: str, dimensions: int) -> list[float]:
    """Return the raw vector of a text; no entry is zero, as the text itself adds a little to each."""
    noise = hashlib.shake_128(text.encode()).digest(dimensions)
    vector = [(byte - 127.5) / 2048 for byte in noise]
    for word in text.lower().split() or [""]:
        for number in _hashed(word):
            vector[number % dimensions] += 1.0 if number & 0x80000000 else -1.0
    return vector


def normalized(vector: list[float], dimensions: int | None = None) -> list[float]:
    """Return the first `dimensions` of a vector at length 1."""
    kept = vector[:dimensions] if dimensions else vector
    length = math.sqrt(sum(x * x for x in kept)) or 1.0
    return [x / length for x in kept]


@functools.lru_cache(maxsize=4096)
def _hashed(word: str) -> tuple[int, ...]:
    digest = hashlib.shake_128(word.encode()).digest(4 * POSITIONS)
    return struct.unpack(f"<{POSITIONS}I", digest)
