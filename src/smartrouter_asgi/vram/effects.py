"""What the scheduler asks of the world, and the record of why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from ..exceptions import SmartRouterError
    from .names import ModelKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Let this waiter in; its lease is counted already."""

    ticket: int
    key: ModelKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """Send this waiter away. The error is its own instance."""

    ticket: int
    error: SmartRouterError


@dataclass(frozen=True, slots=True, kw_only=True)
class StartLoad:
    """Load the model; its bytes are reserved. Answer with `load_finished` or `load_failed`."""

    key: ModelKey


@dataclass(frozen=True, slots=True, kw_only=True)
class StartUnload:
    """Unload the model; its bytes stay held. Answer with `unload_finished` or `unload_failed`."""

    key: ModelKey
    by_hand: bool = False
    """The operator wants it gone; nobody needs its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartReconcile:
    """Ask every engine what it has loaded. Answer with `reconciled`."""


Effect: TypeAlias = Grant | Reject | StartLoad | StartUnload | StartReconcile


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One thing that was decided or noticed. `at` is on the gate's clock."""

    at: float
    deployment: str
    action: str
    """`load`, `load_failed`, `evict`, `unload`, `unload_failed`, `close`, `reject`, `appeared` or `vanished`."""
    reason: str
