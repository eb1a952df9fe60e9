"""llama.cpp's own server: OpenAI-compatible under /v1; beside it health, slots and, of a router, loads and unloads."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import anyio

from ..deployment import Capabilities, LoadedModel, ModelInfo
from ..exceptions import AttemptError, FailureKind
from ..transport.http import Transport
from ..types import Headers
from .base import BackendSpec
from .http import LIST_TIMEOUT_S
from .openai_compat import OpenAICompatBackend

LOAD_TIMEOUT_S = 600.0
LOAD_START_S = 5.0
"""How long a load that was taken may stay unseen: the server's own queue may hold it for a moment."""
UNLOAD_TIMEOUT_S = 15.0
"""A router kills a child that has not stopped by itself within ten seconds."""
POLL_S = 0.25
IDLE_TIMEOUT_S = 1.0

SINGLE = Capabilities(can_report_idle=True)
"""A server of one model, which it holds from its start to its end."""
ROUTER = Capabilities(can_report_idle=True, can_load=True, can_report_loaded=True, loads_on_demand=True)
"""A router over many models, each in a child process."""

_BESIDE_V1 = ("/health", "/props", "/slots", "/models/")
_HELD = frozenset({"loading", "loaded", "sleeping"})
_READY = frozenset({"loaded", "sleeping"})  # a sleeping one wakes up for the next request

_LISTS_NOTHING = frozenset(
    {FailureKind.REJECTED, FailureKind.PROTOCOL, FailureKind.MODEL_FAILED, FailureKind.MODEL_MISSING, FailureKind.AUTH}
)
"""Answers that will not change by asking again: no router is behind them."""

_UNKNOWN_MODEL = re.compile(r"\bmodel (?:'.*' |name=.* is |is )not found\b", re.DOTALL)
_NOT_LOADED = re.compile(r"\bmodel (?:is not loaded|name=.* failed to load)", re.DOTALL)
_LOST_CHILD = re.compile(
    r"\bproxy error: could not establish connection|\bmodel name=.* is not running", re.I | re.DOTALL
)


class LlamaCppBackend(OpenAICompatBackend):
    """One llama-server: of one model, or a router over many. `url` may end in `/v1` or not.

    Which of the two is told by the list of models: only a router's entries have a `status`. Until it was read,
    `is_settled` is false and the server counts as one of a single model; from then on `capabilities` say what it is.

    While a single model loads, every path answers 503: `ping` says so, and requests retry. A router answers `/health`
    with no model loaded at all.
    """

    type = "llama.cpp"
    capabilities = SINGLE

    def __init__(self, spec: BackendSpec, transport: Transport) -> None:
        super().__init__(spec, transport)
        self._root = spec.url.rstrip("/").removesuffix("/v1")
        self._aliases: dict[str, str] = {}
        self.is_settled = False

    @property
    def is_router(self) -> bool:
        """Whether it is known to be a router over many models."""
        return self.capabilities.can_load

    def url_of(self, path: str) -> str:
        """Return the full URL: what only llama.cpp has lives beside `/v1`, all else under it."""
        return self._root + path if path.startswith(_BESIDE_V1) else f"{self._root}/v1{path}"

    def canonical(self, model: str) -> str:
        """Return the id a router lists a model under, where it was asked for by an alias."""
        return self._aliases.get(model, model)

    async def settle(self) -> None:
        """Find out whether it is a router, if that is not known yet. Raises `AttemptError` if it cannot be told now."""
        if self.is_settled:
            return
        try:
            await self._entries()
        except AttemptError as exc:
            if exc.kind not in _LISTS_NOTHING:
                raise
            self.is_settled = True

    async def ping(self) -> None:
        """Raise `AttemptError` while it loads its one model or does not answer."""
        await self.call_json("GET", "/health")

    async def list_models(self) -> tuple[ModelInfo, ...]:
        """Read `/v1/models`; of a router, all it could load but what it still downloads."""
        entries = [entry for entry in await self._entries() if _status(entry) != "downloading"]
        return tuple(_model_info(entry, self.capabilities) for entry in entries)

    async def running(self) -> tuple[LoadedModel, ...]:
        """List the models a router holds; nothing for a single one, which nobody can take out of memory.

        A sleeping model counts as held: it takes its memory again without asking when the next request comes.
        """
        if self.is_settled and not self.is_router:
            return ()
        return tuple(LoadedModel(id=entry["id"]) for entry in await self._entries() if _status(entry) in _HELD)

    async def load(self, model: str) -> None:
        """Tell a router to load, which it only takes note of, and wait until the model is there.

        Raises `AttemptError` of kind `MODEL_FAILED`, with the child's exit code, when it ends instead.
        """
        try:
            await self.call_json("POST", "/models/load", {"model": model})
        except AttemptError as exc:
            if not _says(exc, "already running"):  # somebody's request was first: that load is as good as ours
                raise
        with anyio.move_on_after(LOAD_TIMEOUT_S):
            await self._until_ready(model)
            return
        raise self._model_failed(f"'{model}' was not loaded within {LOAD_TIMEOUT_S:g} s", status=504)

    async def unload(self, model: str) -> None:
        """Tell a router to unload and wait until the child, and its memory with it, is gone.

        Raises `AttemptError` (504) when it is still there after fifteen seconds.
        """
        try:
            await self.call_json("POST", "/models/unload", {"model": model})
        except AttemptError as exc:
            if exc.kind is FailureKind.MODEL_MISSING or _says(exc, "not running"):
                return
            raise
        with anyio.move_on_after(UNLOAD_TIMEOUT_S):
            while await self._status_of(model) in _HELD:  # noqa: ASYNC110 - nobody is told when it is gone
                await anyio.sleep(POLL_S)
            return
        raise AttemptError(
            f"backend '{self.name}' still holds '{model}' {UNLOAD_TIMEOUT_S:g} s after it was told to unload it",
            kind=FailureKind.SERVER,
            status=504,
            engine_busy=True,
        )

    async def is_idle(self, model: str) -> bool | None:
        """Tell from `/slots` whether nothing is being processed; None when the server hides them.

        A server that sleeps is idle, and is not asked for its slots: that would keep it awake.
        """
        try:
            if self.is_router:
                return await self._child_is_idle(model)
            return await self._is_asleep() or await self._slots_are_idle("/slots")
        except AttemptError as exc:
            return True if exc.kind is FailureKind.CONNECT else None  # no server, nothing at work

    def classify(self, status: int, headers: Headers, body: bytes) -> AttemptError:
        """Say what an answer that is not 200 means; a router says 400 to a model it does not know."""
        error = super().classify(status, headers, body)
        if status in (400, 404, 500) and _UNKNOWN_MODEL.search(error.message):
            return AttemptError(
                error.message,
                kind=FailureKind.MODEL_MISSING,
                status=404,
                code="model_not_found",
                type="invalid_request_error",
                param="model",
            )
        if status == 400 and _NOT_LOADED.search(error.message):
            return self._model_failed(error.message)
        if status in (400, 500) and _LOST_CHILD.search(error.message):
            # The router gave the request to a child it had just evicted: nothing ran, and asking again loads it anew.
            # STALE is "the same candidate at once, one time", and no mark against the server.
            return AttemptError(error.message, kind=FailureKind.STALE, status=502)
        return error

    async def _entries(self) -> list[dict[str, Any]]:
        """Read the list of models and learn from it what kind of server this is."""
        entries = await self._listed()
        routed = any(_status(entry) is not None for entry in entries)
        if not entries:  # a router without models, or a server that hides its own
            props = await self._props()
            routed = props.get("role") == "router"
        self.capabilities = ROUTER if routed else SINGLE
        self._aliases = _aliases(entries) if routed else {}
        self.is_settled = True
        return entries

    async def _listed(self) -> list[dict[str, Any]]:
        answer = await self.call_json("GET", "/models", timeout_s=LIST_TIMEOUT_S)
        entries = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(entries, list):
            raise AttemptError(
                f"backend '{self.name}' lists no models: /models holds no 'data'",
                kind=FailureKind.PROTOCOL,
                code="upstream_protocol",
            )
        return [e for e in entries if isinstance(e, dict) and isinstance(e.get("id"), str) and e["id"]]

    async def _props(self) -> dict[str, Any]:
        """Read `/props`; empty where they are hidden. Raises `AttemptError` when there is no server."""
        try:
            props = await self.call_json("GET", "/props", timeout_s=IDLE_TIMEOUT_S)
        except AttemptError as exc:
            if exc.kind is FailureKind.CONNECT:
                raise
            return {}
        return props if isinstance(props, dict) else {}

    async def _entry(self, model: str) -> dict[str, Any]:
        for entry in await self._entries():
            if model == entry["id"] or model in _strings(entry.get("aliases")):
                return entry
        return {}

    async def _status_of(self, model: str) -> str | None:
        return _status(await self._entry(model))

    async def _until_ready(self, model: str) -> None:
        begun = False
        unseen_until = anyio.current_time() + LOAD_START_S
        while True:
            entry = await self._entry(model)
            status = _status(entry)
            if status in _READY:
                return
            begun = begun or status == "loading"
            if status == "unloaded" and entry["status"].get("failed"):
                raise self._model_failed(f"'{model}' failed to load (exit code {entry['status'].get('exit_code')})")
            if status not in _HELD and (begun or anyio.current_time() >= unseen_until):
                raise self._model_failed(f"'{model}' was unloaded before it was ready")
            await anyio.sleep(POLL_S)

    async def _is_asleep(self) -> bool:
        return (await self._props()).get("is_sleeping") is True

    async def _child_is_idle(self, model: str) -> bool | None:
        status = await self._status_of(model)
        if status == "loaded":
            # Without `autoload=0` a question about a model that was unloaded just now would load it again.
            return await self._slots_are_idle(f"/slots?model={quote(model, safe='')}&autoload=0")
        return status != "loading"

    async def _slots_are_idle(self, path: str) -> bool | None:
        slots = await self.call_json("GET", path, timeout_s=IDLE_TIMEOUT_S)
        if not isinstance(slots, list):
            return None
        return not any(isinstance(slot, dict) and slot.get("is_processing") for slot in slots)

    def _model_failed(self, message: str, *, status: int = 502) -> AttemptError:
        return AttemptError(message, kind=FailureKind.MODEL_FAILED, status=status)


def _status(entry: dict[str, Any]) -> str | None:
    """Return what a router says of a model; None for the list of a single-model server."""
    status = entry.get("status")
    value = status.get("value") if isinstance(status, dict) else None
    return value if isinstance(value, str) else None


def _model_info(entry: dict[str, Any], engine: Capabilities) -> ModelInfo:
    created, owner, meta = (entry.get(key) for key in ("created", "owned_by", "meta"))
    meta = meta if isinstance(meta, dict) else {}
    takes = _modalities(entry)
    return ModelInfo(
        id=entry["id"],
        created=created if isinstance(created, int) else 0,
        owned_by=owner if isinstance(owner, str) else "",
        size_bytes=_positive(meta.get("size")),
        capabilities=("vision",) if "image" in takes else (),
        can=replace(
            engine,
            # A router knows what a model takes only once it has loaded it, and says "text" until then.
            vision="image" in takes or not takes or _status(entry) not in {None, *_READY},
            context_length=_positive(meta.get("n_ctx")),
        ),
    )


def _modalities(entry: dict[str, Any]) -> tuple[str, ...]:
    shape = entry.get("architecture")
    return _strings(shape.get("input_modalities")) if isinstance(shape, dict) else ()


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _aliases(entries: list[dict[str, Any]]) -> dict[str, str]:
    ids = {entry["id"] for entry in entries}
    return {alias: e["id"] for e in entries for alias in _strings(e.get("aliases")) if alias not in ids}


def _strings(value: Any) -> tuple[str, ...]:
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def _says(error: AttemptError, text: str) -> bool:
    return error.status == 400 and text in error.message
