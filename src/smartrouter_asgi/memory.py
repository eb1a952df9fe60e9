"""From settings, and from what this machine has, to the devices whose memory the gate shares out.

1. The devices of this machine are those the drivers tell of, of them the listed ones where `vram.devices` lists any. On
   a machine that tells of none they are the listed ones as declared, or one device of `vram.max_total`.
2. The gate may hold 90 % of a device, or what `vram.devices` says, or all of it where `vram.max_total` says how much it
   may hold on all of them together; never so much that it and what others hold fill a device.
3. A backend on another machine has a budget of its own (`backends.*.vram`), else one of `vram.max_total` beside the
   devices here.
4. Which devices a backend uses, and whether it spreads one model over them, its section says, else its type's habit.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .assembly import is_local, may_be_gated
from .vram.devices import ONE, Device, Devices
from .vram.placement import PlacementRule
from .vram.probes import MemoryWatch, SystemProbe
from .vram.readings import WatchedReadings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .config import Settings
    from .config.backends import BackendSettings
    from .config.vram import DeviceSettings
    from .vram.probes import DeviceMemory, MemoryProbe
    from .vram.readings import Readings

logger = logging.getLogger("smartrouter_asgi")

LIMIT_PERCENT = 90
MARGIN_BYTES = 512 * 1024 * 1024
"""Left alone on each device, or one fiftieth of a small one: what a driver tells is not to the byte."""

FIRST_READ_S = 3.0
"""How long the first reading may take."""

SPLITTING_TYPES = frozenset({"ollama", "llama.cpp", "llama-swap", "lmstudio", "localai"})
"""Engines that spread a model over several GPUs by themselves when it does not fit on one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The devices, which of them each backend uses, and how they are read (None: nothing to read)."""

    devices: Devices
    rules: Mapping[str, PlacementRule]
    """Which devices the backends of the settings use; none: how much memory one has nobody knows."""
    here: tuple[str, ...] = ()
    """The devices of this machine, for engines that the settings do not name."""
    readings: Readings | None = None
    declared: bool = True
    """Somebody said how much there is; else it was detected."""

    def rule(self, backend: str) -> PlacementRule:
        """Return which devices an engine uses."""
        rule = self.rules.get(backend)
        return PlacementRule(devices=self.here) if rule is None else rule


def build_memory(settings: Settings, probe: MemoryProbe | None = None, *, beside: bool = False) -> Memory | None:
    """Return what there is to share; None when nothing is declared and nothing is detected.

    Reads the machine's devices when the monitor is on and an engine here may be gated: a backend of the settings, or
    one `beside` them.
    """
    vram = settings.vram
    probe = probe or SystemProbe(
        amd_unified_memory_bytes=vram.amd_unified_memory_bytes,
        apple_unified_memory_bytes=vram.apple_unified_memory_bytes,
    )
    found = _read(probe) if vram.monitor_enabled and (beside or _has_local_engine(settings)) else ()
    here = _detected(settings, found) or _declared(settings)
    remote = _remote(settings, beside=bool(found))
    if not here and not remote:
        return None
    _warn_of_strangers(settings, found, here)
    watched = [device.id for device in here if device.total_bytes is not None]
    return Memory(
        devices=Devices(
            [*here, *remote.values()],
            max_total_bytes=vram.max_total_bytes,
            counted=[device.id for device in here],
        ),
        rules=_rules(settings, here, remote),
        here=tuple(device.id for device in here),
        readings=WatchedReadings(MemoryWatch(probe), watched) if watched else None,
        declared=any(
            limit is not None
            for limit in (
                vram.max_total_bytes,
                vram.amd_unified_memory_bytes,
                vram.apple_unified_memory_bytes,
                *(device.max_bytes for device in vram.devices.values()),
                *(section.vram_bytes for section in settings.backends.values()),
            )
        ),
    )


def _read(probe: MemoryProbe) -> Sequence[DeviceMemory]:
    """Read the devices once, before there is an event loop; a driver that hangs keeps nobody from starting."""
    answers: list[Sequence[DeviceMemory]] = []
    thread = threading.Thread(target=lambda: answers.append(probe.read()), name="smartrouter-first-probe", daemon=True)
    thread.start()
    thread.join(FIRST_READ_S)
    if not answers:
        logger.warning("GPU memory could not be read within %g s: it counts as not detected", FIRST_READ_S)
    return answers[0] if answers else ()


def _has_local_engine(settings: Settings) -> bool:
    return any(
        section.type != "openai" and may_be_gated(settings, section) and is_local(section.base_url)
        for section in settings.backends.values()
    )


def _detected(settings: Settings, found: Sequence[DeviceMemory]) -> list[Device]:
    listed = settings.vram.devices
    devices = []
    for device in found:
        limit = _listed(listed, device)
        if device.total_bytes <= 0 or (listed and limit is None):
            continue
        limit_bytes = limit.max_bytes if limit is not None else None
        if limit_bytes is None:
            capped = settings.vram.max_total_bytes is not None
            limit_bytes = device.total_bytes if capped else device.total_bytes * LIMIT_PERCENT // 100
        margin_bytes = min(MARGIN_BYTES, device.total_bytes // 50)
        devices.append(
            Device(
                id=device.uuid,
                limit_bytes=limit_bytes,
                total_bytes=device.total_bytes,
                margin_bytes=margin_bytes,
                name=device.name,
                index=device.index,
                outside_bytes=device.used_bytes or 0,
            )
        )
    return devices


def _warn_of_strangers(settings: Settings, found: Sequence[DeviceMemory], here: Sequence[Device]) -> None:
    """Say which devices are named that are not there: what is meant for them is taken for something else."""
    there = {key for device in found for key in (device.uuid, device.index)}
    for key in settings.vram.devices:
        if found and key not in there:
            logger.warning("vram.devices: this machine has no GPU %s", key)
    shared = {key for device in here for key in (device.id, device.index)}
    for name, section in settings.backends.items():
        if here and section.devices and not shared.intersection(section.devices):
            named = ", ".join(map(str, section.devices))
            logger.warning(
                "backends.%s.devices: no such GPU is shared out here (%s): all are taken for its", name, named
            )


def _listed(listed: Mapping[int | str, DeviceSettings], device: DeviceMemory) -> DeviceSettings | None:
    by_uuid = listed.get(device.uuid)
    return by_uuid if by_uuid is not None else listed.get(device.index)


def _declared(settings: Settings) -> list[Device]:
    """Return the devices that are only said to be there."""
    vram = settings.vram
    listed = [
        Device(id=str(key), limit_bytes=limit.max_bytes, index=key if isinstance(key, int) else place)
        for place, (key, limit) in enumerate(vram.devices.items())
        if limit.max_bytes is not None
    ]
    if listed or vram.max_total_bytes is None:
        return listed
    return [Device(id=ONE, limit_bytes=vram.max_total_bytes)]


def _remote(settings: Settings, *, beside: bool) -> dict[str, Device]:
    """Return a device for each backend that has memory of its own."""
    own = {}
    for name, section in settings.backends.items():
        limit_bytes = section.vram_bytes
        if limit_bytes is None and beside and not is_local(section.base_url) and may_be_gated(settings, section):
            limit_bytes = settings.vram.max_total_bytes
        if limit_bytes is not None:
            own[name] = Device(id=name, limit_bytes=limit_bytes)
    return own


def _rules(settings: Settings, here: Sequence[Device], remote: Mapping[str, Device]) -> dict[str, PlacementRule]:
    return {
        name: PlacementRule(
            devices=(remote[name].id,) if name in remote else _devices_of(section, here),
            split=section.split if section.split is not None else section.type in SPLITTING_TYPES,
        )
        for name, section in settings.backends.items()
    }


def _devices_of(section: BackendSettings, here: Sequence[Device]) -> tuple[str, ...]:
    named = tuple(device.id for device in here if device.id in section.devices or device.index in section.devices)
    return named or tuple(device.id for device in here)
