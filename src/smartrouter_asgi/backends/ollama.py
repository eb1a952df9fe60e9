"""Ollama over its native API, so that the gateway decides what is in memory: loads, unloads, context size, timers."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import replace
from functools import partial
from typing import Any, TypeGuard
from weakref import WeakKeyDictionary

import anyio

from ..deployment import Capabilities, Deployment, LoadedModel, ModelInfo
from ..exceptions import AttemptError, FailureKind
from ..transport.http import Transport
from ..types import Headers
from ..wire.call import Call
from ..wire.ollama_answer import engine_error, translate_answer, translate_embeddings
from ..wire.ollama_errors import refine_error
from ..wire.ollama_models import Shown, capable, count, hides_layers, read_row, read_shown, text
from ..wire.ollama_options import Residency
from ..wire.ollama_request import OllamaRequest, translate_request
from ..wire.ollama_stream import OllamaStreamCodec
from .base import BackendSpec, PlainAnswer
from .http import HTTPBackend
from .http_exchange import Exchange

LOAD_TIMEOUT_S = 600.0
UNLOAD_TIMEOUT_S = 10.0
UNLOAD_POLL_S = 0.25
UNLOAD_SETTLE_S = 1.5
"""How long memory takes to come back once Ollama no longer lists a model. It waits for that only after evictions of its
own: a load that follows an unload of ours too soon would end up partly on the CPU."""
SHOW_LIMIT_BYTES = 64 * 1024 * 1024
SHOW_WAIT_S = 0.5
"""How long a list waits for looks at new models, where the gate wants to know their size."""

_NOT_NOW = frozenset(
    {
        FailureKind.CONNECT,
        FailureKind.STALE,
        FailureKind.RESET,
        FailureKind.FIRST_TOKEN_TIMEOUT,
        FailureKind.SERVER,
        FailureKind.RATE_LIMITED,
    }
)
"""Failures that say nothing about what was asked for."""

_DEFAULT_PREFIXES = ("registry.ollama.ai/", "library/")


class OllamaBackend(HTTPBackend):
    """One Ollama server. `url` is its root; a trailing `/v1` is taken off.

    `keep_alive_s` and the model's `num_ctx` of the spec go into every request and load alike: a request with another
    context size would make Ollama load the model again. What a model can do is read from the list; an older release's
    list does not say, and no list says what a gated model's memory is made of: each model is then looked at once,
    beside the requests, for the next list.
    """

    type = "ollama"
    capabilities = Capabilities(can_load=True, can_report_loaded=True, loads_on_demand=True)
    unload_settle_s = UNLOAD_SETTLE_S

    def __init__(self, spec: BackendSpec, transport: Transport) -> None:
        super().__init__(spec, transport)
        self._root = spec.url.rstrip("/").removesuffix("/v1")
        self._residency = Residency(keep_alive_s=spec.keep_alive_s, num_ctx=spec.num_ctx)
        self._residencies = {
            self.canonical(model): replace(self._residency, num_ctx=size) for model, size in spec.model_num_ctx.items()
        }
        self._translated: WeakKeyDictionary[Call, tuple[Deployment, OllamaRequest]] = WeakKeyDictionary()
        self._listed: dict[str, ModelInfo] = {}
        self._shown: dict[tuple[str, str | None], Shown] = {}
        self._looking: asyncio.Task[None] | None = None
        self._settled_at = 0.0
        """When the memory of the last load that failed is back; monotonic seconds."""

    def url_of(self, path: str) -> str:
        """Return the full URL of one of the engine's paths."""
        return self._root + path

    def canonical(self, model: str) -> str:
        """Return the name under which Ollama lists a model: with its tag, without the default registry."""
        for prefix in _DEFAULT_PREFIXES:
            model = model.removeprefix(prefix)
        return model if ":" in model.rpartition("/")[2] else f"{model}:latest"

    def check(self, call: Call, deployment: Deployment) -> None:
        """Refuse what cannot be translated."""
        super().check(call, deployment)
        self._translate(call, deployment)

    def prepare(self, call: Call, deployment: Deployment) -> Exchange:
        """Translate a call; see `wire.ollama_request`. Whether a model thinks is known once models were listed."""
        asked = self._translate(call, deployment)
        kind = "chatcmpl" if call.operation == "chat" else "cmpl"
        answer_id = f"{kind}-{uuid.uuid4().hex}"
        return Exchange(
            path=asked.path,
            body=asked.body,
            decode=partial(self._decode, call, asked, answer_id),
            codec=partial(
                OllamaStreamCodec,
                self.name,
                answer_id=answer_id,
                operation=call.operation,
                include_usage=asked.include_usage,
                must_call=asked.must_call,
            ),
            stream_type=b"application/x-ndjson",
            ignored=asked.ignored,
        )

    async def ping(self) -> None:
        """Raise `AttemptError` unless `/api/version` answers."""
        await self.call_json("GET", "/api/version")

    async def list_models(self) -> tuple[ModelInfo, ...]:
        """Read `/api/tags`; models of Ollama's cloud are `remote`.

        Where the models are gated it waits for a moment for looks at new ones, so that the first load knows their size.
        """
        rows = await self._rows("/api/tags")
        listed = tuple(self._known(read_row(row, engine=self.capabilities)) for row in rows)
        self._listed = {model.id: model for model in listed}
        self._look_at([model for model in listed if self._is_new(model)])
        if self.spec.gated and _runs(self._looking):
            await asyncio.wait({self._looking}, timeout=SHOW_WAIT_S)
        return tuple(self._known(model) for model in listed)

    async def aclose(self) -> None:
        """Stop looking at models, and let go of what else it holds."""
        task, self._looking = self._looking, None
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await super().aclose()

    async def running(self) -> tuple[LoadedModel, ...]:
        """Read `/api/ps`: what is loaded, and what is being loaded."""
        return tuple(
            LoadedModel(
                id=row["model"],
                vram_bytes=count(row.get("size_vram")) or 0,
                size_bytes=count(row.get("size")),
                digest=text(row.get("digest")),
            )
            for row in await self._rows("/api/ps")
        )

    async def load(self, model: str) -> None:
        """Load with an empty prompt, or an empty text where the model only embeds; returns once it is in memory.

        Raises `AttemptError` of kind `MODEL_FAILED` when it cannot run here, with status 503 and code `vram_exhausted`
        when memory ran out. Ollama gives a load up when this call is cancelled. One that follows a failed load waits
        until the memory is back.
        """
        if (settling_s := self._settled_at - time.monotonic()) > 0:
            await anyio.sleep(settling_s)
        # With an empty prompt a keep_alive of 0 means: unload.
        residency = self._residency_of(model)
        if self.spec.keep_alive_s == 0:
            residency = replace(residency, keep_alive_s=None)
        payload = {"model": model, "stream": False, **residency.members()}
        try:
            try:
                answer = await self.call_json("POST", "/api/generate", payload, timeout_s=LOAD_TIMEOUT_S)
            except AttemptError as exc:
                if exc.kind is not FailureKind.UNSUPPORTED:
                    raise
                payload = {"model": model, "input": "", **residency.members()}
                answer = await self.call_json("POST", "/api/embed", payload, timeout_s=LOAD_TIMEOUT_S)
        except AttemptError as exc:
            failure = _load_failure(exc)
            if failure.kind is FailureKind.MODEL_FAILED:
                self._settled_at = time.monotonic() + self.unload_settle_s
            raise failure from exc
        if isinstance(answer, dict) and answer.get("error"):
            raise engine_error(self.name, answer["error"])

    async def unload(self, model: str) -> None:
        """Unload with `keep_alive: 0`, which Ollama only notes, and wait until its memory is back.

        Raises `AttemptError` (504) when it is still there after ten seconds: something still uses it.
        """
        try:
            await self.call_json("POST", "/api/generate", {"model": model, "stream": False, "keep_alive": 0})
        except AttemptError as exc:
            if exc.kind is FailureKind.MODEL_MISSING:
                return
            raise
        with anyio.move_on_after(UNLOAD_TIMEOUT_S):
            while await self._holds(model):  # noqa: ASYNC110 - Ollama tells nobody when it is gone
                await anyio.sleep(UNLOAD_POLL_S)
            await anyio.sleep(self.unload_settle_s)
            return
        raise AttemptError(
            f"backend '{self.name}' still holds '{model}' {UNLOAD_TIMEOUT_S:g} s after it was told to unload it",
            kind=FailureKind.SERVER,
            status=504,
            engine_busy=True,
        )

    def classify(self, status: int, headers: Headers, body: bytes) -> AttemptError:
        """Say what an answer that is not 200 means; see `wire.ollama_errors`."""
        return refine_error(super().classify(status, headers, body), status)

    def _translate(self, call: Call, deployment: Deployment) -> OllamaRequest:
        """Translate a call once for `check` and every attempt: an image takes its time to copy."""
        made = self._translated.get(call)
        if made is None or made[0] != deployment:
            asked = translate_request(
                call,
                model=deployment.model,
                residency=self._residency_of(deployment.model),
                can_think=self._can_think(deployment),
            )
            made = self._translated[call] = (deployment, asked)
        return made[1]

    def _residency_of(self, model: str) -> Residency:
        return self._residencies.get(self.canonical(model), self._residency)

    def _can_think(self, deployment: Deployment) -> bool | None:
        can = deployment.capabilities
        if can is None or can.thinking is None:
            known = self._listed.get(self.canonical(deployment.model))
            can = known.can if known is not None else None
        return can.thinking if can is not None else None  # older releases list no capabilities

    def _is_new(self, model: ModelInfo) -> bool:
        """Tell whether a look at a model would tell more than its row and earlier looks."""
        wanted = (self.spec.gated and not model.remote) or not model.capabilities
        return wanted and (model.id, model.digest) not in self._shown

    def _known(self, info: ModelInfo) -> ModelInfo:
        """Add what a look at the model has told, where the list does not tell."""
        shown = self._shown.get((info.id, info.digest))
        if shown is None:
            return info
        info = replace(info, num_ctx=shown.num_ctx, metadata=shown.metadata)
        if info.capabilities or not shown.capabilities:
            return info
        can = capable(shown.capabilities, shown.context_length, engine=self.capabilities)
        return replace(info, capabilities=shown.capabilities, can=can)

    def _look_at(self, models: list[ModelInfo]) -> None:
        """Begin to look at models, unless that is under way."""
        if models and not _runs(self._looking):
            self._looking = asyncio.get_running_loop().create_task(self._show(models))

    async def _show(self, models: list[ModelInfo]) -> None:
        for model in models:
            try:
                shown = await self._shown_of(model)
            except AttemptError as exc:
                if exc.kind in _NOT_NOW:
                    return  # the next list begins again
                shown = Shown()
            self._shown[model.id, model.digest] = shown
            self._listed[model.id] = self._known(model)

    async def _shown_of(self, model: ModelInfo) -> Shown:
        shown = read_shown(await self.call_json("POST", "/api/show", {"model": model.id}))
        if self.spec.gated and shown.metadata is not None and hides_layers(shown.metadata):
            # Megabytes, with every token of the vocabulary, once for a model whose layers differ: a guess instead could
            # be ten times too much, and keep the model out for ever.
            verbose = {"model": model.id, "verbose": True}
            shown = read_shown(await self.call_json("POST", "/api/show", verbose, limit=SHOW_LIMIT_BYTES))
        return shown

    async def _holds(self, model: str) -> bool:
        name = self.canonical(model)
        known = self._listed.get(name)
        digest = known.digest if known is not None else None
        return any(
            self.canonical(loaded.id) == name or (digest is not None and loaded.digest == digest)
            for loaded in await self.running()
        )

    async def _rows(self, path: str) -> list[dict[str, Any]]:
        """Return the `models` of an answer, each with its name under `model`."""
        answer = await self.call_json("GET", path)
        rows = answer["models"] or [] if isinstance(answer, dict) and "models" in answer else None  # Go's nil is null
        if not isinstance(rows, list):
            raise AttemptError(
                f"backend '{self.name}' answered {path} without a list of models",
                kind=FailureKind.PROTOCOL,
                code="upstream_protocol",
            )
        return [
            {**row, "model": name}
            for row in rows
            if isinstance(row, dict) and (name := text(row.get("model")) or text(row.get("name")))
        ]

    def _decode(self, call: Call, asked: OllamaRequest, answer_id: str, body: bytes) -> PlainAnswer:
        if call.operation == "embeddings":
            translated, usage = translate_embeddings(self.name, body, inputs=asked.inputs, as_base64=asked.base64)
        else:
            translated, usage = translate_answer(
                self.name, call.operation, body, answer_id=answer_id, must_call=asked.must_call
            )
        return PlainAnswer(body=translated, usage=usage)


def _runs(task: asyncio.Task[None] | None) -> TypeGuard[asyncio.Task[None]]:
    """Tell whether a task is under way, in this event loop."""
    return task is not None and not task.done() and task.get_loop() is asyncio.get_running_loop()


def _load_failure(error: AttemptError) -> AttemptError:
    """Return what a failed load means: that this model fails here, unless the server itself is to blame."""
    if error.kind is FailureKind.FIRST_TOKEN_TIMEOUT:
        return AttemptError(error.message, kind=FailureKind.MODEL_FAILED, status=504, code=error.code, type=error.type)
    refused = error.kind in (FailureKind.REJECTED, FailureKind.UNSUPPORTED)
    if refused or (error.kind is FailureKind.SERVER and error.status != 503):
        return AttemptError(error.message, kind=FailureKind.MODEL_FAILED, status=502)
    return error
