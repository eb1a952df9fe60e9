"""LocalAI: loads on demand, unloads when told."""

from __future__ import annotations

from urllib.parse import quote

from ..deployment import Deployment, LoadedModel
from ..exceptions import AttemptError, FailureKind
from ..transport.http import Transport
from ..wire.call import Call
from .base import BackendSpec
from .http_exchange import HTTPUpstream
from .openai_compat import OpenAICompatBackend
from .residency import LOAD_TIMEOUT_S, UNLOAD_TIMEOUT_S, load_failure, until_gone

BUSY, READY = 1, 2
"""States of `/backend/monitor`; 0 is not started, -1 failed."""


class LocalAIBackend(OpenAICompatBackend):
    """One LocalAI server.

    `/system` names what is loaded, releases without it are asked about what was used through here; the monitor says
    whether it is. Its busy watchdog can end a long generation; that is its own setting.
    """

    type = "localai"

    def __init__(self, spec: BackendSpec, transport: Transport) -> None:
        super().__init__(spec, transport)
        self._used: dict[str, None] = {}

    async def open(self, call: Call, deployment: Deployment) -> HTTPUpstream:
        """Send a call; see `Backend.open`."""
        self._used[deployment.model] = None
        return await super().open(call, deployment)

    async def running(self) -> tuple[LoadedModel, ...]:
        """Ask what is loaded, and of each whether it really is."""
        asked = dict.fromkeys((*self._used, *await self._named()))
        loaded = [m for m in asked if await self._state(m) in (BUSY, READY)]
        return tuple(LoadedModel(id=model) for model in loaded)

    async def load(self, model: str) -> None:
        """Load by `/backend/load`; returns once it is in memory. Releases without it load by the first request."""
        self._used[model] = None
        try:
            await self.call_json("POST", "/backend/load", {"model": model}, timeout_s=LOAD_TIMEOUT_S)
        except AttemptError as exc:
            if not _is_missing(exc):
                raise load_failure(exc) from exc

    async def unload(self, model: str) -> None:
        """Stop the model's process by `/backend/shutdown`; returns once it is gone."""
        await self.call_json("POST", "/backend/shutdown", {"model": model}, timeout_s=UNLOAD_TIMEOUT_S)

        async def holds() -> bool:
            return await self._state(model) in (BUSY, READY)

        await until_gone(self.name, model, holds)
        self._used.pop(model, None)

    async def is_idle(self, model: str) -> bool | None:
        """Tell whether a model's process is ready rather than busy; None when it is neither."""
        state = await self._state(model)
        return {BUSY: False, READY: True}.get(state) if state is not None else None

    async def _named(self) -> list[str]:
        try:
            told = await self.call_json("GET", "/system", timeout_s=2.0)
        except AttemptError as exc:
            if _is_missing(exc):
                return []
            raise
        rows = told.get("loaded_models") if isinstance(told, dict) else None
        ids = [row.get("id") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        return [one for one in ids if isinstance(one, str) and one]

    async def _state(self, model: str) -> int | None:
        """Return the monitor's state of a model; None of one that is not loaded."""
        try:
            told = await self.call_json("GET", f"/backend/monitor?model={quote(model, safe='')}", timeout_s=2.0)
        except AttemptError as exc:
            if exc.kind in (FailureKind.CONNECT, FailureKind.AUTH, FailureKind.FIRST_TOKEN_TIMEOUT):
                raise
            return None  # it answers a question about a model that is not loaded with an error
        state = told.get("state") if isinstance(told, dict) else None
        return state if isinstance(state, int) else None


def _is_missing(error: AttemptError) -> bool:
    """Tell whether a failure says that there is no such path, rather than that a model does not run here."""
    return error.kind is FailureKind.MODEL_FAILED and error.code == AttemptError.code
