"""Whose turn it is: the order in which waiting groups are looked at. Pure.

1. Groups whose oldest waiter is older than `fair_after`, the oldest first: nobody starves.
2. Then by waiters x age / load time: what serves most for a load goes first, and grows with every second it waits.

A priority is worth time: a step up makes a request as old as if it had come ten seconds earlier, and a step down later.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .ledger import VRAMLedger
    from .names import ModelKey
    from .policy import GatePolicy
    from .queue import WaitQueue

LEAST_LOAD_S = 0.1
"""Loads are not told apart below this."""


def by_turn(queue: WaitQueue, ledger: VRAMLedger, policy: GatePolicy, *, now: float) -> tuple[ModelKey, ...]:
    """Return the models waited for, in the order in which they are looked at."""
    models = queue.models()
    if len(models) < 2:
        return models
    old = [key for key in models if is_old(key, queue, policy, now=now)]
    young = [key for key in models if key not in old]
    young.sort(key=lambda key: -score(key, queue, ledger, now=now))  # stable: ties go by age
    return (*old, *young)


def is_old(key: ModelKey, queue: WaitQueue, policy: GatePolicy, *, now: float) -> bool:
    """Whether a model's oldest waiter has waited long enough to be owed the memory."""
    return now >= queue.oldest(key).since + policy.fair_after_s


def has_turn_left(
    key: ModelKey,
    residents: Iterable[ModelKey],
    ledger: VRAMLedger,
    queue: WaitQueue,
    policy: GatePolicy,
    *,
    now: float,
) -> bool:
    """Whether closing residents for `key` now would undo a load for little: one of them has hardly served since.

    Only one that was ahead of those who wait now, for whom its turn costs no more than one load beside `fair_after_s`.
    And only while a single model has waited for too long: where several have, each would wait for every turn.
    """
    old = [one for one in queue.models() if ledger.get(one) is None and is_old(one, queue, policy, now=now)]
    if len(old) > 1:
        return False
    since = queue.oldest(key).since
    return any(
        held.wanted_since <= since
        and now < min(turn_ends(held.key, ledger, policy), since + policy.fair_after_s + ledger.load_s(held.key))
        for held in map(ledger.get, residents)
        if held is not None
    )


def turn_ends(key: ModelKey, ledger: VRAMLedger, policy: GatePolicy) -> float:
    """Return until when a resident that we loaded may serve undisturbed."""
    held = ledger.get(key)
    turn_s = min(policy.min_turn * ledger.load_s(key), policy.fair_after_s)
    return -math.inf if held is None else held.loaded_at + turn_s


def score(key: ModelKey, queue: WaitQueue, ledger: VRAMLedger, *, now: float) -> float:
    """Return how much a load of this model is worth now."""
    waiting, age_s = queue.count(key), now - queue.oldest(key).since
    return waiting * max(0.0, age_s) / max(LEAST_LOAD_S, ledger.load_s(key))
