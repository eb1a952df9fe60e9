"""A backend without an engine: answers in process, so that the layers can be measured without any network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from smartrouter_asgi import BaseBackend, Capabilities, Deployment, LoadedModel, ModelInfo
from smartrouter_asgi.backends.base import PlainAnswer
from smartrouter_asgi.wire.call import Call
from smartrouter_asgi.wire.openai import OpenAIStreamCodec, read_plain
from smartrouter_asgi.wire.stream import Piece, Usage

from .answers import ANSWER, ENGINE_MODEL, LAST_EVENTS, ROLE_EVENT, stamped_event


class StubUpstream:
    """One answer; each chunk of a stream goes through the codec as if it had been read from a socket."""

    ignored: tuple[str, ...] = ()

    def __init__(self, chunks: int) -> None:
        self._codec = OpenAIStreamCodec("stub")
        self._reads = [ROLE_EVENT + stamped_event(0), *[stamped_event(n) for n in range(1, chunks)], LAST_EVENTS]
        self.usage: Usage | None = None

    async def read(self) -> PlainAnswer:
        self.usage = read_plain("stub", ANSWER)
        return PlainAnswer(body=ANSWER, usage=self.usage)

    async def pieces(self) -> AsyncGenerator[list[Piece], None]:
        for data in self._reads:
            yield self._codec.feed(data)

    async def aclose(self) -> None:
        """Do nothing: nothing is held."""


class StubBackend(BaseBackend):
    """A backend whose models are always loaded; `open` suspends once, as a real one does at least."""

    name = "stub"
    type = "stub"
    capabilities = Capabilities(can_load=True, can_report_loaded=True)

    def __init__(self, chunks: int = 0) -> None:
        super().__init__("stub")
        self._chunks = chunks

    async def open(self, call: Call, deployment: Deployment) -> StubUpstream:
        call.with_model(deployment.model)
        await asyncio.sleep(0)
        return StubUpstream(self._chunks if call.stream else 0)

    async def list_models(self) -> tuple[ModelInfo, ...]:
        return (ModelInfo(id=ENGINE_MODEL),)

    async def ping(self) -> None:
        """Do nothing: it is there."""

    async def running(self) -> tuple[LoadedModel, ...]:
        return (LoadedModel(id=ENGINE_MODEL, vram_bytes=1024**3),)

    async def load(self, model: str) -> None:
        """Do nothing: it is loaded."""

    async def unload(self, model: str) -> None:
        """Do nothing."""

    async def is_idle(self, model: str) -> bool | None:
        return True

    def canonical(self, model: str) -> str:
        return model

    async def aclose(self) -> None:
        """Do nothing."""


def deployment(*, gated: bool = False) -> Deployment:
    """Return the one deployment of the stub."""
    return Deployment(backend="stub", model=ENGINE_MODEL, gated=gated, vram_bytes=1024**3 if gated else None)
