"""A tiny model file that a real llama.cpp server loads: for tests against the engine itself, without a download."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

_EMBEDDING, _HEADS, _KV_HEADS, _FEED_FORWARD, _LAYERS = 64, 4, 2, 128, 2
_UNKNOWN, _CONTROL, _BYTE, _NORMAL = 2, 3, 6, 1
_CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def write_tiny_gguf(path: str | os.PathLike[str], *, seed: int = 0, ctx: int = 512, name: str = "tiny-random") -> None:
    """Write a llama-architecture model of random weights (about 0.4 MB), the same for the same `seed`.

    `ctx` is the context length in tokens that it claims to be trained for. One byte of text is about one token. What it
    says is noise that rarely ends by itself, so set `max_tokens`; constrained output (a JSON schema) is valid all the
    same. Needs the package `gguf`.
    """
    import gguf
    import numpy as np

    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_file_type(0)
    writer.add_context_length(ctx)
    writer.add_embedding_length(_EMBEDDING)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_EMBEDDING // _HEADS)

    tokens, scores, types = _vocabulary()
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(_CHAT_TEMPLATE)

    for tensor, shape in _shapes(len(tokens)).items():
        values = np.ones(shape) if "norm" in tensor else random.standard_normal(shape) * 0.02
        writer.add_tensor(tensor, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _vocabulary() -> tuple[list[bytes], list[float], list[int]]:
    """Return tokens, scores and types: three special ones, every byte, a few letters."""
    letters = ["\u2581", *"etaoinshrdlu"]  # the first is how SentencePiece writes a space
    tokens = [b"<unk>", b"<s>", b"</s>", *(f"<0x{i:02X}>".encode() for i in range(256)), *(c.encode() for c in letters)]
    scores = [0.0] * 259 + [-float(i) for i in range(len(letters))]
    types = [_UNKNOWN, _CONTROL, _CONTROL] + [_BYTE] * 256 + [_NORMAL] * len(letters)
    return tokens, scores, types


def _shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Return every tensor's shape, as (out, in)."""
    head = _EMBEDDING // _HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocabulary, _EMBEDDING),
        "output_norm.weight": (_EMBEDDING,),
        "output.weight": (vocabulary, _EMBEDDING),
    }
    for layer in range(_LAYERS):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (_EMBEDDING,),
            f"blk.{layer}.attn_q.weight": (_HEADS * head, _EMBEDDING),
            f"blk.{layer}.attn_k.weight": (_KV_HEADS * head, _EMBEDDING),
            f"blk.{layer}.attn_v.weight": (_KV_HEADS * head, _EMBEDDING),
            f"blk.{layer}.attn_output.weight": (_EMBEDDING, _HEADS * head),
            f"blk.{layer}.ffn_norm.weight": (_EMBEDDING,),
            f"blk.{layer}.ffn_gate.weight": (_FEED_FORWARD, _EMBEDDING),
            f"blk.{layer}.ffn_up.weight": (_FEED_FORWARD, _EMBEDDING),
            f"blk.{layer}.ffn_down.weight": (_EMBEDDING, _FEED_FORWARD),
        }
    return shapes
