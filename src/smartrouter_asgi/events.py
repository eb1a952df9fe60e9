"""Frozen records of what happened, and the one-method protocol of who wants to know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from .exceptions import FailureKind


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFinished:
    """One attempt ended. `outcome` is `ok`, `cancelled`, `hedged` (another one spoke first) or an error code."""

    backend: str
    model: str
    operation: str
    number: int
    outcome: str
    duration_s: float
    first_token_s: float | None = None
    kind: FailureKind | None = None
    """Why it failed. The code does not tell: a refusal of a deployment at rest repeats its last error's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFinished:
    """A committed stream ended. `outcome` is `ok`, `disconnected` or an in-stream error code."""

    backend: str
    operation: str
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFinished:
    """One request ended. `model` and `backend` are names from configuration or discovery, or `other`."""

    request_id: str
    endpoint: str
    model: str
    backend: str
    status: int
    outcome: str
    attempts: int
    duration_s: float
    first_token_s: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerChanged:
    """A breaker moved between `closed`, `half-open` and `open`."""

    backend: str
    operation: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSwapped:
    """The gate brought a model into GPU memory or took one out of it. `action` is `load`, `unload` or `load_failed`."""

    deployment: str
    action: str
    seconds: float
    evicted: bool = False
    """It was unloaded to make room, and not by hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionWaited:
    """A request left the gate's queue. `outcome` is `admitted`, `left` or an error code."""

    deployment: str
    seconds: float
    outcome: str


Event: TypeAlias = AttemptFinished | StreamFinished | RequestFinished | BreakerChanged | ModelSwapped | AdmissionWaited


class Observer(Protocol):
    """Somebody who wants to know; must not block and must not raise."""

    def on_event(self, event: Event) -> None:
        """Take note of one event."""
