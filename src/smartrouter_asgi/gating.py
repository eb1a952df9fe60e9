"""The gate of a router: made from settings, warmed up, watched, shown."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from . import policies
from .assembly import is_local
from .exceptions import SmartRouterError
from .loading import LOAD, guarded_lifecycles
from .vram.footprints import Footprints
from .vram.gate import VRAMGate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .assembly import Deployer
    from .backends.base import Backend
    from .config import Settings
    from .deployment import Deployment
    from .events import Observer
    from .memory import Memory
    from .resilience.breaker import BreakerBoard
    from .routing.catalog import Catalog
    from .vram.lifecycle import ModelLifecycle
    from .vram.snapshot import GateSnapshot

logger = logging.getLogger("smartrouter_asgi")


def build_gate(
    settings: Settings,
    memory: Memory | None,
    *,
    backends: Mapping[str, Backend],
    deployer: Deployer,
    breakers: BreakerBoard,
    observer: Observer,
    lifecycles: Mapping[str, ModelLifecycle],
) -> VRAMGate | None:
    """Make the gate; None when there is no memory to share and no rule for that, or no engine to share it.

    `lifecycles` are those of engines that are no backends: services beside the router that ask this gate themselves.
    An engine of whose memory nobody knows how much there is, is left out of it, unless nothing unknown may pass.
    """
    engines = {**lifecycles, **guarded_lifecycles(backends, breakers)}
    engines = {name: engine for name, engine in engines.items() if is_gating(settings, memory, name)}
    if not any(name in lifecycles or deployer.may_be_gated(name) for name in engines):
        return None
    return VRAMGate(
        devices=memory.devices if memory is not None else None,
        rules={name: memory.rule(name) for name in engines} if memory is not None else None,
        readings=memory.readings if memory is not None else None,
        footprints=Footprints(settings.vram.footprints_file),
        fixed=fixed_deployments(settings, deployer),
        lifecycles=engines,
        policy=policies.gate_policy(settings, frozenset(pinned_ids(settings, deployer, backends))),
        observer=observer,
        load_wait_s=lambda backend: breakers.get(backend, LOAD).peek(),
    )


def fixed_deployments(settings: Settings, deployer: Deployer) -> Iterator[Deployment]:
    """Yield the deployments here that are there for good, and whose size somebody has declared.

    Of an engine of which it is not known yet whether it can unload there are none.
    """
    for group in deployer.configured():
        for deployment in group.deployments:
            section = settings.backends.get(deployment.backend)
            if (
                deployment.vram_bytes is not None
                and section is not None
                and is_local(section.base_url)
                and section.gated is not False
                and not deployer.may_be_gated(deployment.backend)
            ):
                yield deployment


def is_gating(settings: Settings, memory: Memory | None, backend: str) -> bool:
    """Tell whether there is memory for a backend to share, or a rule for when nobody knows how much there is."""
    return settings.vram.unknown == "closed" or (memory is not None and bool(memory.rule(backend).devices))


def pinned_ids(settings: Settings, deployer: Deployer, backends: Mapping[str, Backend]) -> list[str]:
    """Turn the names to pin into deployment ids: a configured model's, else the id at every backend that loads."""
    groups = {group.name: group for group in deployer.configured()}
    pinned = []
    for name in settings.vram.pinned:
        target = settings.aliases.get(name, name)
        if target in groups:
            pinned += [deployment.id for deployment in groups[target].deployments]
        else:
            pinned += [f"{backend.name}/{backend.canonical(target)}" for backend in backends.values()] + [target]
    return pinned


async def warm_up(gate: VRAMGate, catalog: Catalog, settings: Settings) -> None:
    """Look at the engines, then load what is to be there from the start: what is pinned, and what is named for it."""
    await gate.reconcile()
    for name in dict.fromkeys((*settings.vram.preload, *settings.vram.pinned)):
        group = catalog.find(name)
        if group is None:
            logger.warning("preload: no model is called %r", name)
            continue
        for deployment in group.deployments:
            if not gate.covers(deployment):
                continue
            try:
                await gate.load(deployment)
            except SmartRouterError as exc:
                logger.warning("preload of %s failed: %s", deployment.id, exc)


async def watch(gate: VRAMGate, interval_s: float) -> None:
    """Look at engines and devices again and again: what changes behind our back shows without a request."""
    while True:
        await asyncio.sleep(interval_s)
        await gate.reconcile(force=True)


def gauges(seen: GateSnapshot, threshold_pct: float) -> Iterator[tuple[str, str, int]]:
    """Yield the gauges of GPU memory: device, kind, bytes; `known` is 1 or 0."""
    for device in seen.devices:
        yield device.device, "budget", device.limit_bytes
        yield device.device, "used", device.used_bytes
        yield device.device, "outside", device.outside_bytes
        yield device.device, "free", device.free_bytes
        yield device.device, "threshold", int(device.limit_bytes * threshold_pct / 100)
        if device.total_bytes is not None:
            yield device.device, "total", device.total_bytes
