"""What to do next for the requests that wait: the part of the decision tree that weighs memory.

The numbers in comments are those of `DESIGN.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from .eviction import candidates_of, choose_closing, choose_victims

if TYPE_CHECKING:
    from collections.abc import Collection

    from .ledger import VRAMLedger
    from .names import ModelKey
    from .policy import GatePolicy
    from .queue import WaitQueue


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Reserve the model's footprint and load it."""

    key: ModelKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Evict:
    """Unload these idle residents, so that `key` fits."""

    victims: tuple[ModelKey, ...]
    key: ModelKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """Let these residents take no new requests, so that they drain for `key`."""

    residents: tuple[ModelKey, ...]
    key: ModelKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Send all who wait for the model away: `need_bytes` of at most `limit_bytes`."""

    key: ModelKey
    need_bytes: int
    limit_bytes: int


Step: TypeAlias = Load | Evict | Close | Refuse


def decide(
    ledger: VRAMLedger, queue: WaitQueue, policy: GatePolicy, *, closed: Collection[ModelKey], now: float
) -> Step | None:
    """Return the next step while nothing is being loaded; None when all who wait have to go on waiting.

    Groups are walked by the age of their oldest waiter. A younger one may pass an older one that has to wait for busy
    models, until the older one is old enough to close them.
    """
    for key in queue.models():
        need_bytes, free_bytes = ledger.footprint_bytes(key), ledger.free_bytes
        limit_bytes = ledger.reachable_bytes(key)
        if need_bytes > limit_bytes:  # 7.1
            return Refuse(key=key, need_bytes=need_bytes, limit_bytes=limit_bytes)
        if ledger.get(key) is not None:  # 7.2
            return None
        if need_bytes <= free_bytes:  # 7.3
            return Load(key=key)
        missing_bytes = need_bytes - free_bytes - ledger.coming_bytes
        if missing_bytes <= 0:  # 7.4
            return None
        if not policy.auto_unload:  # 7.5
            return Refuse(key=key, need_bytes=need_bytes, limit_bytes=free_bytes)
        candidates = candidates_of(ledger, now=now)
        victims = choose_victims(candidates, missing_bytes, strategy=policy.unload_strategy)
        if victims is not None:  # 7.6
            return Evict(victims=victims, key=key)
        if is_old(key, queue, policy, now=now):  # 7.7
            return Close(residents=choose_closing(candidates, missing_bytes, already=closed), key=key)
    return None  # 7.8


def is_old(key: ModelKey, queue: WaitQueue, policy: GatePolicy, *, now: float) -> bool:
    """Whether a model's oldest waiter has waited long enough to be owed the memory."""
    return now >= queue.oldest(key).since + policy.fair_after_s
