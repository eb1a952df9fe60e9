"""Who holds how many bytes of which device's memory: pure book-keeping, no clock, no decisions.

Bytes are held from the reservation until the unload is confirmed: what may not be free is not believed free. What
others hold on a device (`outside`) is respected; it is never ours to free.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .devices import Devices
from .holding import Holding, HoldingState
from .names import ModelKey, ModelNames
from .placement import PlacementRule, force, place, resize

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from ..deployment import LoadedModel
    from .placement import Placement


NEWEST_SHARE = 0.2
"""Weight of the newest use in the average of how long uses last."""
ASSUMED_LOAD_BYTES_PER_S = 1024**3
"""Speed of a load never seen: weights from a good disk."""


class VRAMLedger:
    """The books of the devices: holdings, leases on them, and what models were seen to need.

    `budget` is that of one device, or the devices. `rules` say which devices a backend uses (default: all of them, one
    for each model).
    """

    def __init__(
        self,
        budget: int | Devices,
        *,
        default_estimate_bytes: int,
        pinned: Iterable[str] = (),
        rules: Mapping[str, PlacementRule] | None = None,
    ) -> None:
        self.devices = budget if isinstance(budget, Devices) else Devices.of(budget)
        self.names = ModelNames(pinned)
        self._rules = dict(rules or {})
        self._any = PlacementRule(devices=tuple(self.devices))
        self._default_estimate_bytes = default_estimate_bytes
        self._held: dict[ModelKey, Holding] = {}
        self._measured: dict[ModelKey, int] = {}
        self._declared: dict[ModelKey, int] = {}
        self._estimated: dict[ModelKey, int] = {}
        self._served_s: dict[ModelKey, float] = {}
        self._load_s: dict[ModelKey, float] = {}
        self._gone_at: dict[ModelKey, float] = {}
        self._unloaded: dict[ModelKey, tuple[float, Placement]] = {}

    # -- reading

    @property
    def budget_bytes(self) -> int:
        """What may be held in all."""
        return self.devices.budget_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes held in all: reserved, resident and unloading."""
        return sum(held.size_bytes for held in self._held.values())

    @property
    def free_bytes(self) -> int:
        """What could be held in all beside what is; negative when the engines took more by themselves."""
        return min(self.budget_bytes - self.used_bytes, sum(self.room().values()))

    def rule(self, backend: str) -> PlacementRule:
        """Return which devices a backend uses."""
        return self._rules.get(backend, self._any)

    def held_on(self, device: str) -> int:
        """Return the bytes held on a device: reserved, resident and unloading."""
        return sum(held.placement.get(device, 0) for held in self._held.values())

    def bounds_on(self, device: str, *, asked_at: float) -> tuple[int, int]:
        """Return the least and the most that we held on a device when it was read, at `asked_at` or since.

        Whether a load or an unload under way has got or given back its bytes already nobody can tell; nor, of one that
        has ended since, whether it was before the reading or after it.
        """
        least_bytes = sum(
            held.placement.get(device, 0)
            for held in self._held.values()
            if held.state is HoldingState.RESIDENT and held.loaded_at <= asked_at
        )
        freed_bytes = sum(placement.get(device, 0) for at, placement in self._unloaded.values() if at > asked_at)
        return least_bytes, self.held_on(device) + freed_bytes

    def loading_on(self) -> frozenset[str]:
        """Return the devices on which a load is under way."""
        return frozenset(
            device for held in self._held.values() if held.state is HoldingState.RESERVED for device in held.placement
        )

    def room(self, *, gone: Collection[ModelKey] = (), coming: bool = False) -> dict[str, int]:
        """Return what each device has left, as if the models in `gone` had left.

        `coming`: and those that are leaving already. A device that cannot be read has no room.
        """
        held_bytes = dict.fromkeys(self.devices, 0)
        for held in self._held.values():
            if held.key not in gone and not (coming and held.state is HoldingState.UNLOADING):
                for device, size_bytes in held.placement.items():
                    held_bytes[device] = held_bytes.get(device, 0) + size_bytes
        return {device: self.devices.room(device, held_bytes[device]) for device in self.devices}

    def where(
        self,
        key: ModelKey,
        *,
        gone: Collection[ModelKey] = (),
        coming: bool = False,
        without: Collection[str] = (),
    ) -> dict[str, int] | None:
        """Return where a model would go on the devices that are not in `without`; None where it does not fit."""
        room = {d: free for d, free in self.room(gone=gone, coming=coming).items() if d not in without}
        placement = place(self.footprint_bytes(key), room, self.rule(key.backend))
        if placement is None:
            return None
        fits = self.devices.together(placement) <= self.room_together(gone=gone, coming=coming)
        return placement if fits else None

    def room_together(self, *, gone: Collection[ModelKey] = (), coming: bool = False) -> int:
        """Return what is left of the limit over the counted devices together, as `room` does for each."""
        return self.devices.most_together() - sum(
            self.devices.together(held.placement)
            for held in self._held.values()
            if held.key not in gone and not (coming and held.state is HoldingState.UNLOADING)
        )

    def reachable_bytes(self, key: ModelKey) -> int:
        """Return the most that could ever be free for a model: what is ours to give less what is pinned there.

        Memory that others hold counts as free: they may leave.
        """
        pinned = [
            held
            for held in self._held.values()
            if held.key != key and held.state is not HoldingState.UNLOADING and self.stays(held.key)
        ]
        rule = self.rule(key.backend)
        rooms = [
            self.devices.most(device) - sum(held.placement.get(device, 0) for held in pinned) for device in rule.devices
        ]
        most = sum(max(0, room) for room in rooms) if rule.split else max(rooms, default=0)
        if not self.devices.together(dict.fromkeys(rule.devices, 1)):
            return most
        kept = sum(self.devices.together(held.placement) for held in pinned)
        return min(most, self.devices.most_together() - kept)

    def holdings(self) -> tuple[Holding, ...]:
        """Return every holding, oldest entry first."""
        return tuple(self._held.values())

    def get(self, key: ModelKey) -> Holding | None:
        """Return the holding of a model, if it has one."""
        return self._held.get(key)

    def footprint_bytes(self, key: ModelKey) -> int:
        """Return what a model needs: as declared, else as measured, else as estimated, else the default estimate.

        One that was measured to need more than declared needs what was measured.
        """
        measured, declared = self._measured.get(key), self._declared.get(key)
        if declared is not None:
            return declared if measured is None else max(declared, measured)
        return measured if measured is not None else self._estimated.get(key, self._default_estimate_bytes)

    def has_loaded(self, key: ModelKey) -> bool:
        """Tell whether a load of the model was ever timed."""
        return key in self._load_s

    def load_s(self, key: ModelKey) -> float:
        """Return how long the model's last load took; before the first, what its bytes would take from a disk."""
        seen = self._load_s.get(key)
        return seen if seen is not None else self.footprint_bytes(key) / ASSUMED_LOAD_BYTES_PER_S

    def fix(self, key: ModelKey, size_bytes: int) -> None:
        """Count a model that is there for good: its engine neither loads nor unloads."""
        placement = force(size_bytes, self.room(), self.rule(key.backend))
        self._held[key] = Holding(
            key=key, placement=placement, state=HoldingState.RESIDENT, since=-math.inf, last_used=-math.inf, fixed=True
        )

    def stays(self, key: ModelKey) -> bool:
        """Tell whether a model is not to be evicted: pinned, or there for good."""
        held = self._held.get(key)
        return self.names.is_pinned(key) or (held is not None and held.fixed)

    def declare(self, key: ModelKey, size_bytes: int) -> None:
        """Remember what configuration says a model needs."""
        self._declared[key] = size_bytes

    def estimate(self, key: ModelKey, size_bytes: int) -> None:
        """Remember what a model should need, by what is known of its file."""
        self._estimated[key] = size_bytes

    def recall(self, key: ModelKey, size_bytes: int) -> None:
        """Remember what a model was measured to need in an earlier run, unless it was measured in this one."""
        self._measured.setdefault(key, size_bytes)

    def measured_bytes(self, key: ModelKey) -> int | None:
        """Return what a model was measured to need; None when it never was."""
        return self._measured.get(key)

    def served_s(self, key: ModelKey) -> float:
        """Return how long a use of a model lasts, on average lately; 0 when nothing is known."""
        return self._served_s.get(key, 0.0)

    # -- a model's way in and out

    def reserve(self, key: ModelKey, placement: Placement, *, now: float, wanted_since: float = math.inf) -> Holding:
        """Promise a model its footprint; the caller has made sure that it is free there."""
        assert key not in self._held, f"{key.id} is held already"
        room = self.room()
        assert all(size_bytes <= room[device] for device, size_bytes in placement.items()), f"{key.id} does not fit"
        together = sum(map(self.devices.together, (placement, *(held.placement for held in self._held.values()))))
        assert together <= self.devices.most_together(), f"{key.id} is over the budget"
        held = Holding(
            key=key,
            placement=placement,
            state=HoldingState.RESERVED,
            since=now,
            last_used=now,
            wanted_since=wanted_since,
        )
        self._held[key] = held
        return held

    def commit(self, key: ModelKey, *, now: float, load_s: float) -> None:
        """Turn a reservation into a resident."""
        held = self._held[key]
        assert held.state is HoldingState.RESERVED, f"{key.id} was not being loaded"
        held.state = HoldingState.RESIDENT
        held.since = held.last_used = held.loaded_at = now
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
        held = self._held[key]
        assert held.state is HoldingState.UNLOADING, f"{key.id} was not leaving"
        self._unloaded[key] = (now, held.placement)
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

    def release(self, key: ModelKey, *, now: float, drained: bool = False, held_s: float | None = None) -> None:
        """Count one use less; `drained` when that lease was draining, `held_s` how long it was held."""
        held = self._held[key]
        held.leases -= 1
        held.draining -= drained
        held.last_used = now
        assert 0 <= held.draining <= held.leases, f"{key.id} has released more leases than it gave"
        if held_s is not None:
            known_s = self._served_s.get(key, held_s)
            self._served_s[key] = known_s + NEWEST_SHARE * (held_s - known_s)

    # -- what the engines say

    def observe(
        self, backend: str, models: Iterable[LoadedModel], *, asked_at: float, now: float
    ) -> tuple[Collection[ModelKey], Collection[ModelKey]]:
        """Take an engine's word, asked for at `asked_at`; return the models that appeared and those that vanished.

        What changed here after the question was put is believed over the answer; a resident in use is never dropped.
        """
        told: dict[ModelKey, LoadedModel] = {
            self.names.canonical(ModelKey(backend, model.id)): model for model in models
        }
        appeared = [key for key in told if key not in self._held and self._gone_at.get(key, -math.inf) < asked_at]
        vanished = [
            held.key
            for held in self._held.values()
            if held.key.backend == backend
            and held.key not in told
            and held.state is HoldingState.RESIDENT
            and not held.fixed
            and held.leases == 0
            and max(held.since, held.last_used) < asked_at
        ]
        for key in vanished:
            self._drop(key, now=now)
        for key in appeared:
            told_bytes = _told_bytes(told[key])
            need_bytes = self.footprint_bytes(key) if told_bytes is None else told_bytes
            placement = force(need_bytes, self.room(), self.rule(key.backend))
            self._held[key] = Holding(
                key=key, placement=placement, state=HoldingState.RESIDENT, since=now, last_used=now
            )
        for key, model in told.items():
            self._measure(key, model)
        return appeared, vanished

    def relocate(self, key: ModelKey, placement: Placement) -> None:
        """Correct where a model is."""
        held = self._held.get(key)
        if held is not None and held.state is HoldingState.RESIDENT:
            held.placement = placement

    def _measure(self, key: ModelKey, model: LoadedModel) -> None:
        """Let a measured size replace the estimate; of a model that is coming or going it would be half the truth."""
        held = self._held.get(key)
        size_bytes = _told_bytes(model)
        if held is None or held.state is not HoldingState.RESIDENT or size_bytes is None:
            return
        held.placement = resize(held.placement, size_bytes)
        held.measured = True
        held.offloaded_bytes = max(0, (model.size_bytes or 0) - size_bytes)
        if not held.offloaded_bytes and held.loaded_at > -math.inf:
            # What runs on the CPU in part needs more than it got; what others loaded may have another context.
            self._measured[key] = size_bytes

    def check(self) -> None:
        """Assert every invariant of the books."""
        for key, held in self._held.items():
            assert held.key == key == self.names.canonical(key)
            assert all(size_bytes >= 0 for size_bytes in held.placement.values())
            assert set(held.placement) <= set(self.devices)
            assert 0 <= held.draining <= held.leases
            assert held.leases == 0 or held.state is HoldingState.RESIDENT


def _told_bytes(model: LoadedModel) -> int | None:
    """Return what an engine tells that a model takes of GPU memory; where it tells only of all of it, that.

    None where that makes no sense. Nothing on the GPU does of a model that has a size, and is elsewhere then.
    """
    told_bytes = model.vram_bytes if model.vram_bytes is not None else model.size_bytes
    if told_bytes is None or told_bytes < 0 or max(told_bytes, model.size_bytes or 0) == 0:
        return None
    return told_bytes
