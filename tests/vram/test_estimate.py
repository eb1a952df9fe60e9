"""Laws of the estimate: what others work out for real models, and that more of anything never needs less."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartrouter_asgi.vram.estimate import (
    ASSUMED_VOCABULARY,
    CONTEXT_BYTES,
    ModelShape,
    cache_bytes,
    compute_bytes,
    estimate_bytes,
    guess_bytes,
)

MIB = 1024**2
GIB = 1024**3

LLAMA_8B = ModelShape(
    weights_bytes=int(4.33 * GIB),
    block_count=32,
    embedding_length=4096,
    head_count=32,
    head_count_kv=8,
    key_length=128,
    value_length=128,
    vocabulary=128_256,
    context_length=131_072,
)
QWEN_7B = dataclasses.replace(
    LLAMA_8B,
    weights_bytes=int(4.36 * GIB),
    block_count=28,
    embedding_length=3584,
    head_count=28,
    head_count_kv=4,
    vocabulary=152_064,
)
MISTRAL_7B = dataclasses.replace(LLAMA_8B, weights_bytes=int(4.78 * GIB), vocabulary=32_032)
QWEN_72B = dataclasses.replace(
    QWEN_7B,
    weights_bytes=int(59.92 * GIB),
    block_count=80,
    embedding_length=8192,
    head_count=64,
    head_count_kv=8,
)
LLAMA_405B = dataclasses.replace(
    LLAMA_8B,
    weights_bytes=int(88.61 * GIB),
    block_count=126,
    embedding_length=16_384,
    head_count=128,
    head_count_kv=16,
)


# -- worked checks


def test_a_token_of_llama_3_1_8b_takes_128_kib_of_cache():
    """1 GiB for each 8192 tokens of each slot; 32 GiB at the longest context Ollama chooses."""
    assert cache_bytes(LLAMA_8B, num_ctx=1, parallel=1) == 131_072
    assert cache_bytes(LLAMA_8B, num_ctx=8192, parallel=1) == GIB
    assert cache_bytes(LLAMA_8B, num_ctx=8192, parallel=4) == 4 * GIB
    assert cache_bytes(LLAMA_8B, num_ctx=262_144, parallel=1) == 32 * GIB


@pytest.mark.parametrize(
    ("shape", "num_ctx", "flash_attention", "gib"),
    [
        pytest.param(QWEN_7B, 131_072, False, 18.89, id="Qwen2.5-7B"),
        pytest.param(LLAMA_8B, 131_072, False, 29.08, id="Llama-3.1-8B"),
        pytest.param(LLAMA_8B, 2048, False, 4.81, id="Llama-3.1-8B-short"),
        pytest.param(MISTRAL_7B, 32_768, False, 11.16, id="Hermes-2-Pro-Mistral-7B"),
        pytest.param(QWEN_72B, 32_768, False, 73.47, id="Qwen2-72B"),
        pytest.param(LLAMA_405B, 131_072, False, 247.59, id="Llama-3.1-405B"),
        pytest.param(LLAMA_405B, 131_072, True, 215.70, id="Llama-3.1-405B-flash"),
    ],
)
def test_the_figures_of_gguf_parser_are_met_within_three_percent(
    shape: ModelShape, num_ctx: int, flash_attention: bool, gib: float
):
    """Its published VRAM of one GPU counts no process context and no margin; with these the estimate is above it."""
    settings: dict[str, Any] = {"num_ctx": num_ctx, "parallel": 1, "flash_attention": flash_attention}
    bare = shape.weights_bytes + cache_bytes(shape, **settings) + compute_bytes(shape, **settings)
    assert bare == pytest.approx(gib * GIB, rel=0.03)
    needed = estimate_bytes(shape, **settings)
    assert gib * GIB < needed < gib * GIB * 1.09 + GIB


def test_sliding_layers_hold_their_window_only():
    """Gemma 3 27B: 52 of 62 layers look 1024 tokens back."""
    shape = dataclasses.replace(
        LLAMA_8B,
        block_count=62,
        head_count_kv=16,
        sliding_window=1024,
        sliding=tuple(layer % 6 < 5 for layer in range(62)),
    )
    a_token_of_a_layer = 2 * 16 * 128 * 2
    assert cache_bytes(shape, num_ctx=32_768, parallel=1) == a_token_of_a_layer * (10 * 32_768 + 52 * 1536)
    assert cache_bytes(shape, num_ctx=1000, parallel=1) == a_token_of_a_layer * 62 * 1000


def test_each_layer_counts_its_own_heads():
    """Layers without a cache, as in hybrids, need none, but their state."""
    hybrid = dataclasses.replace(LLAMA_8B, block_count=4, head_count_kv=(0, 0, 0, 8), recurrent_bytes=5 * MIB)
    assert cache_bytes(hybrid, num_ctx=8192, parallel=2) == 2 * (8 * 256 * 2 * 8192 + 5 * MIB)


@pytest.mark.parametrize(("kv_type", "a_value"), [("f32", 4), ("bf16", 2), ("q8_0", 1.0625), ("q4_0", 0.5625)])
def test_a_quantised_cache_takes_what_its_blocks_take(kv_type: str, a_value: float):
    """Of f16 two bytes a value, of q8_0 34 bytes for 32."""
    assert cache_bytes(LLAMA_8B, num_ctx=8192, parallel=1, kv_type=kv_type) == GIB * a_value / 2


def test_a_cache_is_quantised_with_flash_attention_only():
    """Engines ignore the type, or refuse it."""
    settings: dict[str, Any] = {"num_ctx": 8192, "parallel": 1, "flash_attention": False}
    assert cache_bytes(LLAMA_8B, kv_type="q4_0", **settings) == GIB
    assert cache_bytes(LLAMA_8B, kv_type="f32", **settings) == 2 * GIB


def test_without_flash_attention_the_context_of_all_slots_is_buffered():
    """Of each of 512 tokens at a time, a score for every head and every token of the context."""
    settings: dict[str, Any] = {"parallel": 1, "flash_attention": False}
    long, longer = (compute_bytes(LLAMA_8B, num_ctx=ctx, **settings) for ctx in (30_000, 30_001))
    assert longer - long == 512 * (1 + 32) * 4
    assert compute_bytes(LLAMA_8B, num_ctx=7500, **{**settings, "parallel": 4}) == long


def test_an_unknown_cache_type_is_named():
    with pytest.raises(ValueError, match="no cache type 'q9': known are f32, f16"):
        estimate_bytes(LLAMA_8B, num_ctx=1, parallel=1, kv_type="q9")


def test_each_gpu_has_buffers_and_a_context_of_its_own():
    settings: dict[str, Any] = {"num_ctx": 8192, "parallel": 1}
    one, two = (estimate_bytes(LLAMA_8B, devices=devices, **settings) for devices in (1, 2))
    assert two - one == pytest.approx(CONTEXT_BYTES + compute_bytes(LLAMA_8B, **settings), rel=0.01)


def test_the_margin_is_a_twentieth_or_512_mib():
    small = dataclasses.replace(LLAMA_8B, weights_bytes=0)
    settings: dict[str, Any] = {"num_ctx": 0, "parallel": 1}
    rest = compute_bytes(small, **settings) + CONTEXT_BYTES
    assert estimate_bytes(small, **settings) == rest + 512 * MIB
    large = dataclasses.replace(LLAMA_8B, weights_bytes=100 * GIB)
    assert estimate_bytes(large, **settings) == (rest + 100 * GIB) * 21 // 20


def test_of_a_file_alone_a_fifth_more_is_guessed():
    assert guess_bytes(5 * GIB) == 6 * GIB + 512 * MIB


# -- more never needs less

KV_TYPES = ["q4_0", "iq4_nl", "q4_1", "q5_0", "q5_1", "q8_0", "bf16", "f16", "f32"]
"""From narrow to wide."""


@st.composite
def shapes(draw: st.DrawFn) -> ModelShape:
    layers = draw(st.integers(1, 12))
    each = st.lists(st.integers(0, 64), min_size=layers, max_size=layers).map(tuple)
    return ModelShape(
        weights_bytes=draw(st.integers(0, 2**38)),
        block_count=layers,
        embedding_length=draw(st.integers(1, 2**14)),
        head_count=draw(st.integers(0, 128)),
        head_count_kv=draw(st.integers(0, 64) | each),
        key_length=draw(st.integers(0, 512)),
        value_length=draw(st.integers(0, 512)),
        sliding_window=draw(st.integers(0, 2**13)),
        sliding=draw(st.just(()) | st.lists(st.booleans(), min_size=layers, max_size=layers).map(tuple)),
        recurrent_bytes=draw(st.integers(0, 2**24)),
        vocabulary=draw(st.integers(1, 2**18)),
    )


SETTINGS = st.fixed_dictionaries(
    {
        "num_ctx": st.integers(1, 2**18),
        "parallel": st.integers(1, 64),
        "kv_type": st.sampled_from(KV_TYPES),
        "flash_attention": st.booleans(),
        "batch": st.integers(1, 4096),
        "devices": st.integers(1, 8),
    }
)


@given(shapes(), SETTINGS, st.sampled_from(["num_ctx", "parallel", "batch", "devices"]), st.integers(1, 2**18))
def test_more_context_slots_batch_or_devices_never_need_less(
    shape: ModelShape, settings: dict[str, Any], what: str, more: int
):
    grown = {**settings, what: settings[what] + more}
    assert estimate_bytes(shape, **grown) >= estimate_bytes(shape, **settings)


@given(shapes(), SETTINGS)
def test_a_wider_cache_never_needs_less(shape: ModelShape, settings: dict[str, Any]):
    needed = [estimate_bytes(shape, **{**settings, "kv_type": kv_type}) for kv_type in KV_TYPES]
    assert needed == sorted(needed)


@given(shapes(), SETTINGS)
def test_no_flash_attention_never_needs_less(shape: ModelShape, settings: dict[str, Any]):
    without, with_it = (estimate_bytes(shape, **{**settings, "flash_attention": on}) for on in (False, True))
    assert without >= with_it


@given(shapes(), SETTINGS)
def test_one_layer_more_never_needs_less(shape: ModelShape, settings: dict[str, Any]):
    grown = dataclasses.replace(
        shape,
        block_count=shape.block_count + 1,
        head_count_kv=(*shape.heads_kv, 1),
        sliding=(*shape.sliding, True) if shape.sliding else (),
    )
    assert estimate_bytes(grown, **settings) >= estimate_bytes(shape, **settings)


@given(shapes(), SETTINGS)
def test_a_layer_that_slides_never_needs_more(shape: ModelShape, settings: dict[str, Any]):
    whole = dataclasses.replace(shape, sliding=())
    assert estimate_bytes(shape, **settings) <= estimate_bytes(whole, **settings)


@given(shapes(), SETTINGS)
def test_an_estimate_is_above_the_weights(shape: ModelShape, settings: dict[str, Any]):
    assert estimate_bytes(shape, **settings) >= shape.weights_bytes + 1024 * MIB


def test_the_assumed_vocabulary_is_a_large_one():
    """Of today's models few have more; the margin is larger than what they lack."""
    assert ASSUMED_VOCABULARY > 150_000
    missed = 4 * 512 * (262_144 - ASSUMED_VOCABULARY)
    assert missed < 512 * MIB
