"""Who has to go: pure choices over values."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, TypeAlias

from .holding import HoldingState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from .ledger import VRAMLedger
    from .names import ModelKey
    from .policy import UnloadStrategy

EXHAUSTIVE_UP_TO = 10
"""Candidates up to which strategy `cost` looks at every set (1024 of them)."""
FORGOTTEN_AFTER_S = 300.0
"""After so long unused a model is worth half of what its load costs."""

Enough: TypeAlias = "Callable[[Collection[ModelKey]], bool]"
"""Tells whether it would be enough if these residents were gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A resident as the choice sees it. `reload_s` is what it costs to bring it back."""

    key: ModelKey
    size_bytes: int
    last_used: float
    idle: bool = True
    pinned: bool = False
    reload_s: float = 0.0


def candidates_of(ledger: VRAMLedger, *, now: float, residency: float = 0.0) -> tuple[Candidate, ...]:
    """Return the residents of a ledger.

    One that would not go just now, or that we loaded less than `residency` times its load time ago, is not idle.
    """
    return tuple(
        Candidate(
            key=held.key,
            size_bytes=held.size_bytes,
            last_used=held.last_used,
            idle=held.leases == 0
            and held.retry_unload_at <= now
            and now >= held.loaded_at + residency * ledger.load_s(held.key),
            pinned=ledger.stays(held.key),
            reload_s=ledger.load_s(held.key),
        )
        for held in ledger.holdings()
        if held.state is HoldingState.RESIDENT
    )


def choose_victims(
    candidates: Iterable[Candidate], enough: Enough, *, strategy: UnloadStrategy = "lru", now: float = 0.0
) -> tuple[ModelKey, ...] | None:
    """Return idle, unpinned residents that together are enough, none of them superfluous; None if impossible.

    `lru` spares the most recently used, `largest` takes the biggest first, `cost` takes the set that is quickest to
    load again for how long it has not been used: the longer unused, the less it is worth keeping.
    """
    if enough(()):
        return ()
    able = [item for item in candidates if item.idle and not item.pinned and item.size_bytes > 0]
    if not enough([item.key for item in able]):
        return None
    if strategy == "largest":
        able.sort(key=lambda item: (-item.size_bytes, item.last_used, item.key))
    elif strategy == "lru":
        able.sort(key=lambda item: (item.last_used, item.key))
    elif len(able) <= EXHAUSTIVE_UP_TO:
        return _cheapest(able, enough, now)
    else:
        able.sort(key=lambda item: (_worth(item, now) / item.size_bytes, item.last_used, item.key))
    return tuple(item.key for item in _shortest(able, enough))


def choose_closing(
    candidates: Iterable[Candidate], enough: Enough, *, already: Collection[ModelKey]
) -> tuple[ModelKey, ...] | None:
    """Return the unpinned residents, busy ones too, that shall drain to be enough; None if all of them were too little.

    Those closed already come first, so that a choice once made stands; then idle ones; then by last use.
    """
    able = [item for item in candidates if not item.pinned and item.size_bytes > 0]
    if not enough([item.key for item in able]):
        return None
    able.sort(key=lambda item: (item.key not in already, not item.idle, item.last_used, item.key))
    return tuple(item.key for item in _shortest(able, enough))


def _worth(item: Candidate, now: float) -> float:
    """What keeping it is worth: its load, less and less the longer nobody has used it."""
    return item.reload_s / (1.0 + max(0.0, now - item.last_used) / FORGOTTEN_AFTER_S)


def _shortest(ordered: Sequence[Candidate], enough: Enough) -> list[Candidate]:
    """Take from the front until it is enough, then give back, from the end, whatever was not needed."""
    taken: list[Candidate] = []
    for item in ordered:
        if enough([one.key for one in taken]):
            break
        taken.append(item)
    for item in reversed(taken.copy()):
        if enough([one.key for one in taken if one is not item]):
            taken.remove(item)
    return taken


def _cheapest(able: Sequence[Candidate], enough: Enough, now: float) -> tuple[ModelKey, ...]:
    groups = sorted(
        (group for count in range(1, len(able) + 1) for group in combinations(able, count)),
        key=lambda group: (
            sum(_worth(item, now) for item in group),
            len(group),
            sum(item.size_bytes for item in group),
            max(item.last_used for item in group),
            [item.key for item in group],
        ),
    )
    return tuple(item.key for item in next(group for group in groups if enough([item.key for item in group])))
