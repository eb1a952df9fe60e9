"""What to do next for the requests that wait: the part of the decision tree that weighs memory.

The numbers in comments are those of `DESIGN.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from .eviction import candidates_of, choose_closing, choose_victims
from .order import by_turn, is_old

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from .ledger import VRAMLedger
    from .names import ModelKey
    from .placement import Placement
    from .policy import GatePolicy
    from .queue import WaitQueue


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Reserve the model's footprint and load it."""

    key: ModelKey
    placement: Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class Evict:
    """Unload these idle residents, so that `key` fits."""

    victims: tuple[ModelKey, ...]
    key: ModelKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """Let these residents take no new requests, so that they drain for `key`."""

    residents: frozenset[ModelKey]
    key: ModelKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Send all who wait for the model away: `need_bytes` of at most `limit_bytes`."""

    key: ModelKey
    need_bytes: int
    limit_bytes: int


Step: TypeAlias = Load | Evict | Close | Refuse


def decide(
    ledger: VRAMLedger,
    queue: WaitQueue,
    policy: GatePolicy,
    *,
    closing: Mapping[ModelKey, Collection[ModelKey]],
    now: float,
) -> Step | None:
    """Return the next step; None when all who wait have to go on waiting.

    Groups are walked by turn (see `order`). One that waits for memory on its way keeps the devices it will use: nobody
    after it may take them. One that waits for busy models lets others pass, until it is old enough to close them.
    """
    taken = set(ledger.loading_on())  # 5
    for key in by_turn(queue, ledger, policy, now=now):
        need_bytes, limit_bytes = ledger.footprint_bytes(key), ledger.reachable_bytes(key)
        if need_bytes > limit_bytes:  # 7.1
            return Refuse(key=key, need_bytes=need_bytes, limit_bytes=limit_bytes)
        held = ledger.get(key)
        if held is not None:  # 7.2
            taken |= held.placement.keys()
            continue
        where = partial(ledger.where, key, without=taken)
        fits = where()
        if fits is not None:  # 7.3
            return Load(key=key, placement=fits)
        coming = where(coming=True)
        if coming is not None:  # 7.4
            taken |= coming.keys()
            continue
        if not policy.auto_unload:
            if ledger.where(key, coming=True) is not None:
                continue  # 5: it is only its turn that has not come
            return Refuse(key=key, need_bytes=need_bytes, limit_bytes=max(0, ledger.free_bytes))  # 7.5
        old = is_old(key, queue, policy, now=now)
        candidates = candidates_of(ledger, now=now, residency=0.0 if old else policy.min_residency)

        def enough(gone: Collection[ModelKey], where: partial[dict[str, int] | None] = where) -> bool:
            return where(gone=gone, coming=True) is not None

        victims = choose_victims(candidates, enough, strategy=policy.unload_strategy, now=now)
        if victims is not None:  # 7.6
            return Evict(victims=victims, key=key)
        if not old:  # 7.8
            continue
        chosen = choose_closing(candidates, enough, already=closing.get(key, ()))
        if chosen is None:
            continue  # others hold the memory, or its devices are taken
        if frozenset(chosen) != closing.get(key):  # 7.7
            return Close(residents=frozenset(chosen), key=key)
        taken |= (where(gone=chosen, coming=True) or {}).keys()
    return None
