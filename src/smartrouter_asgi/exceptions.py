"""Every error the package raises, each with the HTTP status and code it becomes.

SmartRouterError
├─ ConfigurationError            (also ValueError) at construction, never per request
├─ StackOrderError               (also RuntimeError) 500, names the missing layer
├─ RequestError                  400 invalid_request: the client's to mend
│    ├─ InvalidJSONError         400 invalid_json
│    ├─ UnsupportedParameterError 400 unsupported_parameter, `param` names it
│    ├─ AuthenticationError      401 invalid_api_key
│    ├─ PermissionDeniedError    403 permission_denied
│    ├─ ModelNotFoundError       404 model_not_found
│    ├─ NotFoundError            404 not_found
│    ├─ MethodNotAllowedError    405 method_not_allowed
│    ├─ BodyTimeoutError         408 body_timeout
│    └─ BodyTooLargeError        413 body_too_large
├─ AdmissionError                503 + Retry-After: the gate's word; neutral for breakers
│    ├─ QueueFullError           503 queue_full
│    ├─ VRAMQueueTimeoutError    503 vram_queue_timeout
│    ├─ VRAMExhaustedError       503 vram_exhausted
│    ├─ SpilledError             503 vram_spilled: of one attempt; another candidate is asked first
│    └─ DrainingError            503 gateway_draining
├─ NoBackendError                503 no_backend: nothing could be asked
├─ AttemptError                  502, one attempt failed; carries its `FailureKind`
│    └─ BreakerOpenError         503 breaker_open
├─ RouteExhaustedError           the last upstream status, `.attempts` lists them all
└─ DeadlineExceededError         504 deadline_exceeded

FramingError                     internal: a broken stream, before dispatch has said what it means
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any


class SmartRouterError(Exception):
    """The root. `message` is fit for clients: it holds no key, prompt or internal URL."""

    status: int = 500
    code: str = "internal_error"
    type: str = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        type: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        if status is not None:
            self.status = status
        if code is not None:
            self.code = code
        if type is not None:
            self.type = type


class ConfigurationError(SmartRouterError, ValueError):
    """The configuration cannot be used; the message names file, key path, value and what would be right."""

    code = "configuration_error"


class StackOrderError(SmartRouterError, RuntimeError):
    """A layer needs another one outside of it that is not there (500)."""

    code = "stack_order"


class RequestError(SmartRouterError):
    """The request cannot be served as it stands (400)."""

    status = 400
    code = "invalid_request"
    type = "invalid_request_error"


class InvalidJSONError(RequestError):
    """The body is not the JSON object it should be (400)."""

    code = "invalid_json"


class UnsupportedParameterError(RequestError):
    """The engine cannot honour a field of the request, named by `param` (400)."""

    code = "unsupported_parameter"


class AuthenticationError(RequestError):
    """The key is missing or wrong (401)."""

    status = 401
    code = "invalid_api_key"
    type = "authentication_error"


class PermissionDeniedError(RequestError):
    """The caller may not do this (403)."""

    status = 403
    code = "permission_denied"
    type = "permission_error"


class ModelNotFoundError(RequestError):
    """No configured model, alias or discovered id has this name (404)."""

    status = 404
    code = "model_not_found"


class NotFoundError(RequestError):
    """No such path (404)."""

    status = 404
    code = "not_found"


class MethodNotAllowedError(RequestError):
    """The path exists, the method does not (405)."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, *, allow: tuple[str, ...]) -> None:
        super().__init__(message)
        self.allow = allow


class BodyTimeoutError(RequestError):
    """The body did not arrive in time (408)."""

    status = 408
    code = "body_timeout"


class BodyTooLargeError(RequestError):
    """The body is over the limit; what came after the limit was not read (413)."""

    status = 413
    code = "body_too_large"


class AdmissionError(SmartRouterError):
    """The gate did not let the request in (503 with Retry-After); a breaker never counts it."""

    status = 503
    code = "queue_full"
    type = "service_unavailable"


class QueueFullError(AdmissionError):
    """Too many requests wait already (503)."""


class VRAMQueueTimeoutError(AdmissionError):
    """The model did not get into GPU memory within the allowed wait (503)."""

    code = "vram_queue_timeout"


class VRAMExhaustedError(AdmissionError):
    """The model does not fit into GPU memory, now or ever (503)."""

    code = "vram_exhausted"


class SpilledError(AdmissionError):
    """The wait for GPU memory would be long, and there is another candidate: that one is asked first (503)."""

    code = "vram_spilled"


class DrainingError(AdmissionError):
    """The gateway is shutting down and takes no new work (503)."""

    code = "gateway_draining"


class NoBackendError(SmartRouterError):
    """No backend could be asked (503 with Retry-After)."""

    status = 503
    code = "no_backend"
    type = "service_unavailable"


class DeadlineExceededError(SmartRouterError):
    """The deadline of the whole request passed (504)."""

    status = 504
    code = "deadline_exceeded"
    type = "timeout_error"


class FailureKind(Enum):
    """Why an attempt failed: the one fact from which retry policy and breaker draw their conclusions."""

    CONNECT = "connect"  # nothing was sent: refused, DNS, TLS, connect timeout
    STALE = "stale"  # a reused connection died under the request: the server had closed it
    RESET = "reset"  # the connection died after the request was sent, before an answer
    UPLOAD = "upload"  # it died while a large body was sent: an early refusal that was lost, no word about the server
    FIRST_TOKEN_TIMEOUT = "first_token_timeout"
    SERVER = "server"  # 408, 425, 5xx but 501 and 505
    PROTOCOL = "protocol"  # the answer is not what the protocol says, or a redirect
    RATE_LIMITED = "rate_limited"  # 429
    AUTH = "auth"  # the backend refuses the gateway's own key
    MODEL_MISSING = "model_missing"  # the backend no longer has the model
    MODEL_FAILED = "model_failed"  # this model cannot run here: load failure, out of memory
    REJECTED = "rejected"  # a client error by the engine's word: nobody else would take it either
    UNSUPPORTED = "unsupported"  # this engine cannot honour a field; another might
    ADMISSION = "admission"  # the gate's word
    BREAKER_OPEN = "breaker_open"
    COOLING = "cooling"  # the deployment asked for a pause (429) that is not over; nobody was asked
    RESTING = "resting"  # its model failed lately and is left alone for a while; nobody was asked
    LOCAL = "local"  # the gateway itself could not ask: no file descriptors, no memory


class AttemptError(SmartRouterError):
    """One attempt failed before commit (502 unless the upstream's own status says more).

    `engine_busy`: the engine may still be working on it, so GPU memory is not free yet.
    """

    status = 502
    code = "upstream_error"
    type = "upstream_error"

    def __init__(
        self,
        message: str,
        *,
        kind: FailureKind,
        status: int | None = None,
        code: str | None = None,
        type: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        engine_busy: bool = False,
    ) -> None:
        super().__init__(message, status=status, code=code, type=type, param=param, retry_after_s=retry_after_s)
        self.kind = kind
        self.engine_busy = engine_busy


class BreakerOpenError(AttemptError):
    """The breaker of this backend and operation is open (503, Retry-After = what remains)."""

    status = 503
    code = "breaker_open"
    type = "service_unavailable"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message, kind=FailureKind.BREAKER_OPEN, retry_after_s=retry_after_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """What became of one attempt, fit for the client's eyes (`error.attempts`)."""

    number: int
    deployment: str
    status: int
    code: str
    duration_s: float
    asked: bool = True
    """Whether an engine was asked."""


class RouteExhaustedError(SmartRouterError):
    """Every candidate failed; answers with the status of the most telling failure and lists all attempts."""

    def __init__(self, cause: SmartRouterError, attempts: tuple[AttemptRecord, ...]) -> None:
        super().__init__(
            cause.message,
            status=cause.status,
            code=cause.code,
            type=cause.type,
            param=cause.param,
            retry_after_s=cause.retry_after_s,
        )
        self.attempts = attempts


class FramingError(Exception):
    """An upstream's bytes break the framing of its stream; never shown as such: dispatch turns it into what fits.

    `code` is the in-stream error code it becomes once the answer is committed; `before` is what the same bytes held
    before the break, which still counts.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.before: Sequence[Any] = ()
