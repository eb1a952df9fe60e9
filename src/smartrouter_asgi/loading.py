"""Loads behind a breaker: an engine that cannot be reached to load a model is not asked for load after load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .exceptions import AttemptError
from .resilience.retry import counts_as_failure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .backends.base import Backend
    from .deployment import LoadedModel
    from .resilience.breaker import BreakerBoard
    from .vram.lifecycle import ModelLifecycle

LOAD = "load"
"""The operation of the breaker."""


class GuardedLifecycle:
    """A backend as the gate sees it, its loads counted by a breaker of their own.

    A model that fails to load says nothing against its server. Raises `BreakerOpenError` while the breaker is open.
    """

    def __init__(self, backend: Backend, breakers: BreakerBoard) -> None:
        self._backend = backend
        self._breakers = breakers

    async def load(self, model: str) -> None:
        """Load under a permit; see `Backend.load`."""
        permit = self._breakers.get(self._backend.name, LOAD).acquire()
        try:
            await self._backend.load(model)
        except AttemptError as exc:
            if counts_as_failure(exc.kind):
                permit.failure(exc)
            raise
        else:
            permit.success()
        finally:
            permit.release()

    async def unload(self, model: str) -> None:
        """Unload; see `Backend.unload`."""
        await self._backend.unload(model)

    async def running(self) -> tuple[LoadedModel, ...]:
        """List what is loaded; see `Backend.running`."""
        return await self._backend.running()

    async def is_idle(self, model: str) -> bool | None:
        """Tell whether the engine is idle; see `Backend.is_idle`."""
        return await self._backend.is_idle(model)


def guarded_lifecycles(backends: Mapping[str, Backend], breakers: BreakerBoard) -> dict[str, ModelLifecycle]:
    """Return the lifecycles of all backends, by name."""
    return {name: GuardedLifecycle(backend, breakers) for name, backend in backends.items()}
