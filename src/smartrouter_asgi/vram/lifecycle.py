"""What the gate needs an engine to do: bring a model into memory, take it out, say what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..deployment import LoadedModel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class ModelLifecycle(Protocol):
    """One engine's memory. Model names are spelled everywhere as in the deployments that name them."""

    async def load(self, model: str) -> None:
        """Return once the model is loaded; raise when it cannot be.

        `AttemptError` of kind MODEL_FAILED when this model cannot run here, with code `vram_exhausted` (or
        `VRAMExhaustedError`) when the engine ran out of memory.
        """

    async def unload(self, model: str) -> None:
        """Return once the model's memory is really free again; raise when it is not."""

    async def running(self) -> tuple[LoadedModel, ...]:
        """Return the models in memory now; raise when the engine cannot be asked, never an empty guess."""

    async def is_idle(self, model: str) -> bool | None:
        """Return whether the engine has stopped working on the model; None when it cannot tell."""


class CallbackLifecycle:
    """A lifecycle made of plain async callables, for an in-house service.

    Without `running` it answers with what it loaded and did not unload itself; without `is_idle` it cannot tell.
    """

    def __init__(
        self,
        *,
        load: Callable[[str], Awaitable[object]],
        unload: Callable[[str], Awaitable[object]],
        running: Callable[[], Awaitable[tuple[LoadedModel, ...]]] | None = None,
        is_idle: Callable[[str], Awaitable[bool | None]] | None = None,
    ) -> None:
        self._load = load
        self._unload = unload
        self._running = running
        self._is_idle = is_idle
        self._loaded: dict[str, None] = {}

    async def load(self, model: str) -> None:
        """Load through the callable; what it raises is the failure."""
        await self._load(model)
        self._loaded[model] = None

    async def unload(self, model: str) -> None:
        """Unload through the callable; what it raises is the failure."""
        await self._unload(model)
        self._loaded.pop(model, None)

    async def running(self) -> tuple[LoadedModel, ...]:
        """Return the callable's list, or the models loaded here."""
        if self._running is not None:
            return await self._running()
        return tuple(LoadedModel(id=model) for model in self._loaded)

    async def is_idle(self, model: str) -> bool | None:
        """Return the callable's answer, or None."""
        return None if self._is_idle is None else await self._is_idle(model)
