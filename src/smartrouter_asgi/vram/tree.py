"""What to do next for the requests that wait: the part of the decision tree that weighs memory.

The numbers in comments are those of `DESIGN.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from .eviction import candidates_of, choose_closing, choose_victims
from .holding import HoldingState
from .order import by_turn, has_turn_left, is_old

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

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


class _Owed:
    """What the groups looked at so far are owed, each where it will go: nobody after them may take it.

    A device has one load at a time; a limit over several devices is shared by what goes to any of them.
    """

    def __init__(self, ledger: VRAMLedger) -> None:
        self._ledger = ledger
        self._loading = ledger.loading_on()  # 5
        self._devices: set[str] = set()
        self._together_bytes = 0
        self._leaving: set[ModelKey] = set()

    def where(
        self, key: ModelKey, *, gone: Collection[ModelKey] = (), coming: bool = False, after_loads: bool = False
    ) -> dict[str, int] | None:
        """Return where a model would go beside what is owed; None where it does not fit.

        `gone` and `coming` as in `VRAMLedger.where`. `after_loads`: once the loads under way have ended.
        """
        ledger = self._ledger
        taken = self._devices if after_loads else self._devices | self._loading
        placement = ledger.where(key, gone=gone, coming=coming, without=taken)
        if placement is None or not self._together_bytes:
            return placement
        left_bytes = ledger.room_together(gone={*gone, *self._leaving}, coming=True) - self._together_bytes
        return placement if ledger.devices.together(placement) <= left_bytes else None

    def keep(self, devices: Iterable[str]) -> None:
        """Let nothing new go to these devices."""
        self._devices.update(devices)

    def owe(self, placement: Placement, *, gone: Collection[ModelKey] = ()) -> None:
        """Keep a place for a group whose turn it is, which it can take once the models in `gone` have left."""
        self.keep(placement)
        self._together_bytes += self._ledger.devices.together(placement)
        self._leaving.update(gone)


def decide(
    ledger: VRAMLedger,
    queue: WaitQueue,
    policy: GatePolicy,
    *,
    closing: Mapping[ModelKey, Collection[ModelKey]],
    now: float,
) -> Step | None:
    """Return the next step; None when all who wait have to go on waiting.

    Groups are walked by turn (see `order`). One that waits for memory on its way is owed the place it will take: nobody
    after it may have it. One that waits for busy models lets others pass, until it is old enough to close them.
    """
    owed = _Owed(ledger)
    for key in by_turn(queue, ledger, policy, now=now):
        need_bytes, limit_bytes = ledger.footprint_bytes(key), ledger.reachable_bytes(key)
        if need_bytes > limit_bytes:  # 7.1
            return Refuse(key=key, need_bytes=need_bytes, limit_bytes=limit_bytes)
        held = ledger.get(key)
        if held is not None:  # 7.2
            if held.state is not HoldingState.RESERVED:
                owed.owe(held.placement)
            continue
        where = partial(owed.where, key)
        fits = where()
        if fits is not None:  # 7.3
            return Load(key=key, placement=fits)
        coming = where(coming=True)
        if coming is not None:  # 7.4
            owed.owe(coming)
            continue
        if not policy.auto_unload:
            later = where(coming=True, after_loads=True)
            if later is not None:
                owed.owe(later)  # 5: it is only its turn that has not come
            elif ledger.where(key, coming=True) is None:  # 7.5
                return Refuse(key=key, need_bytes=need_bytes, limit_bytes=max(0, ledger.free_bytes))
            continue
        old = is_old(key, queue, policy, now=now)
        candidates = candidates_of(ledger, now=now, residency=0.0 if old else policy.min_residency)

        def enough(gone: Collection[ModelKey], where: partial[dict[str, int] | None] = where) -> bool:
            return where(gone=gone, coming=True) is not None

        victims = choose_victims(candidates, enough, strategy=policy.unload_strategy, now=now)
        if victims is not None:  # 7.6
            return Evict(victims=victims, key=key)
        if not old:  # 7.8
            continue
        in_its_way = [item for item in candidates if not _is_wanted_before(item.key, key, queue)]
        chosen = choose_closing(in_its_way, enough, already=closing.get(key, ()))
        if chosen and key not in closing and has_turn_left(key, chosen, ledger, queue, policy, now=now):  # 7.7
            owed.owe(where(gone=chosen, coming=True) or {}, gone=chosen)
            continue
        if frozenset(chosen or ()) != closing.get(key, frozenset()):  # 7.7
            return Close(residents=frozenset(chosen or ()), key=key)
        if chosen is not None:
            owed.owe(where(gone=chosen, coming=True) or {}, gone=chosen)
            continue
        everybody = tuple(held.key for held in ledger.holdings() if not ledger.stays(held.key))
        placement = where(gone=everybody, coming=True, after_loads=True)
        if placement is not None:  # 7.9: a load under way is in its way
            owed.owe(placement, gone=everybody)
        else:  # 7.9: it stands behind others, or others hold the memory
            owed.keep(ledger.where(key, gone=everybody, coming=True) or ())
    return None


def _is_wanted_before(resident: ModelKey, key: ModelKey, queue: WaitQueue) -> bool:
    """Whether older requests than those for `key` wait for a (closed) resident: it would be opened for them at once."""
    return resident in queue and queue.oldest(resident).since < queue.oldest(key).since
