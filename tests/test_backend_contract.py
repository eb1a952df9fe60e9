"""One contract, every backend: over the simulated Ollama, llama.cpp's real server, and byte-level scripts of the rest.

The tests are those of `smartrouter_asgi.testing.contract`, which authors of other backends run too. Where the scripts'
shapes come from each engine says in `contract/engines.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from smartrouter_asgi.backends import llamacpp, llamaswap, residency
from smartrouter_asgi.backends.auto import AutoBackend
from smartrouter_asgi.backends.base import Backend, BackendSpec, Undecided
from smartrouter_asgi.backends.ollama import OllamaBackend
from smartrouter_asgi.backends.registry import _BUILT_IN, create_backend, find_factory
from smartrouter_asgi.deployment import Deployment
from smartrouter_asgi.testing.contract import BackendContract, chat_call, check_completion
from smartrouter_asgi.testing.ollama import SimulatedOllama, demo_models
from smartrouter_asgi.transport.httpx_transport import HttpxTransport
from smartrouter_asgi.types import Secret
from smartrouter_asgi.wire.stream import PieceKind

from .contract.engines import SCRIPTED, Engine
from .harness.servers import RawServer
from .live.conftest import MODEL, llama, llama_embeddings, tiny_model  # noqa: F401 - fixtures

UNKNOWN = "no-such-model-as-this"
HTTP_IMAGE = {
    "messages": [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}]}
    ]
}
REFUSED: dict[str, Sequence[Mapping[str, Any]]] = {
    "ollama": ({"n": 2}, {"logit_bias": {"1": 5}}, HTTP_IMAGE),
    "anthropic": ({"temperature": 1.5},),
}
"""Fields that a type refuses whatever its engine is; the whole table of verdicts is tested on its own."""


@dataclass(frozen=True)
class Subject:
    """One backend under the contract, its engine running."""

    backend: Backend
    model: str
    embedding_model: str | None = None
    unknown_model: str | None = UNKNOWN
    refused: Sequence[Mapping[str, Any]] = ()
    requests_sent: Callable[[], int] | None = None
    secrets: Sequence[str] = field(default=())


@asynccontextmanager
async def made(type: str, url: str, *, key: str | None = None) -> AsyncIterator[Backend]:
    """A backend of a type, as the router makes it; what it can do has been asked."""
    keys = (Secret(key),) if key else ()
    async with httpx.AsyncClient(verify=False, trust_env=False, timeout=20) as client:
        backend = create_backend(BackendSpec(name="box", type=type, url=url, api_keys=keys), HttpxTransport(client))
        if isinstance(backend, Undecided):
            await backend.settle()
        await backend.list_models()
        yield backend
        await backend.aclose()


@asynccontextmanager
async def scripted(engine: Engine) -> AsyncIterator[Subject]:
    """A backend over a scripted engine; what costs money or wakes a model nobody asks for."""
    async with (
        RawServer(engine) as server,
        made(engine.type, server.base_url + engine.version, key=engine.key) as backend,
    ):
        address = server.base_url.removeprefix("http://")
        yield Subject(
            backend,
            engine.model,
            embedding_model=engine.model if engine.embeds else None,
            unknown_model=None if engine.any_name else UNKNOWN,
            refused=REFUSED.get(engine.type, ()),
            requests_sent=lambda: len(engine.requests),
            secrets=(address, *([engine.key] if engine.key else [])),
        )
    asked = {path for _, path in engine.requests}
    assert not asked & set(engine.forbidden), "this path costs money or wakes a model"


@asynccontextmanager
async def ollama(type: str = "ollama") -> AsyncIterator[Subject]:
    """The simulated Ollama, in its own language."""
    async with (
        SimulatedOllama(demo_models(), time_scale=0.01) as engine,
        made(type, engine.base_url) as backend,
    ):
        yield Subject(
            backend,
            "sim-small:3b",
            embedding_model="sim-embed",
            refused=REFUSED["ollama"],
            requests_sent=lambda: engine.stats.requests,
            secrets=(engine.base_url.removeprefix("http://"),),
        )


@asynccontextmanager
async def real_llama(url: str, *, embeds: bool) -> AsyncIterator[Subject]:
    """llama.cpp's own server, in this process; it serves its one model under any name."""
    async with made("llama.cpp", url) as backend:
        yield Subject(backend, MODEL, embedding_model=MODEL if embeds else None, unknown_model=None)


STARTS: dict[str, tuple[str, Callable[[pytest.FixtureRequest], Any]]] = {
    "Ollama": ("ollama", lambda request: ollama()),
    "Auto": ("auto", lambda request: ollama("auto")),
    "llama.cpp": ("llama.cpp", lambda request: real_llama(request.getfixturevalue("llama"), embeds=False)),
    "llama.cpp-embeddings": (
        "llama.cpp",
        lambda request: real_llama(request.getfixturevalue("llama_embeddings"), embeds=True),
    ),
    **{
        f"scripted-{engine.__name__}": (engine.type, lambda request, engine=engine: scripted(engine()))
        for engine in SCRIPTED
    },
}


class TestBackends(BackendContract):
    """Each test of the contract, for each backend."""

    @pytest.fixture(params=list(STARTS))
    async def subject(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Subject]:
        monkeypatch.setattr(OllamaBackend, "unload_settle_s", 0.01)
        monkeypatch.setattr("smartrouter_asgi.backends.ollama.UNLOAD_POLL_S", 0.01)
        monkeypatch.setattr(residency, "CONFIRM_POLL_S", 0.01)
        for module in (llamacpp, llamaswap):
            monkeypatch.setattr(module, "POLL_S", 0.01)
        _, start = STARTS[request.param]
        async with AsyncExitStack() as stack:
            yield await stack.enter_async_context(start(request))

    @pytest.fixture
    def backend(self, subject: Subject) -> Backend:
        return subject.backend

    @pytest.fixture
    def model(self, subject: Subject) -> str:
        return subject.model

    @pytest.fixture
    def embedding_model(self, subject: Subject) -> str | None:
        return subject.embedding_model

    @pytest.fixture
    def unknown_model(self, subject: Subject) -> str | None:
        return subject.unknown_model

    @pytest.fixture
    def refused_fields(self, subject: Subject) -> Sequence[Mapping[str, Any]]:
        return subject.refused

    @pytest.fixture
    def requests_sent(self, subject: Subject) -> Callable[[], int] | None:
        return subject.requests_sent

    @pytest.fixture
    def secrets(self, subject: Subject) -> Sequence[str]:
        return subject.secrets


def test_every_type_is_under_the_contract():
    """A type that is added to the package has to be added above."""
    assert set(_BUILT_IN) == {type for type, _ in STARTS.values()}


@pytest.mark.parametrize("type", sorted(_BUILT_IN))
def test_every_type_is_found(type: str):
    """The registry imports what it names."""
    assert callable(find_factory(type))


@pytest.mark.parametrize("engine", SCRIPTED, ids=lambda engine: engine.__name__)
def test_every_script_names_its_source(engine: type[Engine]):
    """Shapes are taken from somewhere."""
    assert "source" in vars(engine)
    assert engine.source


@pytest.mark.parametrize("engine", SCRIPTED, ids=lambda engine: engine.__name__)
async def test_leaving_a_stream_cuts_its_connection(engine: type[Engine]):
    """An engine in the middle of an answer learns that nobody wants it any more, and the next call is served."""
    script = engine()
    async with scripted(script) as subject:
        script.stalls = True
        upstream = await subject.backend.open(
            chat_call(subject.model, stream=True), Deployment(backend="box", model=subject.model)
        )
        async with aclosing(upstream.pieces()) as source:
            async for pieces in source:
                if any(piece.kind is PieceKind.CONTENT for piece in pieces):
                    break
        await upstream.aclose()
        async with asyncio.timeout(10):
            await script.left.wait()
        script.stalls = False
        again = await subject.backend.open(chat_call(subject.model), Deployment(backend="box", model=subject.model))
        check_completion((await again.read()).body, "chat")
        await again.aclose()


async def test_auto_is_what_it_found():
    """The contract over `auto` is one over the backend it found."""
    async with ollama("auto") as subject:
        assert isinstance(subject.backend, AutoBackend)
        assert subject.backend.type == "ollama"
