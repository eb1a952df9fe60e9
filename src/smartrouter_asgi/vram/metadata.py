"""From GGUF metadata, as engines show it, to the shape of a model; tolerant, for what engines show is theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .estimate import ASSUMED_VOCABULARY, ModelShape

MAX_LAYERS = 1024
"""More than any model has: such a number is not believed."""
MAX_NUMBER = 2**31
ASSUMED_HEAD_LENGTH = 64
"""The shortest heads that are common: where the number of heads is not told, many are assumed."""

_SLIDING_PERIODS = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "gptoss": 2, "cohere2": 4}
"""Architectures whose every n-th layer alone looks at the whole context, where their files do not say so."""


def read_shape(model_info: Mapping[str, Any], *, size_bytes: int) -> ModelShape | None:
    """Return the shape of a model of `size_bytes` on disk; None where not even layers and width are told.

    Of what else is missing or makes no sense the more expensive is assumed: as many cached heads as heads, every layer
    with a cache of the whole context. Arrays that were left out (null) are missing.
    """
    keys = _Keys(model_info)
    layers = keys.number("block_count")
    width = keys.number("embedding_length")
    if not layers or not width or layers > MAX_LAYERS:
        return None
    heads = keys.most("attention.head_count")
    if heads is None:
        heads = -(-width // ASSUMED_HEAD_LENGTH)
    length = -(-width // heads) if heads else 0
    heads_kv = _heads_kv(keys, layers, heads)
    window = keys.number("attention.sliding_window") or 0
    return ModelShape(
        weights_bytes=size_bytes,
        block_count=layers,
        embedding_length=width,
        head_count=heads,
        head_count_kv=heads_kv,
        key_length=_or(keys.number("attention.key_length"), length),
        value_length=_or(keys.number("attention.value_length"), length),
        sliding_window=window,
        sliding=_sliding(keys, layers) if window else (),
        recurrent_bytes=_recurrent_bytes(keys, layers, heads_kv),
        vocabulary=keys.number("vocab_size") or ASSUMED_VOCABULARY,
        context_length=keys.number("context_length") or None,
    )


class _Keys:
    """Metadata under the name of its architecture."""

    def __init__(self, model_info: Mapping[str, Any]) -> None:
        architecture = model_info.get("general.architecture")
        self.architecture = architecture if isinstance(architecture, str) else ""
        self._info = model_info

    def value(self, key: str) -> Any:
        return self._info.get(f"{self.architecture}.{key}")

    def number(self, key: str) -> int | None:
        return _number(self.value(key))

    def numbers(self, key: str) -> tuple[int, ...] | None:
        """Return the numbers of an array, all of them or none."""
        value = self.value(key)
        if not isinstance(value, list) or len(value) > MAX_LAYERS:
            return None
        numbers = tuple(_number(one) for one in value)
        return tuple(one for one in numbers if one is not None) if None not in numbers else None

    def most(self, key: str) -> int | None:
        """Return a number, or the largest of an array."""
        return max(self.numbers(key) or (), default=self.number(key))


def _heads_kv(keys: _Keys, layers: int, heads: int) -> int | tuple[int, ...]:
    each = keys.numbers("attention.head_count_kv")
    if each is not None and len(each) == layers:
        return each
    most = _or(keys.most("attention.head_count_kv"), heads)
    interval = keys.number("full_attention_interval") or 1
    if interval == 1 or each is not None:
        return most
    return tuple(most if (layer + 1) % interval == 0 else 0 for layer in range(layers))


def _sliding(keys: _Keys, layers: int) -> tuple[bool, ...]:
    pattern = keys.value("attention.sliding_window_pattern")
    if isinstance(pattern, list) and len(pattern) == layers and all(isinstance(one, bool | int) for one in pattern):
        return tuple(bool(one) for one in pattern)
    period = _number(pattern)
    if period is None:
        period = _SLIDING_PERIODS.get(keys.architecture)
    if period is None:
        return ()
    return tuple(period == 0 or layer % period < period - 1 for layer in range(layers))


def _recurrent_bytes(keys: _Keys, layers: int, heads_kv: int | tuple[int, ...]) -> int:
    """Return the state of the layers without a cache, of all layers where none is known to have no cache."""
    inner, state = keys.number("ssm.inner_size"), keys.number("ssm.state_size")
    if not inner or not state:
        return 0
    without = heads_kv.count(0) if isinstance(heads_kv, tuple) else 0
    convolved = inner + 2 * (keys.number("ssm.group_count") or 1) * state
    kept = inner * state + max(0, (keys.number("ssm.conv_kernel") or 4) - 1) * convolved
    return (without or layers) * 4 * kept


def _number(value: Any) -> int | None:
    known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_NUMBER
    return value if known else None


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
