"""Laws of reading GGUF metadata: what is told counts, what is not is assumed on the expensive side, junk is untold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartrouter_asgi.testing import write_tiny_gguf
from smartrouter_asgi.vram.estimate import ASSUMED_VOCABULARY, cache_bytes, estimate_bytes
from smartrouter_asgi.vram.metadata import read_shape

GIB = 1024**3


def keys(architecture: str = "llama", **told: Any) -> dict[str, Any]:
    """Metadata of Llama 3.1 8B as /api/show tells it, changed; `__` stands for a dot, `...` takes a key away."""
    values: dict[str, Any] = {
        "attention.head_count": 32,
        "attention.head_count_kv": 8,
        "block_count": 32,
        "context_length": 131_072,
        "embedding_length": 4096,
        "feed_forward_length": 14_336,
        "vocab_size": 128_256,
        **{name.replace("__", "."): value for name, value in told.items()},
    }
    info = {f"{architecture}.{key}": value for key, value in values.items() if value is not ...}
    return {"general.architecture": architecture, "general.parameter_count": 8_030_261_312, **info}


def a_token(info: dict[str, Any]) -> int:
    """Bytes of cache that one more token of a long context takes."""
    shape = read_shape(info, size_bytes=GIB)
    assert shape is not None
    long, longer = (cache_bytes(shape, num_ctx=ctx, parallel=1) for ctx in (100_000, 100_001))
    return longer - long


def test_head_lengths_follow_from_the_width_where_they_are_not_told():
    shape = read_shape(keys(), size_bytes=5 * GIB)
    assert shape is not None
    assert (shape.weights_bytes, shape.key_length, shape.value_length) == (5 * GIB, 128, 128)
    assert (shape.vocabulary, shape.context_length, shape.sliding, shape.recurrent_bytes) == (128_256, 131_072, (), 0)
    assert a_token(keys()) == 131_072
    assert a_token(keys(attention__key_length=192, attention__value_length=64)) == 32 * 8 * 256 * 2


@pytest.mark.parametrize("told", [None, ..., "8", -8, 8.0, True, 2**40, [8] * 31 + ["8"]])
def test_untold_heads_with_a_cache_are_as_many_as_heads(told: Any):
    """A null array, a missing key, junk: four times what it would be, rather than a quarter."""
    assert a_token(keys(attention__head_count_kv=told)) == 4 * 131_072


@pytest.mark.parametrize("told", [None, ..., "32"])
def test_untold_heads_change_nothing_for_an_untold_cache(told: Any):
    """Without either, all of the width is cached."""
    assert a_token(keys(attention__head_count=told, attention__head_count_kv=...)) == 32 * 2 * 4096 * 2


def test_each_layer_has_the_heads_that_its_entry_tells():
    heads = [0] * 28 + [8] * 4
    assert a_token(keys(attention__head_count_kv=heads)) == 4 * 8 * 256 * 2


def test_an_array_for_other_layers_counts_by_its_largest():
    assert a_token(keys(attention__head_count_kv=[0, 4, 8])) == 131_072


def test_every_nth_layer_has_a_cache_where_attention_comes_at_an_interval():
    """Hybrids of the Qwen3-Next kind."""
    info = keys("qwen3next", full_attention_interval=4)
    assert a_token(info) == 131_072 // 4
    shape = read_shape(info, size_bytes=GIB)
    assert shape is not None
    assert shape.heads_kv == (0, 0, 0, 8) * 8


def test_recurrent_layers_have_a_state_for_each_slot():
    ssm = {"ssm__inner_size": 4096, "ssm__state_size": 128, "ssm__conv_kernel": 4, "ssm__group_count": 16}
    a_layer = 4 * (4096 * 128 + 3 * (4096 + 2 * 16 * 128))
    shape = read_shape(keys("qwen3next", full_attention_interval=4, **ssm), size_bytes=GIB)
    assert shape is not None
    assert shape.recurrent_bytes == 24 * a_layer
    every = read_shape(keys("mamba", attention__head_count=0, attention__head_count_kv=0, **ssm), size_bytes=GIB)
    assert every is not None
    assert every.recurrent_bytes == 32 * a_layer
    assert cache_bytes(every, num_ctx=8192, parallel=2) == 2 * every.recurrent_bytes


@pytest.mark.parametrize(
    ("architecture", "pattern", "slides"),
    [
        ("gemma3", ..., 5),
        ("gemma3", None, 5),
        ("gpt-oss", ..., 3),
        ("gemma9", ..., 0),
        ("gemma9", None, 0),
        ("gemma9", 3, 4),
        ("gemma9", 0, 6),
        ("gemma9", [True, True, True, False, True, True], 5),
        ("gemma9", [True], 0),
        ("gemma9", "often", 0),
    ],
)
def test_layers_slide_as_told_or_as_is_known_of_the_architecture(architecture: str, pattern: Any, slides: int):
    """Of an architecture not known here none slides, though a window is told."""
    told = {"attention__sliding_window": 1024, "attention__sliding_window_pattern": pattern}
    shape = read_shape(keys(architecture, block_count=6, **told), size_bytes=GIB)
    assert shape is not None
    assert sum(shape.sliding) == slides
    assert shape.sliding[-1:] in ((), (False,)) or pattern in (0, [True, True, True, False, True, True])


def test_no_window_no_sliding():
    shape = read_shape(keys("gemma3"), size_bytes=GIB)
    assert shape is not None
    assert shape.sliding == ()


def test_a_mixture_counts_all_of_its_experts():
    """What a token uses is a small part of what is in memory."""
    dense, mixture = keys(), keys(expert_count=128, expert_used_count=8)
    needed = [
        estimate_bytes(shape, num_ctx=8192, parallel=1)
        for info in (dense, mixture)
        if (shape := read_shape(info, size_bytes=60 * GIB)) is not None
    ]
    assert needed[0] == needed[1] > 60 * GIB


def test_latent_attention_counts_as_it_is_told():
    """DeepSeek: one head of 576 and 512, for all."""
    info = keys("deepseek2", attention__head_count_kv=1, attention__key_length=576, attention__value_length=512)
    assert a_token(info) == 32 * (576 + 512) * 2


@pytest.mark.parametrize(
    "info",
    [
        {},
        {"general.architecture": "llama"},
        {"general.architecture": ["llama"], "llama.block_count": 32, "llama.embedding_length": 4096},
        keys(block_count=...),
        keys(block_count=0),
        keys(block_count=10**9),
        keys(block_count="32"),
        keys(embedding_length=None),
    ],
)
def test_without_layers_and_width_there_is_no_shape(info: dict[str, Any]):
    assert read_shape(info, size_bytes=GIB) is None


def test_an_untold_vocabulary_is_assumed():
    shape = read_shape(keys(vocab_size=...), size_bytes=GIB)
    assert shape is not None
    assert shape.vocabulary == ASSUMED_VOCABULARY


NAMES = [
    "block_count",
    "embedding_length",
    "context_length",
    "vocab_size",
    "full_attention_interval",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "ssm.inner_size",
    "ssm.state_size",
    "ssm.conv_kernel",
    "ssm.group_count",
]
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(0, 12) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=13,
)


@given(st.sampled_from(["llama", "gemma3"]), st.dictionaries(st.sampled_from(NAMES), JUNK))
def test_junk_makes_a_shape_that_can_be_estimated_or_none(architecture: str, told: dict[str, Any]):
    info = {"general.architecture": architecture, **{f"{architecture}.{key}": value for key, value in told.items()}}
    shape = read_shape(info, size_bytes=GIB)
    if shape is not None:
        assert estimate_bytes(shape, num_ctx=4096, parallel=2) > GIB


def test_a_real_file_has_the_keys_that_are_read(tmp_path: Path):
    """The tiny model: two layers of two cached heads of 16 values."""
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "tiny.gguf"
    write_tiny_gguf(path)
    info = {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}
    info = {name: value.item() if hasattr(value, "item") else value for name, value in info.items()}
    shape = read_shape(info, size_bytes=path.stat().st_size)
    assert shape is not None
    assert (shape.block_count, shape.head_count, shape.head_count_kv, shape.key_length) == (2, 4, 2, 16)
    assert (shape.context_length, shape.vocabulary) == (512, 272)
    assert cache_bytes(shape, num_ctx=512, parallel=2) == 2 * 512 * 2 * 2 * 32 * 2
    assert estimate_bytes(shape, num_ctx=512, parallel=2) < 1.1 * GIB
