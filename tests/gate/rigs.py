"""Boxes with GPUs, engines and a gated router, and what tests of the gate ask of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

import smartrouter_asgi.memory as memory_module
from smartrouter_asgi import Settings, SmartRouter
from smartrouter_asgi.testing.ollama import GIB, SimulatedModel
from smartrouter_asgi.vram.probes import MemoryProbe

from ..harness.routers import chat
from ..harness.servers import serve
from ..harness.waiting import until

TIME_SCALE = 0.05
"""A load of three seconds takes 150 ms."""


def model(name: str, gib: float, **fields: Any) -> SimulatedModel:
    """A model whose footprint is exactly its size."""
    fields = {"kv_bytes": 0, "overhead_bytes": 0, "load_s": 3.0, "tokens_per_s": 50.0, **fields}
    return SimulatedModel(name, int(gib * GIB), **fields)


def served_by(backend: str, name: str, gib: float, **fields: Any) -> dict[str, Any]:
    """A configured model with one deployment of a declared size."""
    deployment = {"backend": backend, "model": name, "vram": int(gib * GIB), **fields}
    return {"name": name, "deployments": [deployment]}


@dataclass
class Rig:
    """A served router, and a client of it."""

    router: SmartRouter
    client: httpx.AsyncClient
    url: str

    async def ask(self, name: str, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        """Ask for a short plain answer."""
        body = chat(name, max_tokens=5, **fields)
        return await self.client.post(f"{self.url}/v1/chat/completions", json=body, headers=headers)

    @asynccontextmanager
    async def streaming(self, name: str, **fields: Any) -> AsyncIterator[AsyncIterator[str]]:
        """A stream that has begun; its client leaves at the end of the block, unless it has read to the end."""
        body = chat(name, stream=True, **fields)
        async with self.client.stream("POST", f"{self.url}/v1/chat/completions", json=body) as response:
            assert response.status_code == 200
            lines = response.aiter_lines()
            await anext(lines)
            yield lines

    async def vram(self) -> dict[str, Any]:
        """What `/admin/vram` says."""
        return dict((await self.client.get(f"{self.url}/admin/vram")).json())

    async def tell(self, name: str, action: str) -> dict[str, Any]:
        """What `/admin/models/...` answers."""
        return dict((await self.client.post(f"{self.url}/admin/models/{name}/{action}")).json())

    async def metric(self, line: str) -> float | None:
        """The value of a sample, named with its labels in their order; None when there is none."""
        for text in (await self.client.get(f"{self.url}/metrics")).text.splitlines():
            if text.startswith(f"{line} "):
                return float(text.rpartition(" ")[2])
        return None

    def resident(self) -> set[str]:
        """Deployments in memory, as the gate has it."""
        assert self.router.gate is not None
        return {held.deployment for held in self.router.gate.snapshot().residents if held.state == "resident"}

    def holding(self, deployment: str) -> Any:
        """One of them; None when it is not there."""
        assert self.router.gate is not None
        residents = self.router.gate.snapshot().residents
        return next((held for held in residents if held.deployment == deployment), None)

    def waiting(self) -> int:
        """How many requests wait for memory."""
        assert self.router.gate is not None
        return sum(self.router.gate.queue_depths().values())

    async def until_waiting(self, count: int = 1) -> None:
        await until(lambda: self.waiting() >= count)

    def decisions(self) -> list[tuple[str, str]]:
        """What the gate has done, oldest first: deployment and action."""
        assert self.router.gate is not None
        return [(one.deployment, one.action) for one in self.router.gate.snapshot().decisions]


@asynccontextmanager
async def rig_over(
    settings: dict[str, Any], *, probe: MemoryProbe | None = None, patience_s: float = 20.0, **router: Any
) -> AsyncIterator[Rig]:
    """A router of these settings; `probe` stands for the drivers of this machine, which are not asked."""
    vram = {"release_grace": "300ms", "monitor_interval": "50ms", "max_wait": "10s", **settings.pop("vram", {})}
    resilience = {"retry": {"base_delay": "10ms", "max_delay": "50ms"}, **settings.pop("resilience", {})}
    patch = pytest.MonkeyPatch()
    patch.setattr(memory_module, "SystemProbe", lambda **_: probe or NoDevices())
    try:
        made = SmartRouter(Settings.model_validate({**settings, "vram": vram, "resilience": resilience}), **router)
    finally:
        patch.undo()
    async with serve(made) as url, httpx.AsyncClient(timeout=patience_s) as client:
        yield Rig(made, client, url)


class NoDevices:
    """The drivers of a machine without a GPU."""

    def read(self) -> tuple[()]:
        return ()


async def gathered(*asks: Callable[[], Any]) -> list[httpx.Response]:
    return list(await asyncio.gather(*(one() for one in asks)))
