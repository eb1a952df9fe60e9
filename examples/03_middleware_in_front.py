"""Single layers in front of an app that exists already: inference paths are taken, all else passes untouched.

ENGINE_URL=http://127.0.0.1:8080/v1 python examples/03_middleware_in_front.py
curl http://127.0.0.1:8000/                      # the app's own page
curl http://127.0.0.1:8000/v1/chat/completions -d '{"model": "chat", "messages": [{"role": "user", "content": "Hi"}]}'
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from smartrouter_asgi import (
    BackendDispatch,
    BackendSpec,
    Catalog,
    Deployment,
    HttpxTransport,
    ModelGroup,
    ModelResolutionMiddleware,
    OpenAICompatBackend,
    ResilienceMiddleware,
    RetryPolicy,
)

CATALOG = Catalog(
    models={"chat": ModelGroup(name="chat", deployments=(Deployment(backend="engine", model="engine-model"),))},
    aliases={"gpt-4o": "chat"},
)


async def home(request: Request) -> Response:
    return PlainTextResponse("the app's own page")


async def echo(request: Request) -> Response:
    return JSONResponse({"length": len(await request.body())})


def create_app() -> Starlette:
    transport = HttpxTransport()  # the HTTP client: one for all backends
    url = os.environ.get("ENGINE_URL", "http://127.0.0.1:8080/v1")
    engine = OpenAICompatBackend(BackendSpec(name="engine", type="openai", url=url), transport)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await transport.aclose()

    # The layers that serve inference, each of which also works without the others: retries, breaker and deadline around
    # the app that speaks to the engine and streams back.
    inference = ResilienceMiddleware(BackendDispatch(engine), policy=RetryPolicy(max_retries=2, base_delay_s=0.1))

    # The app that exists already, plus two lines: who closes the connections, and what stands in front. POSTs to the
    # inference paths go to `inference`, where "gpt-4o" has become engine-model at the engine; all else passes.
    app = Starlette(routes=[Route("/", home), Route("/echo", echo, methods=["POST"])], lifespan=lifespan)
    app.add_middleware(ModelResolutionMiddleware, catalog=CATALOG, inference=inference)
    return app


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(create_app(), host="127.0.0.1", port=8000)
