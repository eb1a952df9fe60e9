"""What each engine's error means; the shapes are those of the engines named."""

from __future__ import annotations

import pytest

from smartrouter_asgi.exceptions import FailureKind as K
from smartrouter_asgi.wire.upstream_errors import MAX_MESSAGE_LENGTH, classify_answer, scrub

LLAMA_CONTEXT = (
    b'{"error":{"code":400,"message":"request (2019 tokens) exceeds the available context size (256 tokens), try '
    b'increasing it","type":"exceed_context_size_error","n_prompt_tokens":2019,"n_ctx":256}}'
)
VLLM_CONTEXT = (
    b'{"object":"error","message":"This model\'s maximum context length is 4096 tokens.","type":"BadRequestError",'
    b'"param":null,"code":400}'
)
LOADING = b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'


@pytest.mark.parametrize(
    ("status", "body", "kind", "answer", "code"),
    [
        (400, LLAMA_CONTEXT, K.REJECTED, 400, "context_length_exceeded"),
        (400, VLLM_CONTEXT, K.REJECTED, 400, "context_length_exceeded"),
        (503, LOADING, K.SERVER, 503, "upstream_error"),
        (400, b'{"error":{"message":"x","code":"content_filter"}}', K.REJECTED, 400, "content_filter"),
        (401, b'{"error":{"message":"Invalid API Key"}}', K.AUTH, 502, "upstream_auth"),
        (403, b"forbidden", K.AUTH, 502, "upstream_auth"),
        (404, b'{"error":"model \'x\' not found"}', K.MODEL_MISSING, 404, "model_not_found"),
        (404, b"404 page not found", K.MODEL_FAILED, 502, "upstream_error"),
        (405, b"", K.MODEL_FAILED, 502, "upstream_error"),
        (402, b'{"error":{"message":"Insufficient credits"}}', K.AUTH, 502, "upstream_auth"),
        (204, b"", K.PROTOCOL, 502, "upstream_protocol"),
        (201, b"{}", K.PROTOCOL, 502, "upstream_protocol"),
        (999, b"", K.PROTOCOL, 502, "upstream_protocol"),
        (400, b'{"error":{"message":"x","code":"evil\\r\\nINFO x"}}', K.REJECTED, 400, "invalid_request"),
        (408, b"", K.SERVER, 502, "upstream_error"),
        (422, b'{"error":"Input validation","error_type":"validation"}', K.REJECTED, 422, "invalid_request"),
        (429, b'{"src":"llama-swap","error":{"message":"x","code":"y"}}', K.RATE_LIMITED, 429, "rate_limited"),
        (
            500,
            b'{"error":"llama-server process has terminated: cudaMalloc failed"}',
            K.MODEL_FAILED,
            503,
            "vram_exhausted",
        ),
        (500, b"oops", K.SERVER, 500, "upstream_error"),
        (501, b'{"error":{"message":"x","type":"not_supported_error"}}', K.MODEL_FAILED, 501, "upstream_error"),
        (529, b'{"type":"error","error":{"type":"overloaded_error","message":"x"}}', K.SERVER, 529, "upstream_error"),
        (302, b"", K.PROTOCOL, 502, "upstream_redirect"),
        (400, b'{"detail":[{"msg":"field required"}]}', K.REJECTED, 400, "invalid_request"),
    ],
)
def test_what_an_answer_means(status: int, body: bytes, kind: K, answer: int, code: str):
    """Kind for the policy, status and code for the client."""
    error = classify_answer("b", status, body)
    assert (error.kind, error.status, error.code) == (kind, answer, code)


@pytest.mark.parametrize("body", [b"[" * 5000, b"\xff\xfe", b'{"error": {"message": 5}}', b"null", b'{"error": []}'])
def test_no_body_is_too_odd_to_read(body: bytes):
    """An error about an error would hide both."""
    assert classify_answer("b", 500, body).status == 500


def test_half_a_surrogate_pair_hides_no_error():
    """Engines cut text between tokens; a message with half an emoji in it still says which error it is."""
    error = classify_answer("b", 404, b'{"error": {"message": "model \\ud83d not found"}}')
    assert (error.kind, error.message) == (K.MODEL_MISSING, "model   not found")


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("see http://10.0.0.5:8080/v1/x?key=abc now", "10.0.0.5"),
        ("dial tcp 192.168.1.7:11434: refused", "192.168.1.7"),
        ("Incorrect API key provided: sk-abcdef123456", "sk-abcdef123456"),
        ("header Authorization: Bearer abc.def", "abc.def"),
        ("dial api.internal.corp:8443 failed", "internal"),
        ("dial [fd00::1]:9000 failed", "fd00"),
        ("cannot open /srv/models/x.gguf", "srv"),
        ("a\r\nb\x1b[31m\u2028", "\x1b"),
    ],
)
def test_addresses_keys_and_control_characters_never_pass(text: str, gone: str):
    """Upstream text goes to clients and logs."""
    assert gone not in scrub(text)
    assert "\n" not in scrub(text)


def test_text_is_cut():
    """A page of HTML is no message."""
    assert len(scrub("x" * 100_000)) == MAX_MESSAGE_LENGTH
