"""Who holds how many bytes of GPU memory: pure book-keeping, no clock, no decisions.

Bytes are held from the reservation until the unload is confirmed: what may not be free is not believed free.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from .names import ModelKey, ModelNames

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from ..deployment import LoadedModel


ASSUMED_LOAD_BYTES_PER_S = 1024**3
"""Speed of a load never seen: weights from a good disk."""


class HoldingState(Enum):
    """How far a holding is in its life."""

    RESERVED = "reserved"  # promised, being loaded
    RESIDENT = "resident"  # loaded, may be used
    UNLOADING = "unloading"  # on its way out, its bytes not free yet


@dataclass(slots=True, kw_only=True, eq=False)
class Holding:
    """The bytes one model holds. `leases` counts every use, the `draining` ones included."""

    key: ModelKey
    size_bytes: int
    state: HoldingState
    since: float
    last_used: float
    leases: int = 0
    draining: int = 0
    measured: bool = False
    retry_unload_at: float = -math.inf
    """Not to be chosen as a victim before this: its last unload failed."""


class VRAMLedger:
    """The books of one memory budget: holdings, leases on them, and what models were seen to need."""

    def __init__(self, budget_bytes: int, *, default_estimate_bytes: int, pinned: Iterable[str] = ()) -> None:
        self.budget_bytes = budget_bytes
        self.names = ModelNames(pinned)
        self._default_estimate_bytes = default_estimate_bytes
        self._held: dict[ModelKey, Holding] = {}
        self._measured: dict[ModelKey, int] = {}
        self._declared: dict[ModelKey, int] = {}
        self._load_s: dict[ModelKey, float] = {}
        self._gone_at: dict[ModelKey, float] = {}

    # -- reading

    @property
    def used_bytes(self) -> int:
        """Bytes held in all: reserved, resident and unloading."""
        return sum(held.size_bytes for held in self._held.values())

    @property
    def free_bytes(self) -> int:
        """What the budget leaves; negative when the engines took more by themselves."""
        return self.budget_bytes - self.used_bytes

    @property
    def coming_bytes(self) -> int:
        """Bytes of models on their way out."""
        return sum(held.size_bytes for held in self._held.values() if held.state is HoldingState.UNLOADING)

    def reachable_bytes(self, key: ModelKey) -> int:
        """Return the most that could ever be free for a model: the budget less what is pinned there."""
        return self.budget_bytes - sum(
            held.size_bytes
            for held in self._held.values()
            if held.key != key and held.state is not HoldingState.UNLOADING and self.names.is_pinned(held.key)
        )

    def holdings(self) -> tuple[Holding, ...]:
        """Return every holding, oldest entry first."""
        return tuple(self._held.values())

    def get(self, key: ModelKey) -> Holding | None:
        """Return the holding of a model, if it has one."""
        return self._held.get(key)

    def footprint_bytes(self, key: ModelKey) -> int:
        """Return what a model needs: as last measured, else as declared, else the default estimate."""
        measured = self._measured.get(key)
        return measured if measured is not None else self._declared.get(key, self._default_estimate_bytes)

    def load_s(self, key: ModelKey) -> float:
        """Return how long the model's last load took; before the first, what its bytes would take from a disk."""
        seen = self._load_s.get(key)
        return seen if seen is not None else self.footprint_bytes(key) / ASSUMED_LOAD_BYTES_PER_S

    def declare(self, key: ModelKey, size_bytes: int) -> None:
        """Remember what configuration says a model needs."""
        self._declared[key] = size_bytes

    # -- a model's way in and out

    def reserve(self, key: ModelKey, *, now: float) -> Holding:
        """Promise a model its footprint; the caller has made sure that it is free."""
        size_bytes = self.footprint_bytes(key)
        assert key not in self._held, f"{key.id} is held already"
        assert size_bytes <= self.free_bytes, f"{key.id} was promised bytes that are not free"
        held = Holding(key=key, size_bytes=size_bytes, state=HoldingState.RESERVED, since=now, last_used=now)
        self._held[key] = held
        return held

    def commit(self, key: ModelKey, *, now: float, load_s: float) -> None:
        """Turn a reservation into a resident."""
        held = self._held[key]
        assert held.state is HoldingState.RESERVED, f"{key.id} was not being loaded"
        held.state = HoldingState.RESIDENT
        held.since = held.last_used = now
        self._load_s[key] = load_s

    def abandon(self, key: ModelKey) -> None:
        """Take a promise back: the load failed."""
        assert self._held[key].state is HoldingState.RESERVED, f"{key.id} was not being loaded"
        del self._held[key]

    def begin_unload(self, key: ModelKey) -> None:
        """Mark an idle resident as leaving; its bytes stay held."""
        held = self._held[key]
        assert held.state is HoldingState.RESIDENT, f"{key.id} is not resident"
        assert held.leases == 0, f"{key.id} is in use"
        held.state = HoldingState.UNLOADING

    def finish_unload(self, key: ModelKey, *, now: float) -> None:
        """Free the bytes of a model that is really gone."""
        assert self._held[key].state is HoldingState.UNLOADING, f"{key.id} was not leaving"
        self._drop(key, now=now)

    def fail_unload(self, key: ModelKey, *, retry_at: float) -> None:
        """Take a model for resident again: it did not go."""
        held = self._held[key]
        assert held.state is HoldingState.UNLOADING, f"{key.id} was not leaving"
        held.state = HoldingState.RESIDENT
        held.retry_unload_at = retry_at

    def _drop(self, key: ModelKey, *, now: float) -> None:
        assert self._held[key].leases == 0, f"{key.id} is in use"
        del self._held[key]
        self._gone_at[key] = now

    # -- leases

    def is_resident(self, key: ModelKey) -> bool:
        """Tell whether a model is loaded and may be used."""
        held = self._held.get(key)
        return held is not None and held.state is HoldingState.RESIDENT

    def lease(self, key: ModelKey, *, now: float) -> bool:
        """Count one more use of a resident; False when it is not resident."""
        held = self._held.get(key)
        if held is None or held.state is not HoldingState.RESIDENT:
            return False
        held.leases += 1
        held.last_used = now
        return True

    def drain(self, key: ModelKey) -> None:
        """Mark one lease as draining; it counts as a use until it is released."""
        held = self._held[key]
        held.draining += 1
        assert held.draining <= held.leases, f"{key.id} drains more leases than it has"

    def release(self, key: ModelKey, *, now: float, drained: bool = False) -> None:
        """Count one use less; `drained` when that lease was draining."""
        held = self._held[key]
        held.leases -= 1
        held.draining -= drained
        held.last_used = now
        assert 0 <= held.draining <= held.leases, f"{key.id} has released more leases than it gave"

    # -- what the engines say

    def observe(
        self, backend: str, models: Iterable[LoadedModel], *, asked_at: float, now: float
    ) -> tuple[Collection[ModelKey], Collection[ModelKey]]:
        """Take an engine's word, asked for at `asked_at`; return the models that appeared and those that vanished.

        What changed here after the question was put is believed over the answer; a resident in use is never dropped.
        """
        sizes: dict[ModelKey, int | None] = {}
        for model in models:
            size_bytes = model.vram_bytes if model.vram_bytes is not None else model.size_bytes
            sizes[self.names.canonical(ModelKey(backend, model.id))] = size_bytes
        appeared = [key for key in sizes if key not in self._held and self._gone_at.get(key, -math.inf) < asked_at]
        vanished = [
            held.key
            for held in self._held.values()
            if held.key.backend == backend
            and held.key not in sizes
            and held.state is HoldingState.RESIDENT
            and held.leases == 0
            and max(held.since, held.last_used) < asked_at
        ]
        for key in vanished:
            self._drop(key, now=now)
        for key in appeared:
            self._held[key] = Holding(
                key=key, size_bytes=self.footprint_bytes(key), state=HoldingState.RESIDENT, since=now, last_used=now
            )
        for key, size in sizes.items():
            self._measure(key, size)
        return appeared, vanished

    def _measure(self, key: ModelKey, size_bytes: int | None) -> None:
        """Let a measured size replace the estimate; of a model that is coming or going it would be half the truth."""
        held = self._held.get(key)
        if held is None or held.state is not HoldingState.RESIDENT or size_bytes is None:
            return
        held.size_bytes = self._measured[key] = size_bytes
        held.measured = True

    def check(self) -> None:
        """Assert every invariant of the books."""
        for key, held in self._held.items():
            assert held.key == key == self.names.canonical(key)
            assert held.size_bytes >= 0
            assert 0 <= held.draining <= held.leases
            assert held.leases == 0 or held.state is HoldingState.RESIDENT
