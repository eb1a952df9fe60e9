"""How long a request would wait for its model if it came now: a guess, for Retry-After and for going elsewhere.

It is made of what is known: the loads under way, those of the groups that would go first, its own, and how long those
that use the memory have kept it lately. Several devices load side by side, as far as its backend uses them.
"""

from __future__ import annotations

import math
from itertools import takewhile
from typing import TYPE_CHECKING

from .eviction import candidates_of, choose_closing, choose_victims
from .holding import HoldingState
from .order import by_turn

if TYPE_CHECKING:
    from collections.abc import Collection

    from .ledger import VRAMLedger
    from .names import ModelKey
    from .policy import GatePolicy
    from .queue import WaitQueue


def projected_wait_s(key: ModelKey, ledger: VRAMLedger, queue: WaitQueue, policy: GatePolicy, *, now: float) -> float:
    """Return the seconds until a model that is not open to requests would be; infinity when it can never be."""
    held = ledger.get(key)
    if held is not None and held.state is HoldingState.RESERVED:
        return _left_s(key, ledger, now=now)
    if ledger.footprint_bytes(key) > ledger.reachable_bytes(key):
        return math.inf
    rule = ledger.rule(key.backend)
    devices = set(rule.devices)
    lanes = 1 if rule.split else max(1, len(devices))
    under_way_s = sum(
        _left_s(other.key, ledger, now=now) * min(lanes, len(devices & set(other.placement)))
        for other in ledger.holdings()
        if other.state is HoldingState.RESERVED
    )
    ahead_s = sum(
        ledger.load_s(other)
        for other in takewhile(lambda other: other != key, by_turn(queue, ledger, policy, now=now))
        if queue.oldest(other).since <= now  # else whoever comes now goes before it
        and ledger.get(other) is None
        and devices & set(ledger.rule(other.backend).devices)
    )
    own_s = ledger.load_s(key) if ledger.has_loaded(key) else 0.0  # a first load is not held against a model
    since = min(now, queue.oldest(key).since) if key in queue else now
    fair_s = max(0.0, since + policy.fair_after_s - now)
    return (under_way_s + ahead_s) / lanes + _drain_s(key, ledger, policy, fair_s=fair_s, now=now) + own_s


def _left_s(key: ModelKey, ledger: VRAMLedger, *, now: float) -> float:
    """Return how long a load under way will still take."""
    held = ledger.get(key)
    return 0.0 if held is None else max(0.0, held.since + ledger.load_s(key) - now)


def _drain_s(key: ModelKey, ledger: VRAMLedger, policy: GatePolicy, *, fair_s: float, now: float) -> float:
    """Return how long it takes until the memory can be had: nothing where idle models can go, else until they may.

    Those just loaded stay for a while, but not longer than `fair_s`, when this model's waiters are old. Busy ones are
    closed then, and drain as long as their uses last.
    """

    def enough(gone: Collection[ModelKey]) -> bool:
        return ledger.where(key, gone=gone, coming=True) is not None

    if choose_victims(candidates_of(ledger, now=now, residency=policy.min_residency), enough) is not None:
        return 0.0
    candidates = candidates_of(ledger, now=now)
    fresh = choose_victims(candidates, enough)
    if fresh is not None:
        return max(0.0, min(fair_s, max(_stays_s(other, ledger, policy, now=now) for other in fresh)))
    closing = choose_closing(candidates, enough, already=())
    if closing is None:  # others hold it: nobody knows for how long
        return policy.max_wait_s
    return max((_busy_s(other, ledger, fair_s=fair_s) for other in closing), default=0.0)


def _busy_s(key: ModelKey, ledger: VRAMLedger, *, fair_s: float) -> float:
    """Return how long a resident will be in use: as long as its one use lasts, or until it is closed and has drained.

    A model with a single use is likely to be idle after it; one with several always has another one.
    """
    held = ledger.get(key)
    served_s = ledger.served_s(key)
    return served_s if held is not None and held.leases < 2 and served_s > 0 else fair_s + served_s


def _stays_s(key: ModelKey, ledger: VRAMLedger, policy: GatePolicy, *, now: float) -> float:
    """Return for how long a resident is not to be evicted because it was loaded just now."""
    held = ledger.get(key)
    return 0.0 if held is None else held.loaded_at + policy.min_residency * ledger.load_s(key) - now
