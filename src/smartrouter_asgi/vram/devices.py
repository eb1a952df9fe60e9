"""The devices whose memory is shared out, and what others hold on them: pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ONE = "gpu"
"""The device of a budget that names none."""


@dataclass(slots=True, kw_only=True, eq=False)
class Device:
    """One device. `limit_bytes` is what the gate may hold there, `total_bytes` what there is, where that is known."""

    id: str
    limit_bytes: int
    total_bytes: int | None = None
    margin_bytes: int = 0
    """Left alone, whoever holds the rest: what a driver tells is not to the byte."""
    name: str = ""
    index: int = 0
    outside_bytes: int = 0
    """What others hold there, as last seen."""
    known: bool = True
    """It can be read, or nobody needs to."""
    lost: bool = False
    """It is gone; or it cannot be read, and what cannot be read is not used (`vram.unknown: closed`)."""


class Devices:
    """All devices by id, and a limit over all of them together."""

    def __init__(
        self, devices: Iterable[Device], *, max_total_bytes: int | None = None, counted: Iterable[str] | None = None
    ) -> None:
        """Take the devices; `max_total_bytes` bounds what is held on the `counted` ones together (default: all)."""
        self._devices = {device.id: device for device in devices}
        self._max_total_bytes = max_total_bytes
        self._counted = frozenset(self._devices if counted is None else counted)

    @classmethod
    def of(cls, budget_bytes: int) -> Devices:
        """Return one device of this budget."""
        return cls([Device(id=ONE, limit_bytes=budget_bytes)])

    @property
    def budget_bytes(self) -> int:
        """What may be held on all devices together."""
        apart = sum(device.limit_bytes for device in self._devices.values() if device.id not in self._counted)
        return apart + self.most_together()

    def most_together(self) -> int:
        """Return what may be held on the counted devices together."""
        limits = sum(self._devices[device].limit_bytes for device in self._counted)
        return limits if self._max_total_bytes is None else min(limits, self._max_total_bytes)

    def together(self, placement: Mapping[str, int]) -> int:
        """Return how many bytes of a placement lie on the counted devices."""
        return sum(size_bytes for device, size_bytes in placement.items() if device in self._counted)

    def __iter__(self) -> Iterator[str]:
        return iter(self._devices)

    def __len__(self) -> int:
        return len(self._devices)

    def __getitem__(self, device: str) -> Device:
        return self._devices[device]

    def room(self, device: str, held_bytes: int) -> int:
        """Return what a device has left when we hold `held_bytes` there; negative when that is too much already."""
        it = self._devices[device]
        if it.lost:
            return 0
        left_bytes = it.limit_bytes - held_bytes
        if it.total_bytes is None:
            return left_bytes
        return min(left_bytes, it.total_bytes - it.margin_bytes - it.outside_bytes - held_bytes)

    def most(self, device: str) -> int:
        """Return what could be held on a device if nobody else held anything there."""
        it = self._devices[device]
        return it.limit_bytes if it.total_bytes is None else min(it.limit_bytes, it.total_bytes - it.margin_bytes)

    def see(self, device: str, used_bytes: int, *, least_bytes: int, most_bytes: int) -> int | None:
        """Take a reading: so much is used, of which we hold at least `least_bytes` and at most `most_bytes`.

        While a load or an unload is under way it is not known how much of it is there: what was seen before stands as
        far as the reading allows. Returns the change of what others hold.
        """
        it = self._devices[device]
        before = it.outside_bytes
        low, high = max(0, used_bytes - most_bytes), max(0, used_bytes - least_bytes)
        it.outside_bytes = min(max(before, low), high)
        return it.outside_bytes - before
