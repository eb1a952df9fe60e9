"""Frozen records of what happened, and the one-method protocol of who wants to know.

They are structs of msgspec, as every request makes some: a frozen dataclass takes ten times as long to be made.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

import msgspec

from .exceptions import FailureKind


class AttemptFinished(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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


class StreamFinished(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A committed stream ended. `outcome` is `ok`, `disconnected` or an in-stream error code."""

    backend: str
    operation: str
    outcome: str


class RequestFinished(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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


class BreakerChanged(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A breaker moved between `closed`, `half-open` and `open`."""

    backend: str
    operation: str
    state: str


class ModelSwapped(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The gate brought a model into GPU memory or took one out of it. `action` is `load`, `unload` or `load_failed`."""

    deployment: str
    action: str
    seconds: float
    evicted: bool = False
    """It was unloaded to make room, and not by hand."""


class AdmissionWaited(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A request left the gate's queue. `outcome` is `admitted`, `left` or an error code."""

    deployment: str
    seconds: float
    outcome: str


Event: TypeAlias = AttemptFinished | StreamFinished | RequestFinished | BreakerChanged | ModelSwapped | AdmissionWaited


class Observer(Protocol):
    """Somebody who wants to know; must not block and must not raise.

    One may have an attribute `hears`, a mapping from types of events to who takes them: it is told of no others, and
    `on_event` is not called for these. Requests are not slowed down by those who would not listen.
    """

    def on_event(self, event: Event) -> None:
        """Take note of one event."""
