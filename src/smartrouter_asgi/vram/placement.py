"""Where a model's bytes go on a machine with several devices: pure arithmetic.

1. A model goes to one device: the one with the most room among those its backend uses.
2. Where none has room enough and the backend splits models, it is spread over them in proportion to their room.
3. Else it does not fit, however much room there is in all: 2 x 24 GiB is not 40 GiB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

Placement: TypeAlias = "Mapping[str, int]"
"""Bytes by device id."""

NOTICED = 0.05
"""A device that took a smaller share of a load than this took none of it: some of it was somebody else's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRule:
    """Which devices a backend uses, and whether it spreads one model over several of them."""

    devices: tuple[str, ...]
    split: bool = False


def place(need_bytes: int, free_bytes: Mapping[str, int], rule: PlacementRule) -> dict[str, int] | None:
    """Return where a model would go; None when it does not fit. Devices that are not in `free_bytes` are out."""
    rooms = [(free_bytes[device], device) for device in rule.devices if device in free_bytes]
    roomy = sorted(rooms, key=lambda room: (-room[0], room[1]))
    if roomy and roomy[0][0] >= need_bytes:
        return {roomy[0][1]: need_bytes}
    roomy = [(room, device) for room, device in roomy if room > 0]
    total_bytes = sum(room for room, _ in roomy)
    if not rule.split or not roomy or total_bytes < need_bytes:
        return None
    return _shares(need_bytes, roomy)


def force(need_bytes: int, free_bytes: Mapping[str, int], rule: PlacementRule) -> dict[str, int]:
    """Return where a model must be that an engine has loaded by itself, whether it fits by our books or not."""
    fits = place(need_bytes, free_bytes, rule)
    if fits is not None:
        return fits
    if not rule.devices:
        return {}
    if rule.split:
        roomy = [(max(1, free_bytes.get(device, 0)), device) for device in rule.devices]
        return _shares(need_bytes, roomy)
    return {max(rule.devices, key=lambda device: (free_bytes.get(device, 0), device)): need_bytes}


def resize(placement: Placement, size_bytes: int) -> dict[str, int]:
    """Return a placement of another size, spread as before."""
    if len(placement) == 1:
        return dict.fromkeys(placement, size_bytes)
    return _shares(size_bytes, [(max(1, held), device) for device, held in placement.items()]) if placement else {}


def seen_placement(
    size_bytes: int, used_before: Mapping[str, int], used_after: Mapping[str, int], rule: PlacementRule
) -> dict[str, int] | None:
    """Return where a load really went, by what its devices held before and after; None when that does not tell.

    It does not when less than half of the bytes, or more than twice as many, have appeared.
    """
    grown = {
        device: used_after[device] - used_before[device]
        for device in rule.devices
        if device in used_before and device in used_after
    }
    grown = {device: growth for device, growth in grown.items() if growth > NOTICED * size_bytes}
    if not grown or not size_bytes / 2 <= sum(grown.values()) <= size_bytes * 2:
        return None
    return _shares(size_bytes, [(growth, device) for device, growth in grown.items()])


def _shares(size_bytes: int, weights: list[tuple[int, str]]) -> dict[str, int]:
    """Divide bytes in proportion to weights, to the last byte; no share is rounded up by more than to a whole byte."""
    total = sum(weight for weight, _ in weights)
    shares = {device: size_bytes * weight // total for weight, device in weights}
    rounded_down = [device for weight, device in weights if size_bytes * weight % total]
    for device in rounded_down[: size_bytes - sum(shares.values())]:
        shares[device] += 1
    return shares
