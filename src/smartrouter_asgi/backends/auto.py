"""A backend whose kind is found out when it is first used, by the shape of its answers and never by its port."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import anyio

from ..deployment import Capabilities, Deployment, LoadedModel, ModelInfo
from ..exceptions import AttemptError, ConfigurationError, FailureKind
from ..transport.http import Transport
from ..wire.call import Call
from .base import Backend, BackendSpec, Undecided, Upstream
from .credentials import KeyState
from .http import HTTPBackend

PROBE_TIMEOUT_S = 2.0
DETECT_TIMEOUT_S = 8.0
LIST_PATH = "/v1/models"

_NOT_THERE = frozenset(
    {FailureKind.REJECTED, FailureKind.MODEL_MISSING, FailureKind.MODEL_FAILED, FailureKind.PROTOCOL}
)
"""Answers that say something about the kind of server: it has no such path."""


class AutoBackend:
    """Asks the server what it is, once it answers, and is that backend from then on."""

    type = "auto"

    def __init__(self, spec: BackendSpec, transport: Transport) -> None:
        self.name = spec.name
        self._spec = spec
        self._transport = transport
        self._found: Backend | None = None
        self._lock: anyio.Lock | None = None
        self._failure: AttemptError | None = None
        self._failed_at = float("-inf")

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do; the defaults until it is known."""
        return self._found.capabilities if self._found is not None else Capabilities()

    @property
    def cancels_natively(self) -> bool:
        """Whether a call may be cancelled in any way; not while it is still to be found out what the engine is."""
        return bool(getattr(self._found, "cancels_natively", False))

    @property
    def is_settled(self) -> bool:
        """Whether it is known what the engine is, and what it can do."""
        return self._found is not None and (not isinstance(self._found, Undecided) or self._found.is_settled)

    async def settle(self) -> None:
        """Find out what the engine is, and what it can do. Raises `AttemptError` if it cannot be told now."""
        found = await self.found()
        if isinstance(found, Undecided):
            await found.settle()

    async def found(self) -> Backend:
        """Return the real backend. Raises `AttemptError` while the server does not answer or is of no known kind."""
        if self._found is None:
            if self._lock is None:
                self._lock = anyio.Lock()
            asked_at = time.monotonic()
            async with self._lock:
                if self._found is None:
                    if self._failure is not None and self._failed_at >= asked_at:
                        raise self._failure  # of the look that was under way: what it saw is true for all who waited
                    try:
                        self._found = await self._look()
                    except AttemptError as exc:
                        self._failure, self._failed_at = exc, time.monotonic()
                        raise
        return self._found

    async def _look(self) -> Backend:
        from .registry import create_backend

        kind = await detect(self._spec, self._transport)
        if kind is None:
            raise AttemptError(
                f"backend '{self.name}' answers like no engine known here: set its `type`",
                kind=FailureKind.PROTOCOL,
                code="upstream_protocol",
            )
        spec = dataclasses.replace(self._spec, type=kind, url=url_for(kind, self._spec.url))
        backend = create_backend(spec, self._transport)
        self.type = kind
        return backend

    def check(self, call: Call, deployment: Deployment) -> None:
        """Refuse what the engine cannot do, once its kind is known."""
        if self._found is not None:
            self._found.check(call, deployment)

    async def open(self, call: Call, deployment: Deployment) -> Upstream:
        """Send a call; see `Backend.open`."""
        return await (await self.found()).open(call, deployment)

    async def list_models(self) -> tuple[ModelInfo, ...]:
        """List what it can serve."""
        return await (await self.found()).list_models()

    async def ping(self) -> None:
        """Raise `AttemptError` unless it answers."""
        await (await self.found()).ping()

    async def running(self) -> tuple[LoadedModel, ...]:
        """List the models in memory."""
        return await (await self.found()).running()

    async def load(self, model: str) -> None:
        """Bring a model into memory."""
        await (await self.found()).load(model)

    async def unload(self, model: str) -> None:
        """Take a model out of memory."""
        await (await self.found()).unload(model)

    async def is_idle(self, model: str) -> bool | None:
        """Tell whether the engine has stopped working on a model."""
        return await (await self.found()).is_idle(model)

    def canonical(self, model: str) -> str:
        """Return the id under which the engine lists a model, once its kind is known."""
        return self._found.canonical(model) if self._found is not None else model

    def key_states(self) -> tuple[KeyState, ...]:
        """Tell how its keys are, once its kind is known."""
        return self._found.key_states() if self._found is not None else ()

    async def aclose(self) -> None:
        """Let go of what it holds."""
        if self._found is not None:
            await self._found.aclose()


async def detect(spec: BackendSpec, transport: Transport, *, within_s: float = DETECT_TIMEOUT_S) -> str | None:
    """Find out which kind of engine answers at a URL; None when it is none that is known.

    Asks one question after another until an answer has a shape that only one kind of engine gives; a list of models
    that looks like nobody's in particular means `openai`. At most nine GETs, none of which runs, loads or wakes a
    model: LiteLLM's `/health` above all is never asked, since it calls every model. Raises `AttemptError` when nothing
    answers, or when the answer is that it cannot answer now (llama.cpp says 503 to every question while it loads) or
    not to us (a wrong key).
    """
    probe = HTTPBackend(dataclasses.replace(spec, url=root_of(spec.url)), transport)
    lists = False
    failure: AttemptError | None = None
    with anyio.move_on_after(within_s) as scope:
        for path, read in _SIGNS:
            answer = await _ask(probe, path)
            if isinstance(answer, AttemptError):
                if path == LIST_PATH:
                    raise answer
                failure = failure or answer
                continue
            kind = read(answer)
            if kind is not None:
                return kind if _is_known(kind) else "openai"
            lists = lists or (path == LIST_PATH and _rows(answer, "data") is not None)
    if lists:
        return "openai"
    if failure is None and scope.cancelled_caught:
        failure = _too_slow(spec.name, within_s)
    if failure is not None:
        raise failure
    return None


def root_of(url: str) -> str:
    """Return the root of an engine: its address without the version of its API."""
    return url.rstrip("/").removesuffix("/v1")


def url_for(kind: str, url: str) -> str:
    """Return the address of an engine as its backend type wants it written: `openai` alone needs the version."""
    return root_of(url) + "/v1" if kind == "openai" else url


def _ollama(answer: Any) -> str | None:
    return "ollama" if isinstance(answer, dict) and isinstance(answer.get("version"), str) else None


def _by_owner(answer: Any) -> str | None:
    """Read a list of models whose every entry names the engine itself as its owner."""
    rows = _rows(answer, "data")
    if not rows:
        return None
    if all(isinstance(row.get("meta"), dict) and "llamaswap" in row["meta"] for row in rows):
        return "llama-swap"
    owners = {row.get("owned_by") for row in rows}
    owner = owners.pop() if len(owners) == 1 else None
    return _OWNERS.get(owner) if isinstance(owner, str) else None


def _llama_cpp(answer: Any) -> str | None:
    if not isinstance(answer, dict):
        return None
    return "llama.cpp" if "default_generation_settings" in answer or answer.get("role") == "router" else None


def _llama_swap(answer: Any) -> str | None:
    rows = _rows(answer, "running")
    return None if rows is None or any("model" not in row for row in rows) else "llama-swap"


def _lm_studio(answer: Any) -> str | None:
    """Read its list of downloaded models: version 1 has `loaded_instances`, version 0 a `state`."""
    rows = _rows(answer, "models")
    if rows is not None:
        return "lmstudio" if all("loaded_instances" in row for row in rows) else None
    rows = _rows(answer, "data")
    return "lmstudio" if rows and all(row.get("state") in ("loaded", "not-loaded") for row in rows) else None


def _tgi(answer: Any) -> str | None:
    told = isinstance(answer, dict) and isinstance(answer.get("model_id"), str)
    return "tgi" if told and ("max_total_tokens" in answer or "max_concurrent_requests" in answer) else None


def _litellm(answer: Any) -> str | None:
    return "litellm" if answer == "I'm alive!" else None


def _localai(answer: Any) -> str | None:
    return "localai" if isinstance(answer, dict) and isinstance(answer.get("backends"), list) else None


_SIGNS: tuple[tuple[str, Callable[[Any], str | None]], ...] = (
    ("/api/version", _ollama),
    (LIST_PATH, _by_owner),
    ("/props", _llama_cpp),
    ("/running", _llama_swap),
    ("/api/v1/models", _lm_studio),
    ("/api/v0/models", _lm_studio),
    ("/info", _tgi),
    ("/health/liveliness", _litellm),
    ("/system", _localai),
)
"""What is asked, in this order, and who gives which answer. All are free, quick and wake nothing."""

_OWNERS = {"llamacpp": "llama.cpp", "vllm": "vllm", "sglang": "sglang", "llama-swap": "llama-swap"}
"""Engines that call themselves the owner of what they serve."""


def _rows(answer: Any, name: str) -> list[dict[str, Any]] | None:
    """Return a list of objects, bare or under a name; None when there is no such list."""
    found = answer.get(name) if isinstance(answer, dict) else answer if name == "data" else None
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        return None
    return found


def _is_known(kind: str) -> bool:
    from .registry import find_factory

    try:
        find_factory(kind)
    except ConfigurationError:
        return False
    return True


def _too_slow(name: str, within_s: float) -> AttemptError:
    return AttemptError(
        f"backend '{name}' did not tell within {within_s:g} s what it is",
        kind=FailureKind.FIRST_TOKEN_TIMEOUT,
        status=504,
        code="deadline_exceeded",
        type="timeout_error",
    )


async def _ask(probe: HTTPBackend, path: str) -> Any:
    """Return the JSON under a path; None where there is no such thing, an `AttemptError` when it cannot be told now."""
    try:
        return await probe.call_json("GET", path, timeout_s=PROBE_TIMEOUT_S)
    except AttemptError as exc:
        if exc.kind is FailureKind.CONNECT:
            raise
        return None if exc.kind in _NOT_THERE else exc
