"""One story of a device whose memory moves, told on a real GPU and on one that exists in tests only."""

from __future__ import annotations

from typing import Any, Protocol

import pytest

from smartrouter_asgi import Deployment, GatePolicy, VRAMGate
from smartrouter_asgi.deployment import LoadedModel
from smartrouter_asgi.exceptions import VRAMQueueTimeoutError
from smartrouter_asgi.vram.devices import Device, Devices
from smartrouter_asgi.vram.lifecycle import CallbackLifecycle
from smartrouter_asgi.vram.probes import MemoryProbe, MemoryWatch
from smartrouter_asgi.vram.readings import WatchedReadings

MARGIN_BYTES = 256 * 1024**2


class Holder(Protocol):
    """Takes bytes of the device and gives them back, under a name."""

    def take(self, owner: str, size_bytes: int) -> None: ...

    def give_back(self, owner: str) -> None: ...


async def memory_moves(probe: MemoryProbe, uuid: str, holder: Holder, *, step_bytes: int) -> list[dict[str, Any]]:
    """A gate over one device and one in-house engine, while another program takes memory and gives it back.

    What is asserted: the books follow the readings, what others hold is respected, a model that does not fit beside it
    waits and is refused, and is let in once the memory has moved. Returns the readings beside the books.
    """
    told: list[dict[str, Any]] = []
    sizes = {"small": step_bytes, "large": 4 * step_bytes}
    loaded: set[str] = set()

    def reading() -> Any:
        return next(device for device in probe.read() if device.uuid == uuid)

    async def load(model: str) -> None:
        holder.take(model, sizes[model])
        loaded.add(model)

    async def unload(model: str) -> None:
        holder.give_back(model)
        loaded.discard(model)

    async def running() -> tuple[LoadedModel, ...]:
        return tuple(LoadedModel(id=model, vram_bytes=sizes[model]) for model in sorted(loaded))

    total_bytes = reading().total_bytes
    gate = VRAMGate(
        devices=Devices([Device(id=uuid, limit_bytes=total_bytes * 9 // 10, total_bytes=total_bytes - MARGIN_BYTES)]),
        readings=WatchedReadings(MemoryWatch(probe), [uuid]),
        lifecycles={"here": CallbackLifecycle(load=load, unload=unload, running=running)},
        policy=GatePolicy(max_wait_s=2.0, reconcile_ttl_s=0.2, min_residency=0.0, fair_after_s=0.5),
    )

    async def note(step: str) -> Any:
        await gate.reconcile(force=True)
        (device,) = gate.snapshot().devices
        now = reading()
        told.append(
            {
                "step": step,
                "driver_used_bytes": now.used_bytes,
                "driver_free_bytes": now.free_bytes,
                "ledger_used_bytes": device.used_bytes,
                "ledger_outside_bytes": device.outside_bytes,
                "ledger_free_bytes": device.free_bytes,
            }
        )
        return device

    def deployment(model: str) -> Deployment:
        return Deployment(backend="here", model=model, vram_bytes=sizes[model], gated=True)

    try:
        before = await note("idle")
        (await gate.admit(deployment("small"))).release()
        with_small = await note("small is in memory")
        assert with_small.used_bytes == step_bytes
        assert told[-1]["driver_used_bytes"] - told[-2]["driver_used_bytes"] >= step_bytes * 0.9

        stolen = reading().free_bytes - MARGIN_BYTES - 2 * step_bytes
        holder.take("another program", stolen)
        with_other = await note("another program has all but two steps")
        assert with_other.outside_bytes - before.outside_bytes >= stolen * 0.9
        assert with_other.free_bytes <= 2 * step_bytes + step_bytes // 2

        with pytest.raises(VRAMQueueTimeoutError):
            await gate.admit(deployment("large"))
        assert loaded == {"small"}, "nobody is put out for a model that would not fit even so"
        await note("large was refused")

        holder.give_back("another program")
        (await gate.admit(deployment("large"))).release()
        assert "large" in loaded
        with_large = await note("the memory is back, and large in it")
        assert with_large.used_bytes >= sizes["large"]
    finally:
        await gate.aclose()
        for owner in ("another program", *loaded):
            holder.give_back(owner)
    return told
