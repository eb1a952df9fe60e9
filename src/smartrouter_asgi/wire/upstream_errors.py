"""What an engine's error means: every error body seen in the field, read into one `AttemptError`.

Shapes: `{"error": {"message", "type", "code"}}` OpenAI, llama.cpp, newer vLLM; `{"error": "text"}` Ollama;
`{"error": "text", "error_type"}` TGI; `{"object": "error", "message", ...}` older vLLM; `{"detail": ...}` FastAPI.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..exceptions import AttemptError, FailureKind, SmartRouterError
from .decoding import JSON_ERRORS, decode_json
from .model_failures import read_model_failure

MAX_MESSAGE_LENGTH = 500

_ADDRESS = re.compile(
    r"\b[a-z][a-z0-9+.-]*://\S+"  # a URL
    r"|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"  # IPv4
    r"|\[[0-9a-f:]{2,}\](?::\d+)?"  # IPv6
    r"|\b[a-z0-9-]+(?:\.[a-z0-9-]+)+:\d+\b|\blocalhost(?::\d+)?\b"  # a host and its port
    r"|(?<![\w./-])/(?:[\w.-]+/)+[\w.-]*",  # a path on somebody's disk
    re.IGNORECASE,
)
_WORD = re.compile(r"[\w.-]{1,64}", re.ASCII)
_FIELD = re.compile(r"[\w.\[\]-]{1,128}", re.ASCII)
_KEY = re.compile(r"\b(?:sk|pk|gsk|xai|hf)[-_][A-Za-z0-9_*.-]{6,}|\bBearer\s+\S+", re.IGNORECASE)
_CONTEXT = re.compile(
    r"exceed_context_size|context_length_exceeded|maximum context length|exceeds the available context size"
    r"|exceeds the context length|longer than the model's context",
    re.IGNORECASE,
)
_FILTER = re.compile(r"content_filter|content_policy_violation|content management policy", re.IGNORECASE)
_NO_MODEL = re.compile(
    r"\bmodel\b.*\bnot found\b|\bnot_found_error\b.*\bmodel\b|\bmodel_not_found\b|does not exist",
    re.IGNORECASE | re.DOTALL,
)


class ErrorBody(NamedTuple):
    """An engine's error, whatever its shape was."""

    message: str
    type: str | None
    code: str | None
    param: str | None
    status: int | None
    """The HTTP status the body itself names, if any."""


def read_error(value: Any) -> ErrorBody | None:
    """Find the error in a decoded JSON value; None when it holds none."""
    if isinstance(value, list) and value:  # Google wraps its errors in a list
        value = value[0]
    if not isinstance(value, dict):
        return None
    error = value.get("error")
    if isinstance(error, dict):
        return _from_mapping(error)
    if isinstance(error, str) and error:
        return ErrorBody(error, _text(value.get("error_type")), None, None, None)
    if value.get("object") == "error" or value.get("type") == "error":
        return _from_mapping(value)
    detail = value.get("detail")
    if detail:
        return ErrorBody(detail if isinstance(detail, str) else str(detail), None, None, None, None)
    return None


def _from_mapping(error: dict[str, Any]) -> ErrorBody:
    code = error.get("code")
    status = code if isinstance(code, int) and 400 <= code <= 599 else None
    return ErrorBody(
        message=_text(error.get("message")) or "the engine reported an error without a message",
        type=_text(error.get("type")),
        code=_matching(code, _WORD),
        param=_matching(error.get("param"), _FIELD),
        status=status,
    )


def _matching(value: Any, pattern: re.Pattern[str]) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def scrub(text: str) -> str:
    """Cut an engine's text to a length and take out URLs, addresses and keys: it goes to clients and logs."""
    text = _KEY.sub("[key]", _ADDRESS.sub("[address]", text))
    text = "".join(c if c.isprintable() else " " for c in text).strip()
    return text if len(text) <= MAX_MESSAGE_LENGTH else text[: MAX_MESSAGE_LENGTH - 1] + "…"


def redact(exc: SmartRouterError, secrets: Iterable[str]) -> None:
    """Take a backend's own credentials out of an error's text, however the engine came to quote them."""
    for secret in secrets:
        if secret in exc.message:
            exc.message = exc.message.replace(secret, "[key]")
            exc.args = (exc.message,)
        if secret in exc.code:
            exc.code = "upstream_error"
        if exc.param is not None and secret in exc.param:
            exc.param = None


def classify_answer(backend: str, status: int, body: bytes, *, retry_after_s: float | None = None) -> AttemptError:
    """Turn an upstream answer that is not a 2xx into the failure it means."""
    if not 300 <= status <= 599:
        return AttemptError(
            f"backend '{backend}' answered {status}, which is no answer to this request",
            kind=FailureKind.PROTOCOL,
            code="upstream_protocol",
        )
    if status < 400:
        return AttemptError(
            f"backend '{backend}' answered with a redirect, which is never followed: check its base URL",
            kind=FailureKind.PROTOCOL,
            code="upstream_redirect",
        )
    try:
        found = read_error(decode_json(body))
    except JSON_ERRORS:
        found = None
    if found is None:
        found = ErrorBody(f"backend '{backend}' answered {status}", None, None, None, None)
    return classify_error(backend, status, found, retry_after_s=retry_after_s)


def classify_error(backend: str, status: int, found: ErrorBody, *, retry_after_s: float | None = None) -> AttemptError:
    """Turn an engine's error into the failure it means; `status` is what HTTP said, or would have said."""
    message = scrub(found.message)
    marks = f"{found.type} {found.code} {found.message}"
    if status in (401, 403) and not _FILTER.search(marks) and not (status == 403 and _NO_MODEL.search(marks)):
        return AttemptError(
            f"backend '{backend}' refused the gateway's key: check its api key in the configuration",
            kind=FailureKind.AUTH,
            code="upstream_auth",
        )
    if status in (402, 407):
        return AttemptError(
            f"backend '{backend}' refused the gateway's account: {message}", kind=FailureKind.AUTH, code="upstream_auth"
        )
    failure = read_model_failure(found.message) if status >= 500 else None
    if failure == "model_failed":
        return AttemptError(message, kind=FailureKind.MODEL_FAILED, status=status, code=failure)
    if failure is not None:
        return AttemptError(
            message, kind=FailureKind.MODEL_FAILED, status=503, code=failure, type="service_unavailable"
        )
    if status == 429:
        return AttemptError(
            message,
            kind=FailureKind.RATE_LIMITED,
            status=429,
            code="rate_limited",
            type="rate_limit_error",
            retry_after_s=retry_after_s,
        )
    if status < 500 and _CONTEXT.search(marks):
        return _rejected(message, 400, "context_length_exceeded", found)
    if status < 500 and _FILTER.search(marks):
        return _rejected(message, 400, "content_filter", found)
    if status in (403, 404) and (_NO_MODEL.search(marks) or found.code == "model_not_found"):
        return AttemptError(
            message,
            kind=FailureKind.MODEL_MISSING,
            status=404,
            code="model_not_found",
            type="invalid_request_error",
            param="model",
        )
    if status in (404, 405):
        return AttemptError(
            f"backend '{backend}' serves nothing at this path: check its base URL", kind=FailureKind.MODEL_FAILED
        )
    if status in (501, 505):  # not here, whoever asks; another engine may be able to
        return AttemptError(message, kind=FailureKind.MODEL_FAILED, status=status)
    if status in (408, 425) or status >= 500:
        return AttemptError(
            message, kind=FailureKind.SERVER, status=status if status >= 500 else 502, retry_after_s=retry_after_s
        )
    return _rejected(message, status, found.code or "invalid_request", found)


def _rejected(message: str, status: int, code: str, found: ErrorBody) -> AttemptError:
    return AttemptError(
        message,
        kind=FailureKind.REJECTED,
        status=status,
        code=code,
        type="invalid_request_error",
        param=found.param,
    )
