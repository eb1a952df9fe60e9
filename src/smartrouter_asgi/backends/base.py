"""What a backend is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import msgspec

from ..deployment import Capabilities, Deployment, LoadedModel, ModelInfo
from ..exceptions import UnsupportedParameterError
from ..types import Closable, Secret
from ..wire.call import Call
from ..wire.stream import Piece, Usage
from .credentials import KeyState


class PlainAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer in OpenAI shape."""

    body: bytes
    usage: Usage | None = None

    def __repr__(self) -> str:  # not the body: what people say
        return f"PlainAnswer(usage={self.usage!r})"


class Upstream(Protocol):
    """An answer under way. Plain calls use `read`, streams use `pieces`; `aclose` always follows."""

    ignored: tuple[str, ...]
    """Request fields that were accepted without effect."""

    async def read(self) -> PlainAnswer:
        """Read the whole answer. Raises `AttemptError`."""

    def pieces(self) -> Closable[list[Piece]]:
        """Yield the stream as it arrives. Raises `AttemptError` or `FramingError` when it breaks."""

    @property
    def usage(self) -> Usage | None:
        """Token counts, once the engine has told them."""

    async def aclose(self) -> None:
        """Let go of the engine; it stops working for an answer that was not read to its end."""


@runtime_checkable
class Backend(Protocol):
    """One server that serves models, behind one shape. Also a `ModelLifecycle` for the gate.

    `open` is the request path; the rest serves discovery, health and the gate. What an engine cannot do its
    `Capabilities` say, and the method is then never called.
    """

    name: str
    type: str
    capabilities: Capabilities

    def check(self, call: Call, deployment: Deployment) -> None:
        """Raise `UnsupportedParameterError` or another `RequestError` (400) if the engine cannot honour a call.

        Asked before any queueing, so that a request which is refused moves no model, and so that a fallback which
        cannot serve it hides nobody's failure. Pure and quick.
        """

    async def open(self, call: Call, deployment: Deployment) -> Upstream:
        """Send a call and wait for the head of the answer.

        Raises `UnsupportedParameterError` (400) before anything is sent, `AttemptError` otherwise. Cancelled by anyio
        scopes; the engine then loses its connection and stops.
        """

    async def list_models(self) -> tuple[ModelInfo, ...]:
        """List what it can serve. Raises `AttemptError`."""

    async def ping(self) -> None:
        """Raise `AttemptError` unless it answers and is ready."""

    async def running(self) -> tuple[LoadedModel, ...]:
        """List the models in memory now."""

    async def load(self, model: str) -> None:
        """Bring a model into memory; returns when it is there. Raises `AttemptError`."""

    async def unload(self, model: str) -> None:
        """Take a model out of memory; returns when the memory is free again. Raises `AttemptError`."""

    async def is_idle(self, model: str) -> bool | None:
        """Tell whether the engine has stopped working on a model; None when it cannot be told."""

    def canonical(self, model: str) -> str:
        """Return the id under which the engine itself lists a model (Ollama: with its tag)."""

    def key_states(self) -> tuple[KeyState, ...]:
        """Tell how its keys are, without showing them."""

    async def aclose(self) -> None:
        """Let go of what it holds."""


@runtime_checkable
class Undecided(Protocol):
    """A backend that has to ask its engine what it can do; whether its models are gated depends on the answer."""

    @property
    def is_settled(self) -> bool:
        """Whether its `capabilities` are the engine's by now."""

    async def settle(self) -> None:
        """Find out, if that is not known yet. Raises `AttemptError` if it cannot be told now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSpec:
    """What configuration says of one backend, parsed and checked."""

    name: str
    type: str
    url: str
    """Base URL without a trailing slash."""
    api_keys: tuple[Secret, ...] = ()
    headers: Mapping[str, Secret] = field(default_factory=dict)
    keep_alive_s: float | None = None
    """Sent to engines with timers of their own; None leaves the engine's timer alone, negative is for ever."""
    num_ctx: int | None = None
    model_num_ctx: Mapping[str, int] = field(default_factory=dict)
    """Upstream ids with a context size of their own."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings of a backend type from outside the package."""
    gated: bool = False
    """The gate decides what is in memory, and wants to know what models need."""


class BaseBackend:
    """Base of adapters: what an engine cannot do is here already, and says so. Subclasses give `open` and a list."""

    type = "custom"
    capabilities = Capabilities()

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r})"

    def check(self, call: Call, deployment: Deployment) -> None:
        """Refuse the operations that the capabilities exclude; subclasses look at the fields too."""
        if not getattr(deployment.capabilities or self.capabilities, call.operation):
            raise UnsupportedParameterError(
                f"backend '{self.name}', which serves this model, does no {call.operation}", param="model"
            )

    async def open(self, call: Call, deployment: Deployment) -> Upstream:
        """Send a call; see `Backend.open`."""
        raise NotImplementedError(f"{type(self).__name__} does not say how a call is made")

    async def list_models(self) -> tuple[ModelInfo, ...]:
        """List what it can serve; nothing by default, so that only configured models are asked for."""
        return ()

    async def ping(self) -> None:
        """Raise `AttemptError` unless it can list its models."""
        await self.list_models()

    async def running(self) -> tuple[LoadedModel, ...]:
        """List the models in memory; none by default."""
        return ()

    async def load(self, model: str) -> None:
        """Bring a model into memory; only asked where `Capabilities.can_load`."""
        raise NotImplementedError(f"{type(self).__name__} cannot load models")

    async def unload(self, model: str) -> None:
        """Take a model out of memory; only asked where `Capabilities.can_load`."""
        raise NotImplementedError(f"{type(self).__name__} cannot unload models")

    async def is_idle(self, model: str) -> bool | None:
        """Tell whether the engine is idle; None by default: it cannot be told."""
        return None

    def canonical(self, model: str) -> str:
        """Return the id under which the engine itself lists a model; the same by default."""
        return model

    def key_states(self) -> tuple[KeyState, ...]:
        """Tell nothing: it has no keys of its own."""
        return ()

    async def aclose(self) -> None:
        """Let go of nothing."""
