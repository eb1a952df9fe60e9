"""What Ollama's own error texts mean, where the general rules of `upstream_errors` do not know them.

Its errors are `{"error": "text"}`, with a status before the first event and as a line of the stream after it.
"""

from __future__ import annotations

import re

from ..exceptions import AttemptError, FailureKind

STREAM_STATUS = 500
"""The status an error in the middle of a stream would have had: by then only the runner can fail."""

_NAME_UNKNOWN = re.compile(r"^model is required", re.IGNORECASE)
_CANNOT = re.compile(r"does not support (?P<what>\w+)|think value .*is not supported", re.IGNORECASE)
_PARAMS = {
    "tools": "tools",
    "thinking": "reasoning_effort",
    "chat": "model",
    "generate": "model",
    "completion": "model",
    "embeddings": "model",
    "embedding": "model",
    "insert": "suffix",
    "vision": "messages",
    "image": "messages",
    "images": "messages",
}


def refine_error(error: AttemptError, status: int) -> AttemptError:
    """Return the failure that Ollama means, which is the given one unless its text says more.

    1. 400 `model is required`: it does not know the name (one was sent), so the model is missing.
    2. `does not support tools|thinking|chat|...`: it cannot honour a field; another backend might.
    3. 403: it refuses the gateway's Host or has cloud models switched off, no key is involved.
    4. 404 or 405 without a word about a model: no Ollama answers there.
    5. 499: it took the request for cancelled, which is no word about the request.
    """
    text = error.message
    if status == 400 and _NAME_UNKNOWN.search(text):
        return _no_such_model()
    cannot = _CANNOT.search(text)
    if cannot is not None:
        what = (cannot["what"] or "thinking").lower()
        return AttemptError(
            text,
            kind=FailureKind.UNSUPPORTED,
            status=400,
            code="unsupported_parameter",
            type="invalid_request_error",
            param=_PARAMS.get(what, "model"),
        )
    if status == 403 and error.kind is FailureKind.AUTH:
        return AttemptError(
            "Ollama refused the request (403): it takes other host names than its own only when OLLAMA_HOST allows it,"
            " and cloud models only when they are enabled",
            kind=FailureKind.AUTH,
            code="upstream_auth",
        )
    if status in (404, 405) and error.kind is FailureKind.MODEL_FAILED:
        return AttemptError(
            f"no Ollama answers at the backend's URL (it said {status}): check the URL and the engine's version",
            kind=FailureKind.PROTOCOL,
            code="upstream_protocol",
        )
    if status == 499:
        return AttemptError(text, kind=FailureKind.SERVER, status=502)
    return error


def _no_such_model() -> AttemptError:
    return AttemptError(
        "Ollama does not know a model of that name",
        kind=FailureKind.MODEL_MISSING,
        status=404,
        code="model_not_found",
        type="invalid_request_error",
        param="model",
    )
