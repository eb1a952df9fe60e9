"""llama-swap: a proxy that starts and stops one engine's process per model, OpenAI-compatible under /v1."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import anyio
import msgspec

from ..deployment import Capabilities, LoadedModel, ModelInfo
from ..exceptions import AttemptError, FailureKind
from ..transport.http import Transport
from ..types import Headers
from ..wire.decoding import JSON_ERRORS
from ..wire.upstream_errors import scrub
from .base import BackendSpec
from .http import LIST_TIMEOUT_S
from .openai_compat import OpenAICompatBackend

LOAD_TIMEOUT_S = 600.0
UNLOAD_TIMEOUT_S = 30.0
"""It gives a process ten seconds to stop, longer where it is so configured, and kills it then."""
POLL_S = 0.25
MAX_TEXT_BYTES = 64 * 1024

_BESIDE_V1 = ("/health", "/running", "/unload", "/upstream/", "/api/")
_GONE = frozenset({"stopped", "shutdown"})
_SHUTTING_DOWN = re.compile(r"\bshutting down\b", re.IGNORECASE)
_UNKNOWN_MODEL = re.compile(r"\bcould not find real modelID\b|\bno router for\b|\bmodel not found\b", re.IGNORECASE)


class LlamaSwapBackend(OpenAICompatBackend):
    """One llama-swap. `url` may end in `/v1` or not.

    It swaps by rules of its own, by groups and by count, and knows nothing of GPU memory: the gate decides before it
    what fits, and believes `/running` where llama-swap did something else.
    """

    type = "llama-swap"
    capabilities = Capabilities(can_load=True, can_report_loaded=True, can_report_idle=True, loads_on_demand=True)

    def __init__(self, spec: BackendSpec, transport: Transport) -> None:
        super().__init__(spec, transport)
        self._root = spec.url.rstrip("/").removesuffix("/v1")
        self._aliases: dict[str, str] = {}

    def url_of(self, path: str) -> str:
        """Return the full URL: the API of OpenAI lies under `/v1`, llama-swap's own beside it."""
        return self._root + path if path.startswith(_BESIDE_V1) else f"{self._root}/v1{path}"

    def canonical(self, model: str) -> str:
        """Return the id under which a model is configured, where it was asked for by an alias that is listed."""
        return self._aliases.get(model, model)

    async def ping(self) -> None:
        """Raise `AttemptError` unless `/health` answers; that it is ready says nothing of any model."""
        await self._call_within(LIST_TIMEOUT_S, "GET", "/health")

    async def list_models(self) -> tuple[ModelInfo, ...]:
        """Read `/v1/models`; those of its peers, and its selectors among models, are `remote`: no process is theirs."""
        answer = await self.call_json("GET", "/models", timeout_s=LIST_TIMEOUT_S)
        entries = self._rows(answer, "data", "id")
        self._aliases = _aliases(entries)
        return tuple(_model_info(entry) for entry in entries)

    async def running(self) -> tuple[LoadedModel, ...]:
        """Read `/running`: the models with a process, one that starts or stops included."""
        return tuple(LoadedModel(id=model) for model in await self._states())

    async def load(self, model: str) -> None:
        """Start a model's process by asking for its health through llama-swap; returns once it answers.

        Raises `AttemptError` of kind `MODEL_FAILED` when the process does not come up. A load goes on in llama-swap
        even when this call is cancelled.
        """
        try:
            await self._call_within(LOAD_TIMEOUT_S, "GET", f"/upstream/{quote(model, safe='')}/health")
        except AttemptError as exc:
            if exc.kind in (FailureKind.MODEL_MISSING, FailureKind.CONNECT, FailureKind.AUTH):
                raise
            # An engine without a `/health` of its own answers 404 for it, and is up all the same.
            if (await self._states()).get(self.canonical(model)) != "ready":
                raise _load_failure(exc) from exc

    async def unload(self, model: str) -> None:
        """Stop a model's process and wait until it is gone; llama-swap does not wait for its requests.

        Raises `AttemptError` (504) when it still runs after thirty seconds.
        """
        with anyio.move_on_after(UNLOAD_TIMEOUT_S):
            try:
                await self._call("POST", f"/api/models/unload/{quote(model, safe='')}")
            except AttemptError as exc:
                if exc.kind is FailureKind.MODEL_MISSING:
                    return
                raise
            while self.canonical(model) in await self._states():  # noqa: ASYNC110 - nobody is told when it is gone
                await anyio.sleep(POLL_S)
            return
        raise self._still_running(f"'{model}'")

    async def unload_all(self) -> None:
        """Stop every process and wait until all are gone. Raises `AttemptError` (504) when one still runs."""
        with anyio.move_on_after(UNLOAD_TIMEOUT_S):
            await self._call("GET", "/unload")
            while await self._states():  # noqa: ASYNC110 - nobody is told when they are gone
                await anyio.sleep(POLL_S)
            return
        raise self._still_running("a model")

    async def is_idle(self, model: str) -> bool | None:
        """Tell that a model without a process is idle; of one with a process it cannot be told."""
        try:
            states = await self._states(timeout_s=1.0)
        except AttemptError as exc:
            return True if exc.kind is FailureKind.CONNECT else None  # no llama-swap, no processes of its own
        return None if self.canonical(model) in states else True

    def classify(self, status: int, headers: Headers, body: bytes) -> AttemptError:
        """Say what an answer that is not 200 means; errors of llama-swap's own, not an engine's, say so by `src`.

        Its own 404, whatever the words, is about the model's name: the path is there. Its own 5xx says that a process
        did not start, died or is being stopped: that is the model's failure, and llama-swap, which could tell, is well;
        it must not open the breaker of the models beside it. Only while it shuts down itself is it the server's. A 5xx
        without `src` is an engine's, or of a connection to one that died while it answered: it may be tried again,
        and llama-swap then starts the process anew.
        """
        error = super().classify(status, headers, body)
        if error.kind is FailureKind.RATE_LIMITED or not _is_own(body):
            return error
        if status == 404 or (status == 400 and _UNKNOWN_MODEL.search(error.message)):
            return AttemptError(
                _words(body) or error.message,
                kind=FailureKind.MODEL_MISSING,
                status=404,
                code="model_not_found",
                type="invalid_request_error",
                param="model",
            )
        if error.kind is FailureKind.SERVER and not _SHUTTING_DOWN.search(error.message):
            return AttemptError(error.message, kind=FailureKind.MODEL_FAILED, status=error.status)
        return error

    async def _call(self, method: str, path: str) -> None:
        """Do one request of which only the status counts: some of its answers are `OK`, an engine's may be anything."""
        answer = await self._send_with_any(method, path, b"")
        try:
            await answer.read(MAX_TEXT_BYTES)
        finally:
            await answer.aclose()

    async def _call_within(self, timeout_s: float, method: str, path: str) -> None:
        with anyio.move_on_after(timeout_s):
            return await self._call(method, path)
        raise AttemptError(
            f"backend '{self.name}' did not answer within {timeout_s:g} s",
            kind=FailureKind.FIRST_TOKEN_TIMEOUT,
            status=504,
            code="deadline_exceeded",
            type="timeout_error",
        )

    async def _states(self, *, timeout_s: float = LIST_TIMEOUT_S) -> dict[str, str]:
        """Read `/running`: the state of each model that has a process."""
        answer = await self.call_json("GET", "/running", timeout_s=timeout_s)
        rows = self._rows(answer, "running", "model")
        return {row["model"]: str(row.get("state")) for row in rows if row.get("state") not in _GONE}

    def _rows(self, answer: Any, member: str, key: str) -> list[dict[str, Any]]:
        """Return the objects of an answer's list that have an id. Raises `AttemptError` when there is no list."""
        rows = answer[member] or [] if isinstance(answer, dict) and member in answer else None  # Go's nil is null
        if not isinstance(rows, list):
            raise AttemptError(
                f"backend '{self.name}' answered without a list under '{member}'",
                kind=FailureKind.PROTOCOL,
                code="upstream_protocol",
            )
        return [row for row in rows if isinstance(row, dict) and isinstance(row.get(key), str) and row[key]]

    def _still_running(self, what: str) -> AttemptError:
        return AttemptError(
            f"backend '{self.name}' still runs {what} {UNLOAD_TIMEOUT_S:g} s after it was told to stop it",
            kind=FailureKind.SERVER,
            status=504,
            engine_busy=True,
        )


def _about(entry: dict[str, Any]) -> dict[str, Any]:
    """Return what llama-swap says of a listed model (`meta.llamaswap`)."""
    meta = entry.get("meta")
    about = meta.get("llamaswap") if isinstance(meta, dict) else None
    return about if isinstance(about, dict) else {}


def _aliases(entries: list[dict[str, Any]]) -> dict[str, str]:
    """Say which model each alias is; an alias may be listed as an entry too, with the same aliases beside it."""
    found: dict[str, str] = {}
    for entry in entries:
        aliases = _about(entry).get("aliases")
        names = [name for name in aliases if isinstance(name, str)] if isinstance(aliases, list) else []
        if entry["id"] not in names:
            found.update(dict.fromkeys(names, entry["id"]))
    return found


def _model_info(entry: dict[str, Any]) -> ModelInfo:
    about = _about(entry)
    created, owner = entry.get("created"), entry.get("owned_by")
    return ModelInfo(
        id=entry["id"],
        created=created if isinstance(created, int) else 0,
        owned_by=owner if isinstance(owner, str) else "",
        remote="peerID" in about or about.get("type", "model") != "model",
    )


def _is_own(body: bytes) -> bool:
    """Tell whether an error is llama-swap's own: `{"src": "llama-swap", "error": "text" or {...}}`."""
    value = _decoded(body)
    return isinstance(value, dict) and value.get("src") == "llama-swap"


def _words(body: bytes) -> str | None:
    value = _decoded(body)
    error = value.get("error") if isinstance(value, dict) else None
    text = error.get("message") if isinstance(error, dict) else error
    return scrub(text) if isinstance(text, str) and text else None


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except JSON_ERRORS:
        return None


def _load_failure(error: AttemptError) -> AttemptError:
    """Return what a failed load means: that this model fails here, unless llama-swap itself is to blame."""
    if error.kind is FailureKind.RATE_LIMITED:
        return error
    return AttemptError(
        error.message, kind=FailureKind.MODEL_FAILED, status=error.status, code=error.code, type=error.type
    )
