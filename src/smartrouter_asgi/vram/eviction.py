"""Who has to go: pure choices over values."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from .ledger import HoldingState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from .ledger import VRAMLedger
    from .names import ModelKey
    from .policy import UnloadStrategy

EXHAUSTIVE_UP_TO = 12
"""Candidates up to which strategy `cost` looks at every set (4096 of them)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A resident as the choice sees it. `reload_s` is what it costs to bring it back."""

    key: ModelKey
    size_bytes: int
    last_used: float
    idle: bool = True
    pinned: bool = False
    reload_s: float = 0.0


def candidates_of(ledger: VRAMLedger, *, now: float) -> tuple[Candidate, ...]:
    """Return the residents of a ledger; one that would not go just now does not count as idle."""
    return tuple(
        Candidate(
            key=held.key,
            size_bytes=held.size_bytes,
            last_used=held.last_used,
            idle=held.leases == 0 and held.retry_unload_at <= now,
            pinned=ledger.names.is_pinned(held.key),
            reload_s=ledger.load_s(held.key),
        )
        for held in ledger.holdings()
        if held.state is HoldingState.RESIDENT
    )


def choose_victims(
    candidates: Iterable[Candidate], need_bytes: int, *, strategy: UnloadStrategy = "lru"
) -> tuple[ModelKey, ...] | None:
    """Return idle, unpinned residents that together free `need_bytes`, none of them superfluous; None if impossible.

    `lru` spares the most recently used, `largest` takes the biggest first, `cost` takes the set that is quickest to
    load again.
    """
    if need_bytes <= 0:
        return ()
    able = [item for item in candidates if item.idle and not item.pinned and item.size_bytes > 0]
    if sum(item.size_bytes for item in able) < need_bytes:
        return None
    if strategy == "largest":
        able.sort(key=lambda item: (-item.size_bytes, item.last_used, item.key))
    elif strategy == "lru":
        able.sort(key=lambda item: (item.last_used, item.key))
    elif len(able) <= EXHAUSTIVE_UP_TO:
        return _cheapest(able, need_bytes)
    else:
        able.sort(key=lambda item: (item.reload_s / item.size_bytes, item.last_used, item.key))
    return tuple(item.key for item in _shortest(able, need_bytes))


def choose_closing(
    candidates: Iterable[Candidate], need_bytes: int, *, already: Collection[ModelKey]
) -> tuple[ModelKey, ...]:
    """Return the unpinned residents, busy ones too, that shall drain so that `need_bytes` come free.

    Those closed already come first, so that a choice once made stands; then idle ones; then by last use. All of them
    when even that is too little.
    """
    able = [item for item in candidates if not item.pinned and item.size_bytes > 0]
    able.sort(key=lambda item: (item.key not in already, not item.idle, item.last_used, item.key))
    return tuple(item.key for item in _shortest(able, need_bytes))


def _shortest(ordered: Sequence[Candidate], need_bytes: int) -> list[Candidate]:
    """Take from the front until it is enough, then give back, from the end, whatever was not needed."""
    taken: list[Candidate] = []
    freed_bytes = 0
    for item in ordered:
        if freed_bytes >= need_bytes:
            break
        taken.append(item)
        freed_bytes += item.size_bytes
    for item in reversed(taken.copy()):
        if freed_bytes - item.size_bytes >= need_bytes:
            taken.remove(item)
            freed_bytes -= item.size_bytes
    return taken


def _cheapest(able: Sequence[Candidate], need_bytes: int) -> tuple[ModelKey, ...]:
    enough = (
        group
        for count in range(1, len(able) + 1)
        for group in combinations(able, count)
        if sum(item.size_bytes for item in group) >= need_bytes
    )
    best = min(
        enough,
        key=lambda group: (
            sum(item.reload_s for item in group),
            len(group),
            sum(item.size_bytes for item in group),
            max(item.last_used for item in group),
            [item.key for item in group],
        ),
    )
    return tuple(item.key for item in best)
