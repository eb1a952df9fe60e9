"""One model's failure is told from the server's by the engine's own words, and by nothing a client can write."""

from __future__ import annotations

import json

import pytest

from smartrouter_asgi.exceptions import FailureKind as K
from smartrouter_asgi.wire.upstream_errors import classify_answer

ROWS_OF_A_TEMPLATE = (
    "Value is not callable: null at row 49, column 79:\n"
    "                {%- set content = (m_content.split('</think>')|last).lstrip('\\n') %}\n"
    "                                                                              ^\n at row 49, column 81:\n"
)

TEXTS = [
    # Each with the place it was seen at: an issue, a measurement, or the engine's source.
    ("ollama/ollama#8770", 500, "llama runner process has terminated: exit status 2", "load"),
    ("ollama/ollama#4912", 500, "llama runner process has terminated: signal: aborted (core dumped)", "load"),
    ("ollama/ollama#11710", 500, "llama runner process has terminated: error:fault (0.11.2)", "load"),
    ("ollama/ollama#11710", 500, "unable to load model: /data/ollama_models/blobs/sha256-7dd573dc", "load"),
    ("ollama 0.30 source", 500, "llama-server process has terminated: exit status 127", "load"),
    ("ollama 0.30 source", 500, "timed out waiting for llama-server to start - ", "load"),
    ("ollama 0.1 source", 500, "timed out waiting for llama runner to start", "load"),
    ("llama.cpp router", 500, "model name=qwen3:8b failed to load", "load"),
    ("mostlygeek/llama-swap#218", 502, "unable to start process: upstream command exited prematurely", "load"),
    ("llama-swap source", 500, "unspecific error: upstream command exited prematurely", "load"),
    ("mudler/LocalAI#1664", 500, "could not load model: rpc error", "load"),
    (
        "mudler/LocalAI#5314",
        500,
        "failed to load model with internal loader: could not load model: rpc error: code = Unavailable desc = error "
        "reading from server: EOF",
        "load",
    ),
    ("LM Studio, seen", 500, 'Failed to load model "qwen3-coder-30b". Error: Failed to load model.', "load"),
    ("mostlygeek/llama-swap#376", 500, "llama_model_load: error loading model: llama_model_loader: failed", "load"),
    ("ollama 0.30 source", 500, "llama-server process has terminated: cudaMalloc failed: out of memory", "memory"),
    ("before ollama 0.30", 500, "model requires more system memory (9 GiB) than is available (4 GiB)", "memory"),
    ("ollama, measured", 500, "an error was encountered while running the model: CUDA error: out of memory", "memory"),
    ("PyTorch", 500, "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB", "memory"),
    ("llama.cpp", 500, "couldn't start: failed to allocate buffer", "memory"),
    ("LM Studio", 500, 'Failed to load model "a b". Error: insufficient memory', "memory"),
    ("ollama source", 500, "model runner has unexpectedly stopped, this may be due to resource limitations", "odd"),
    ("ollama's documentation", 500, "an error was encountered while running the model", "odd"),
    ("ollama source", 500, "llama runner process no longer running: 2 exit", "odd"),
    (
        "ollama/ollama#10894",
        500,
        'template: :42:11: executing "" at <.Thinking>: can\'t evaluate field Thinking in type *api.Message',
        "odd",
    ),
    ("Mangi-11/Eta#59", 500, "Jinja Exception: System message must be at the beginning.", "odd"),
    ("janhq/jan#6123", 500, ROWS_OF_A_TEMPLATE, "odd"),
    ("QwenLM/qwen-code#48", 500, "Unknown method: keys at row 57, column 46:\n   {%- set handled_keys", "odd"),
    (
        "llama.cpp of 2026",
        500,
        "\n------------\nWhile executing CallExpression at line 1, column 2 in source:\n{{",
        "odd",
    ),
    ("ggml-org/llama.cpp#20733", 500, "Unable to generate parser for this template. Automatic parser", "odd"),
    ("llama.cpp source", 500, "this custom template is not supported, try using --jinja", "odd"),
    ("containers/ramalama#988", 500, "tools param requires --jinja flag", "odd"),
    ("vllm-project/vllm#17119", 500, "jinja2.exceptions.TemplateError: Conversation roles must alternate", "odd"),
    ("ollama source", 500, "registry.ollama.ai/library/gemma:2b does not support tools", "odd"),
    ("ollama source", 500, "this model does not support embeddings", "odd"),
]
MEANS = {
    "load": (K.MODEL_FAILED, 503, "model_load_failed"),
    "memory": (K.MODEL_FAILED, 503, "vram_exhausted"),
    "odd": (K.MODEL_FAILED, 500, "model_failed"),
}


def body(message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "server_error"}}).encode()


@pytest.mark.parametrize("row", TEXTS, ids=[f"{row[0]}: {row[2][:30]}" for row in TEXTS])
def test_an_engine_s_words_about_a_model_leave_its_server_alone(row: tuple[str, int, str, str]):
    """Kind, status and code; the breaker counts none of them."""
    error = classify_answer("b", row[1], body(row[2]))
    assert (error.kind, error.status, error.code) == MEANS[row[3]]


WORDS = [
    "out of memory",
    "failed to load model",
    "llama runner process has terminated",
    "Jinja Exception: x",
    "does not support tools",
    "' out of memory",
    'x" out of memory',
    "x'y out of memory",
    "x at row 1, column 2:",
]


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize(
    "quoting",
    [
        "[json.exception.parse_error.101] parse error at line 1, column 9: invalid literal; last read: '{}'",
        'Failed to parse input at pos 0: "{}"',
        "Failed to parse tool call arguments as JSON: '{}'",
        "1 validation error for Request: input `{}`",
        "cannot use 'prompt': '{}' and so on",
    ],
)
def test_words_of_a_prompt_that_an_error_quotes_flip_nothing(words: str, quoting: str):
    """A server's failure stays one, or any client could hide it from the breaker."""
    error = classify_answer("b", 500, body(quoting.format(words)))
    assert (error.kind, error.status, error.code) == (K.SERVER, 500, "upstream_error")


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("text", ["Jinja Exception: System message must be at the beginning.", "failed to load model"])
def test_a_client_error_stays_the_client_s(status: int, text: str):
    """Whatever it says."""
    assert classify_answer("b", status, body(text)).kind is K.REJECTED


@pytest.mark.parametrize("text", ["Loading model", "server busy, please try again", "proxy error: connection refused"])
def test_a_server_that_is_not_ready_is_no_failed_model(text: str):
    """It may be asked again."""
    assert classify_answer("b", 503, body(text)).kind is K.SERVER


def test_a_long_text_is_read_fast():
    """Errors can hold a page; nothing in here goes back and forth over it."""
    for text in ("a" * 60_000, "' " * 30_000, "error: " * 9_000, "x'" * 30_000):
        assert classify_answer("b", 500, body(text)).kind is K.SERVER
