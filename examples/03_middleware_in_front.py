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
    Backend,
    BackendDispatch,
    BackendSpec,
    Catalog,
    Deployment,
    ModelGroup,
    ModelResolutionMiddleware,
    OpenAICompatBackend,
    ResilienceMiddleware,
    RetryPolicy,
)
from smartrouter_asgi.middleware.resolution import INFERENCE_PATHS
from smartrouter_asgi.transport.httpx_transport import HttpxTransport
from smartrouter_asgi.types import ASGIApp, Receive, Scope, Send

CATALOG = Catalog(
    models={"chat": ModelGroup(name="chat", deployments=(Deployment(backend="engine", model="engine-model"),))},
    aliases={"gpt-4o": "chat"},
)


def inference(engine: Backend) -> ASGIApp:
    """Three layers around each other; each also works without the others."""
    app: ASGIApp = BackendDispatch(engine)  # speaks to the engine and streams back
    app = ResilienceMiddleware(app, policy=RetryPolicy(max_retries=2, base_delay_s=0.1))  # retries, breaker, deadline
    return ModelResolutionMiddleware(app, catalog=CATALOG)  # "gpt-4o" becomes engine-model at the engine


class InferenceInFront:
    """Takes POSTs to the inference paths; everything else goes on to the app behind as it came."""

    def __init__(self, app: ASGIApp, *, inference: ASGIApp) -> None:
        self.app = app
        self.inference = inference

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        taken = scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in INFERENCE_PATHS
        await (self.inference if taken else self.app)(scope, receive, send)


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

    # The app that exists already, plus two lines: who closes the connections, and what stands in front.
    app = Starlette(routes=[Route("/", home), Route("/echo", echo, methods=["POST"])], lifespan=lifespan)
    app.add_middleware(InferenceInFront, inference=inference(engine))
    # Without the class above, as routes of the app: for each of INFERENCE_PATHS one Route to the same
    # `inference(engine)`, with methods=["POST"]. One stack for all of them: breakers live in it.
    return app


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(create_app(), host="127.0.0.1", port=8000)
