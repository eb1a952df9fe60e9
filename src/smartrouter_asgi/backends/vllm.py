"""vLLM: its one model sleeps and wakes, where the server was started with `--enable-sleep-mode`."""

from __future__ import annotations

import contextlib
import dataclasses

from ..deployment import LoadedModel, ModelInfo
from ..exceptions import AttemptError, FailureKind
from ..transport.http import Transport
from .base import BackendSpec
from .openai_compat import NOT_THERE, OpenAICompatBackend
from .residency import LOAD_TIMEOUT_S, UNLOAD_TIMEOUT_S, load_failure, until_gone

DISCARDED = 2
"""The sleep level at which the weights are thrown away, and have to be read anew after waking."""


class VLLMBackend(OpenAICompatBackend):
    """One vLLM server. To unload is to put it to sleep, to load is to wake it.

    It can sleep with `--enable-sleep-mode` and `VLLM_SERVER_DEV_MODE=1`; that is found out by asking `/is_sleeping`.
    `options: {sleep_level: 1}` (weights go to main memory) or `2` (weights are discarded) says so beforehand: then its
    models are gated from the first request on. All names that it lists are one piece of memory.
    """

    type = "vllm"

    def __init__(self, spec: BackendSpec, transport: Transport) -> None:
        super().__init__(spec, transport)
        level = spec.options.get("sleep_level")
        self._level = level if isinstance(level, int) else 1
        self.is_settled = False
        """Whether it is known that it can sleep, or that it cannot: told where deployments are made anew after it."""
        self._can_sleep(level is not None)

    async def settle(self) -> None:
        """Find out whether it can sleep. Raises `AttemptError` if it cannot be told now."""
        self._can_sleep(await self._is_sleeping() is not None)
        self.is_settled = True

    async def list_models(self) -> tuple[ModelInfo, ...]:
        """Read `/v1/models`, and find out whether it can sleep."""
        models = await super().list_models()
        with contextlib.suppress(AttemptError):  # its list is good, whatever it says of sleeping
            await self.settle()
        if not self.capabilities.can_load:
            return models
        return tuple(dataclasses.replace(model, digest=self.name) for model in models)

    async def running(self) -> tuple[LoadedModel, ...]:
        """List what is in memory; nothing while it sleeps, or where it can be neither unloaded nor loaded."""
        if await self._is_sleeping() is not False:
            return ()
        return tuple(LoadedModel(id=model.id, digest=self.name) for model in await super().list_models())

    async def load(self, model: str) -> None:
        """Wake it up, if it sleeps; returns when it is awake."""
        if not await self._is_sleeping():
            return
        try:
            if self._level == DISCARDED:
                await self._wake("/wake_up?tags=weights")
                await self._wake("/collective_rpc", {"method": "reload_weights"})
                await self._wake("/wake_up?tags=kv_cache")
            else:
                await self._wake("/wake_up")
        except AttemptError as exc:
            raise load_failure(exc) from exc

    async def unload(self, model: str) -> None:
        """Put it to sleep; newer releases wait for what others have under way, older ones abort it."""
        if await self._is_sleeping():
            return
        await self.call_json("POST", f"/sleep?level={self._level}&mode=wait", timeout_s=UNLOAD_TIMEOUT_S)
        await until_gone(self.name, model, self._is_awake)

    async def _wake(self, path: str, payload: dict[str, str] | None = None) -> None:
        await self.call_json("POST", path, payload, timeout_s=LOAD_TIMEOUT_S)

    async def _is_awake(self) -> bool:
        return await self._is_sleeping() is False

    async def _is_sleeping(self) -> bool | None:
        """Ask whether it sleeps; None where it cannot. Raises `AttemptError` when it does not say."""
        try:
            told = await self.call_json("GET", "/is_sleeping")
        except AttemptError as exc:
            if exc.kind not in (*NOT_THERE, FailureKind.AUTH, FailureKind.PROTOCOL):
                raise
            told = None  # a proxy before it, perhaps, that lets the API through and nothing else
        asleep = told.get("is_sleeping") if isinstance(told, dict) else None
        return asleep if isinstance(asleep, bool) else None

    def _can_sleep(self, able: bool) -> None:
        self.capabilities = dataclasses.replace(self.capabilities, can_load=able, can_report_loaded=able)
