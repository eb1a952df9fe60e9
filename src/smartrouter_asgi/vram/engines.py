"""The engines' side of the gate: every call bounded in time, no answer told from an empty one.

The bounds are anyio scopes: a lifecycle that speaks HTTP over httpx loses connections when cancelled otherwise.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

import anyio

from ..deployment import LoadedModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .lifecycle import ModelLifecycle
    from .names import ModelKey
    from .policy import GatePolicy

Answers: TypeAlias = dict[str, tuple[LoadedModel, ...] | None]
"""What each backend has loaded; None: it gave no answer."""

ANSWER_TIMEOUT_S = 3.0
"""How long an engine may take to say what it has loaded, before its silence is taken for no answer."""


class Engines:
    """The lifecycles by backend name, under the time limits of the policy."""

    def __init__(self, lifecycles: Mapping[str, ModelLifecycle], policy: GatePolicy) -> None:
        self._lifecycles = dict(lifecycles)
        self._load_timeout_s = policy.load_timeout_s
        self._unload_timeout_s = policy.unload_timeout_s

    def __contains__(self, backend: object) -> bool:
        return backend in self._lifecycles

    async def load(self, key: ModelKey) -> None:
        """Return once the model is loaded; raises what the engine raises, or TimeoutError."""
        with anyio.fail_after(self._load_timeout_s):
            await self._lifecycles[key.backend].load(key.model)

    async def unload(self, key: ModelKey) -> None:
        """Return once the model's memory is free; raises what the engine raises, or TimeoutError."""
        with anyio.fail_after(self._unload_timeout_s):
            await self._lifecycles[key.backend].unload(key.model)

    async def is_idle(self, key: ModelKey, *, within_s: float) -> bool | None:
        """Return whether the engine is done with the model; None when it cannot tell, or not in time."""
        try:
            with anyio.fail_after(within_s):
                return await self._lifecycles[key.backend].is_idle(key.model)
        except Exception:  # an engine that cannot be asked cannot tell
            return None

    async def ask(self) -> Answers:
        """Ask every engine at once what it has loaded; never raises."""
        backends = tuple(self._lifecycles)
        answers = await asyncio.gather(*(self._ask_one(backend) for backend in backends))
        return dict(zip(backends, answers, strict=True))

    async def _ask_one(self, backend: str) -> tuple[LoadedModel, ...] | None:
        try:
            with anyio.fail_after(ANSWER_TIMEOUT_S):
                return await self._lifecycles[backend].running()
        except Exception:  # whatever the engine's trouble is, the ledger stands
            return None
