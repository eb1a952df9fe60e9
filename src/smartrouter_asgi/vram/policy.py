"""What the gate is allowed to do, as one value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ..exceptions import ConfigurationError

UnloadStrategy: TypeAlias = Literal["lru", "largest", "cost"]
"""Which idle model goes first: the longest unused, the biggest, or the set that is quickest to load again."""

UnknownBudget: TypeAlias = Literal["open", "closed"]
"""With no budget known: let everything through, or nothing."""

GIB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class GatePolicy:
    """The rules of one gate; the defaults are those of the contract."""

    auto_unload: bool = True
    """Whether the gate may evict; False: what does not fit beside the residents is refused."""
    unload_strategy: UnloadStrategy = "lru"
    pinned: frozenset[str] = field(default_factory=frozenset)
    """Deployment ids (`backend/model`) that are never evicted."""
    default_estimate_bytes: int = 8 * GIB
    """The footprint of a model that was neither declared nor ever measured."""
    max_wait_s: float = 30.0
    """How long a request may queue. A request whose model is being loaded is bound by its deadline only."""
    max_queue: int = 64
    """How many requests may wait in all."""
    release_grace_s: float = 5.0
    """How long a draining lease is held when the engine does not show idle."""
    fair_after_s: float = 15.0
    """Once the oldest waiter is this old, the residents in its way take no new requests."""
    spill_after_s: float = 10.0
    """Projected wait beyond which a request that has another candidate goes there instead of queueing."""
    min_turn: float = 2.0
    """A model in use is not closed for one other, which it was ahead of, before it has served for so many times what
    its load took, at most for `fair_after_s`. Where several have waited too long, each is due at once."""
    min_residency: float = 0.0
    """A model stays for at least so many times what its load took, unless somebody has waited for `fair_after_s`."""
    unknown: UnknownBudget = "open"
    reconcile_ttl_s: float = 2.0
    """How long the engines' own word on what is loaded is believed before a load decision."""
    unload_threshold_pct: float = 85.0
    """Use of the budget from which snapshots say `above_threshold`; a warning, not a limit."""
    load_timeout_s: float = 600.0
    """When a load that neither ends nor fails counts as failed."""
    unload_timeout_s: float = 60.0
    """When an unload that neither ends nor fails counts as failed."""

    def __post_init__(self) -> None:
        if self.unload_strategy not in ("lru", "largest", "cost"):
            raise ConfigurationError(f"unload_strategy {self.unload_strategy!r}: lru, largest or cost")
        if self.unknown not in ("open", "closed"):
            raise ConfigurationError(f"unknown {self.unknown!r}: open or closed")
        if self.min_residency < 0 or self.min_turn < 0:
            raise ConfigurationError("min_residency and min_turn cannot be negative")
        if self.default_estimate_bytes < 0 or self.max_queue < 0:
            raise ConfigurationError("default_estimate and max_queue cannot be negative")
