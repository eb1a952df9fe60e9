"""GPU memory and resilience for an inference service that speaks an API of its own: no gateway, two layers around it.

    python examples/04_in_house_service.py
    curl http://127.0.0.1:8000/models/painter/run -d 'a red fox'
    curl http://127.0.0.1:8000/models/speaker/run -d 'good morning'

The two models need 6 and 5 GiB of a budget of 8: the gate unloads one before it loads the other, and a request enters
the service only while its model is in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, compile_path

from smartrouter_asgi import (
    CallbackLifecycle,
    Deployment,
    LoadedModel,
    ResilienceMiddleware,
    RetryPolicy,
    VRAMGate,
    VRAMGateMiddleware,
)
from smartrouter_asgi.types import ASGIApp, Scope

GIB = 1024**3
SIZES = {"painter": 6 * GIB, "speaker": 5 * GIB}
RUN = "/models/{model}/run"
RUN_PATTERN = compile_path(RUN)[0]


class Engine:
    """Stands for what really holds the weights. Its three methods are all that the gate needs to know."""

    def __init__(self) -> None:
        self.memory: dict[str, int] = {}
        self.history: list[str] = []

    async def load(self, model: str) -> None:
        """Return once the model is in memory; raise when it cannot be."""
        await asyncio.sleep(0.01)
        self.memory[model] = SIZES[model]
        self.history.append(f"load {model}")

    async def unload(self, model: str) -> None:
        """Return once its memory is free."""
        await asyncio.sleep(0.01)
        del self.memory[model]
        self.history.append(f"unload {model}")

    async def running(self) -> tuple[LoadedModel, ...]:
        """List what is in memory."""
        return tuple(LoadedModel(id=model, vram_bytes=size) for model, size in self.memory.items())

    async def run(self, model: str, prompt: bytes) -> AsyncIterator[bytes]:
        for word in prompt.split():
            assert model in self.memory
            yield word[::-1] + b" "
            await asyncio.sleep(0)


def model_of(scope: Scope) -> Deployment | None:
    """Say which model a request needs; None for requests that need no GPU, which pass straight through."""
    match = RUN_PATTERN.match(scope["path"])
    if match is None or match["model"] not in SIZES:
        return None
    # `gated=True`: this deployment needs a lease. `backend` names the lifecycle below.
    return Deployment(backend="gpu", model=match["model"], vram_bytes=SIZES[match["model"]], gated=True)


def create_service(engine: Engine) -> Starlette:
    """Make the in-house service: plain Starlette, which knows nothing of the layers around it."""

    async def run(request: Request) -> Response:
        model = request.path_params["model"]
        if model not in SIZES:
            return JSONResponse({"detail": f"no model {model}"}, status_code=404)
        return StreamingResponse(engine.run(model, await request.body()), media_type="text/plain")

    async def memory(request: Request) -> Response:
        return JSONResponse({"loaded": sorted(engine.memory), "history": engine.history})

    return Starlette(routes=[Route(RUN, run, methods=["POST"]), Route("/memory", memory)])


def create_app(engine: Engine | None = None) -> ASGIApp:
    engine = engine or Engine()
    gate = VRAMGate(
        budget_bytes=8 * GIB,
        lifecycles={"gpu": CallbackLifecycle(load=engine.load, unload=engine.unload, running=engine.running)},
    )
    app: ASGIApp = create_service(engine)
    app = VRAMGateMiddleware(app, gate=gate, model_of=model_of)
    # Outermost: a 503 of the service, or of the gate, is tried again before the client sees it.
    return ResilienceMiddleware(app, policy=RetryPolicy(max_retries=2, base_delay_s=0.1))


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(create_app(), host="127.0.0.1", port=8000)
