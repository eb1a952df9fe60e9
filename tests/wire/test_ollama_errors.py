"""Ollama's error texts mean what its source says they mean."""

from __future__ import annotations

import json

import pytest

from smartrouter_asgi.exceptions import AttemptError, FailureKind
from smartrouter_asgi.wire.ollama_errors import refine_error
from smartrouter_asgi.wire.upstream_errors import classify_answer


def classify(status: int, text: str | None) -> AttemptError:
    body = b"" if text is None else json.dumps({"error": text}).encode()
    return refine_error(classify_answer("b", status, body), status)


ERRORS = [
    (400, "model is required", FailureKind.MODEL_MISSING, 404, "model_not_found", "model"),
    (404, "model 'm:latest' not found", FailureKind.MODEL_MISSING, 404, "model_not_found", "model"),
    (404, 'model "m" not found, try pulling it first', FailureKind.MODEL_MISSING, 404, "model_not_found", "model"),
    (400, '"m" does not support tools', FailureKind.UNSUPPORTED, 400, "unsupported_parameter", "tools"),
    (400, '"m" does not support thinking', FailureKind.UNSUPPORTED, 400, "unsupported_parameter", "reasoning_effort"),
    (
        400,
        'think value "high" is not supported for this model',
        FailureKind.UNSUPPORTED,
        400,
        "unsupported_parameter",
        "reasoning_effort",
    ),
    (400, '"m" does not support chat', FailureKind.UNSUPPORTED, 400, "unsupported_parameter", "model"),
    (400, '"m" does not support generate', FailureKind.UNSUPPORTED, 400, "unsupported_parameter", "model"),
    (400, '"m" does not support insert', FailureKind.UNSUPPORTED, 400, "unsupported_parameter", "suffix"),
    (500, "this model does not support embeddings", FailureKind.UNSUPPORTED, 400, "unsupported_parameter", "model"),
    (400, "the input length exceeds the context length", FailureKind.REJECTED, 400, "context_length_exceeded", None),
    (400, "invalid input type", FailureKind.REJECTED, 400, "invalid_request", None),
    (
        503,
        "server busy, please try again.  maximum pending requests exceeded",
        FailureKind.SERVER,
        503,
        "upstream_error",
        None,
    ),
    (
        500,
        "llama-server process has terminated: cudaMalloc failed: out of memory",
        FailureKind.MODEL_FAILED,
        503,
        "vram_exhausted",
        None,
    ),
    (
        500,
        "model requires more system memory (9 GiB) than is available",
        FailureKind.MODEL_FAILED,
        503,
        "vram_exhausted",
        None,
    ),
    (
        500,
        "llama-server process has terminated: exit status 2",
        FailureKind.MODEL_FAILED,
        503,
        "model_load_failed",
        None,
    ),
    (500, "llama runner process has terminated: signal", FailureKind.MODEL_FAILED, 503, "model_load_failed", None),
    (500, "timed out waiting for llama-server to start - ", FailureKind.MODEL_FAILED, 503, "model_load_failed", None),
    (
        500,
        "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error",
        FailureKind.MODEL_FAILED,
        500,
        "model_failed",
        None,
    ),
    (500, "something else", FailureKind.SERVER, 500, "upstream_error", None),
    (502, "cloud unreachable", FailureKind.SERVER, 502, "upstream_error", None),
    (403, None, FailureKind.AUTH, 502, "upstream_auth", None),
    (401, "unauthorized", FailureKind.AUTH, 502, "upstream_auth", None),
    (404, None, FailureKind.PROTOCOL, 502, "upstream_protocol", None),
    (404, "File Not Found", FailureKind.PROTOCOL, 502, "upstream_protocol", None),
    (405, "method not allowed", FailureKind.PROTOCOL, 502, "upstream_protocol", None),
    (499, "request canceled", FailureKind.SERVER, 502, "upstream_error", None),
]


@pytest.mark.parametrize(("status", "text", "kind", "becomes", "code", "param"), ERRORS)
def test_an_error_is_classified(
    status: int, text: str | None, kind: FailureKind, becomes: int, code: str, param: str | None
) -> None:
    error = classify(status, text)
    assert (error.kind, error.status, error.code, error.param) == (kind, becomes, code, param)
