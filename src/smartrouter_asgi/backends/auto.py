"""A backend whose kind is found out when it is first used, by the shape of its answers and never by its port."""

from __future__ import annotations

import dataclasses
from typing import Any

import anyio

from ..deployment import Capabilities, Deployment, LoadedModel, ModelInfo
from ..exceptions import AttemptError, FailureKind
from ..transport.http import Transport
from ..wire.call import Call
from .base import Backend, BackendSpec, Upstream
from .http import HTTPBackend

PROBE_TIMEOUT_S = 2.0

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

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do; the defaults until it is known."""
        return self._found.capabilities if self._found is not None else Capabilities()

    @property
    def is_settled(self) -> bool:
        """Whether it is known what the engine is."""
        return self._found is not None

    async def found(self) -> Backend:
        """Return the real backend. Raises `AttemptError` while the server does not answer or is of no known kind."""
        if self._found is None:
            if self._lock is None:
                self._lock = anyio.Lock()
            async with self._lock:
                if self._found is None:
                    self._found = await self._look()
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
        self.type = kind
        url = self._spec.url
        if kind == "openai" and not url.endswith("/v1"):
            url += "/v1"
        return create_backend(dataclasses.replace(self._spec, type=kind, url=url), self._transport)

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

    async def aclose(self) -> None:
        """Let go of what it holds."""
        if self._found is not None:
            await self._found.aclose()


async def detect(spec: BackendSpec, transport: Transport) -> str | None:
    """Find out which kind of engine answers at a URL; None when it is none that is known.

    `/api/version` with a version is Ollama's, `/props` with `default_generation_settings` llama.cpp's, a list under
    `/v1/models` anybody else's. Raises `AttemptError` when nothing answers, or when the answer is that it cannot answer
    now (llama.cpp says 503 to every question while it loads) or not to us (a wrong key).
    """
    root = spec.url.removesuffix("/v1")
    probe = HTTPBackend(dataclasses.replace(spec, url=root), transport)
    version = await _ask(probe, "/api/version")
    if isinstance(version, dict) and isinstance(version.get("version"), str):
        return "ollama"
    props = await _ask(probe, "/props")
    if isinstance(props, dict) and ("default_generation_settings" in props or props.get("role") == "router"):
        return "llama.cpp"
    listed = await _ask(probe, "/v1/models")
    if isinstance(listed, list) or (isinstance(listed, dict) and isinstance(listed.get("data"), list)):
        owners = (
            {m.get("owned_by") for m in listed.get("data", ()) if isinstance(m, dict)}
            if isinstance(listed, dict)
            else set()
        )
        return "llama.cpp" if "llamacpp" in owners else "openai"
    for answer in (listed, props, version):
        if isinstance(answer, AttemptError):
            raise answer
    return None


async def _ask(probe: HTTPBackend, path: str) -> Any:
    """Return the JSON under a path; None where there is no such thing, an `AttemptError` when it cannot be told now."""
    try:
        return await probe.call_json("GET", path, timeout_s=PROBE_TIMEOUT_S)
    except AttemptError as exc:
        if exc.kind is FailureKind.CONNECT:
            raise
        return None if exc.kind in _NOT_THERE else exc
