"""The gate as one frozen value, for people and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .ledger import HoldingState

if TYPE_CHECKING:
    from .effects import Decision
    from .ledger import Holding
    from .scheduler import Scheduler


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidentView:
    """A model in memory. `state` is `resident` or `unloading`; `leases` counts the draining ones too."""

    deployment: str
    state: str
    size_bytes: int
    measured: bool
    leases: int
    draining: int
    pinned: bool
    closed: bool
    """Takes no new requests, so that it drains for an older waiter."""
    last_used_age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationView:
    """Bytes promised to a model that is being loaded."""

    deployment: str
    size_bytes: int
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """The requests that wait for one model."""

    deployment: str
    waiting: int
    oldest_age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSnapshot:
    """What the gate knows at `at`, on its own clock. `budget_bytes` None: unknown, nothing is counted."""

    at: float
    budget_bytes: int | None
    used_bytes: int = 0
    free_bytes: int = 0
    """Negative when the engines took more than the budget by themselves."""
    above_threshold: bool = False
    residents: tuple[ResidentView, ...] = ()
    reservations: tuple[ReservationView, ...] = ()
    queues: tuple[QueueView, ...] = ()
    decisions: tuple[Decision, ...] = ()
    """The last ones, oldest first."""


def snapshot_of(scheduler: Scheduler, *, now: float) -> GateSnapshot:
    """Return the scheduler's state as a value."""
    ledger, queue = scheduler.ledger, scheduler.queue
    holdings = ledger.holdings()
    depths = queue.depths()
    threshold_bytes = ledger.budget_bytes * scheduler.policy.unload_threshold_pct / 100
    return GateSnapshot(
        at=now,
        budget_bytes=ledger.budget_bytes,
        used_bytes=ledger.used_bytes,
        free_bytes=ledger.free_bytes,
        above_threshold=ledger.used_bytes >= threshold_bytes,
        residents=tuple(
            _resident(held, scheduler, now) for held in holdings if held.state is not HoldingState.RESERVED
        ),
        reservations=tuple(
            ReservationView(deployment=held.key.id, size_bytes=held.size_bytes, age_s=now - held.since)
            for held in holdings
            if held.state is HoldingState.RESERVED
        ),
        queues=tuple(
            QueueView(deployment=key.id, waiting=depths[key], oldest_age_s=now - queue.oldest(key).since)
            for key in queue.models()
        ),
        decisions=tuple(scheduler.decisions),
    )


def _resident(held: Holding, scheduler: Scheduler, now: float) -> ResidentView:
    return ResidentView(
        deployment=held.key.id,
        state=held.state.value,
        size_bytes=held.size_bytes,
        measured=held.measured,
        leases=held.leases,
        draining=held.draining,
        pinned=scheduler.ledger.names.is_pinned(held.key),
        closed=held.key in scheduler.closed,
        last_used_age_s=now - held.last_used,
    )
