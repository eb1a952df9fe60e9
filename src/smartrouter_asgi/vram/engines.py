"""The engines' side of the gate: every call bounded in time, no answer told from an empty one.

The bounds are anyio scopes: a lifecycle that speaks HTTP over httpx loses connections when cancelled otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING, TypeAlias

import anyio

from ..deployment import LoadedModel
from ..exceptions import AttemptError, FailureKind, NoBackendError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..types import Clock
    from .lifecycle import ModelLifecycle
    from .names import ModelKey
    from .policy import GatePolicy

logger = logging.getLogger("smartrouter_asgi.vram")

Answers: TypeAlias = dict[str, tuple[LoadedModel, ...] | None]
"""What each backend has loaded; None: it gave no answer."""

ANSWER_TIMEOUT_S = 3.0
"""How long an engine may take to say what it has loaded, before its silence is taken for no answer."""
SILENT_FOR_S = 10.0
"""For how long an engine that did not answer in time is waited for a moment only: it holds up the others' loads."""
MOMENT_S = 0.2


class Engines:
    """The lifecycles by backend name, under the time limits of the policy.

    An engine at whose address nobody listens does not run, and has nothing loaded: what it held must not keep the
    others out.
    """

    def __init__(
        self, lifecycles: Mapping[str, ModelLifecycle], policy: GatePolicy, *, clock: Clock = time.monotonic
    ) -> None:
        self._lifecycles = dict(lifecycles)
        self._clock = clock
        self._silent_until: dict[str, float] = {}
        self._complained: set[str] = set()
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
        models: tuple[LoadedModel, ...] | None
        is_silent = self._clock() < self._silent_until.get(backend, -math.inf)
        try:
            with anyio.fail_after(MOMENT_S if is_silent else ANSWER_TIMEOUT_S):
                models = tuple(await self._lifecycles[backend].running())
        except TimeoutError:
            if not is_silent:
                self._silent_until[backend] = self._clock() + SILENT_FOR_S
            return None
        except Exception as exc:  # whatever the engine's trouble is, the ledger stands
            models = () if _is_not_there(exc) else None
        self._silent_until.pop(backend, None)
        if models is None or all(isinstance(model, LoadedModel) for model in models):
            return models
        if backend not in self._complained:
            self._complained.add(backend)
            logger.warning(
                "what backend '%s' says it has loaded is not a list of LoadedModel: it is not believed", backend
            )
        return None


def _is_not_there(error: Exception) -> bool:
    """Tell whether nobody listens: not whether a connection took too long, or its host has no address."""
    return isinstance(error, AttemptError) and error.kind is FailureKind.CONNECT and error.code == NoBackendError.code
