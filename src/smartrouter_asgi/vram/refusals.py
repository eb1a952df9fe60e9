"""The words of the gate when it says no: pure functions from facts to errors, a fresh error for every waiter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..exceptions import (
    AttemptError,
    BreakerOpenError,
    DrainingError,
    FailureKind,
    QueueFullError,
    SmartRouterError,
    SpilledError,
    VRAMExhaustedError,
    VRAMQueueTimeoutError,
)

if TYPE_CHECKING:
    from .names import ModelKey

NOT_THE_MODEL = frozenset(
    {
        FailureKind.CONNECT,
        FailureKind.STALE,
        FailureKind.LOCAL,
        FailureKind.AUTH,
        FailureKind.RATE_LIMITED,
        FailureKind.MODEL_MISSING,
        FailureKind.BREAKER_OPEN,
    }
)
"""Failures of a load that say nothing against the model: they stay what they are, and a breaker sees them."""


def queue_full(waiting: int, *, retry_after_s: float) -> QueueFullError:
    """Refuse one more waiter."""
    return QueueFullError(f"{waiting} requests wait for GPU memory already", retry_after_s=retry_after_s)


def queue_timeout(key: ModelKey, waited_s: float, *, retry_after_s: float) -> VRAMQueueTimeoutError:
    """Refuse a waiter whose time is up."""
    return VRAMQueueTimeoutError(
        f"{key.id} did not get into GPU memory within {waited_s:.1f} s", retry_after_s=retry_after_s
    )


def elsewhere(key: ModelKey, wait_s: float) -> SpilledError:
    """Send a request on to its next candidate."""
    return SpilledError(
        f"{key.id} would be in GPU memory in about {min(wait_s, 3600.0):.0f} s only: another is asked first"
    )


def no_loads(backend: str, *, retry_after_s: float) -> BreakerOpenError:
    """Refuse a request that needs a load of an engine whose loads have failed too often."""
    return BreakerOpenError(
        f"loads at backend '{backend}' have failed too often, and it rests for now", retry_after_s=retry_after_s
    )


def stopping() -> DrainingError:
    """Refuse everybody: the gateway shuts down."""
    return DrainingError("the gateway is shutting down", retry_after_s=1.0)


def exhausted(key: ModelKey, need_bytes: int, limit_bytes: int, *, retry_after_s: float) -> VRAMExhaustedError:
    """Refuse a model that cannot fit."""
    need, limit = (f"{size_bytes / 1024**3:.1f} GiB" for size_bytes in (need_bytes, max(limit_bytes, 0)))
    return VRAMExhaustedError(
        f"{key.id} needs {need} of GPU memory; at most {limit} can be had for it", retry_after_s=retry_after_s
    )


def failed(key: ModelKey, cause: BaseException, *, verb: str, retry_after_s: float | None = None) -> AttemptError:
    """Make of whatever ended a load or unload the error of one request that needed it."""
    if isinstance(cause, AttemptError) and cause.kind in NOT_THE_MODEL:
        error = AttemptError(
            cause.message,
            kind=cause.kind,
            status=cause.status,
            code=cause.code,
            type=cause.type,
            retry_after_s=cause.retry_after_s,
        )
    else:
        said = (
            cause.message
            if isinstance(cause, SmartRouterError)
            else "the engine took too long"
            if isinstance(cause, TimeoutError)
            else "the engine failed"
        )
        message = f"{key.id} could not be {verb}: {said}"
        if isinstance(cause, SmartRouterError) and cause.code == VRAMExhaustedError.code:
            error = AttemptError(
                message,
                kind=FailureKind.MODEL_FAILED,
                status=VRAMExhaustedError.status,
                code=VRAMExhaustedError.code,
                type=VRAMExhaustedError.type,
                retry_after_s=cause.retry_after_s or retry_after_s,
            )
        elif verb == "loaded":
            error = AttemptError(
                message,
                kind=FailureKind.MODEL_FAILED,
                status=503,
                code="model_load_failed",
                type="service_unavailable",
            )
        else:
            error = AttemptError(message, kind=FailureKind.MODEL_FAILED)
    error.__cause__ = cause
    return error
