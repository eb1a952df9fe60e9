"""The layers set up to be measured, each with the case whose cost is taken off it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import MappingProxyType
from typing import Any

from smartrouter_asgi import (
    BackendDispatch,
    Catalog,
    ErrorEnvelopeMiddleware,
    ModelGroup,
    ModelResolutionMiddleware,
    ResilienceMiddleware,
    RoutePlan,
    Settings,
    SmartRouter,
    VRAMGate,
    VRAMGateMiddleware,
)
from smartrouter_asgi._asgi import at_the_edge
from smartrouter_asgi.resilience.attempt import Attempt
from smartrouter_asgi.state import SCOPE_KEY, RequestState
from smartrouter_asgi.wire.call import parse_call

from .answers import ANSWER, CHAT_PATH, MODEL, chat_body
from .stub import StubBackend, deployment

Call = Callable[[], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]

CHUNKS = 50
PLAIN, STREAM = chat_body(), chat_body(CHUNKS)
HEADERS = [
    (b"host", b"127.0.0.1:8000"),
    (b"content-type", b"application/json"),
    (b"content-length", b"%d" % len(PLAIN)),
    (b"user-agent", b"benchmark"),
]
_START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
_END = {"type": "http.response.body", "body": ANSWER}


def new_scope() -> dict[str, Any]:
    """Make the scope of one request, as a server would."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "path": CHAT_PATH,
        "raw_path": CHAT_PATH.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": HEADERS,
    }


async def send(message: Any) -> None:
    """Take an answer and drop it."""


def receiver(body: bytes) -> Callable[[], Awaitable[Any]]:
    """Make a `receive` that gives the body and then waits for a client that never leaves."""
    given = False

    async def receive() -> Any:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await asyncio.get_running_loop().create_future()

    return receive


async def null_app(scope: Any, receive: Any, send: Any) -> None:
    """Answer after having suspended once."""
    await asyncio.sleep(0)
    await send(_START)
    await send(_END)


class EdgeOnly:
    """What every layer does when it is outermost, and nothing more."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if SCOPE_KEY in scope and scope[SCOPE_KEY].body is not None:
            await self._app(scope, receive, send)
        else:
            await at_the_edge(self, scope, receive, send)


def outside(app: App, body: bytes = PLAIN) -> Call:
    """Call an app as a server does."""

    async def call() -> None:
        await app(new_scope(), receiver(body), send)

    return call


def inside(app: App, body: bytes = PLAIN, *, gated: bool = False, resolved: bool = True, tried: bool = True) -> Call:
    """Call a layer with the state that the layers outside of it would have made."""
    target = deployment(gated=gated)
    plan = RoutePlan(model=MODEL, candidates=(target,))
    parsed = parse_call("chat", body)

    async def call() -> None:
        state = RequestState(request_id="0123456789abcdef01234567", started=time.monotonic(), body=body)
        if resolved:
            state.endpoint, state.call, state.plan = "chat", parsed, plan
        if tried:
            state.attempt = Attempt(number=1, deployment=target, started=state.started)
            state.attempts = 1

        async def tracked_send(message: Any) -> None:  # the outermost layer notes the commit, as dispatch relies on
            if message["type"] == "http.response.start":
                state.status = message["status"]
            elif not message.get("more_body", False):
                state.complete = True
            await send(message)

        await app({**new_scope(), SCOPE_KEY: state}, receiver(body), tracked_send)

    return call


async def layer_cases() -> tuple[dict[str, Call], list[Callable[[], Awaitable[object]]]]:
    """Return the cases, in the order to show them, and what closes them."""
    group = ModelGroup(name=MODEL, deployments=(deployment(),))
    catalog = Catalog(models=MappingProxyType({MODEL: group}))
    backend = StubBackend(CHUNKS)
    gate = VRAMGate(budget_bytes=8 * 1024**3, lifecycles={"stub": backend})
    await gate.load(deployment(gated=True))
    routers = _router(backend)
    cases = {
        "null app": outside(null_app),
        "null app, state prepared": inside(null_app),
        "error envelope - null app": outside(ErrorEnvelopeMiddleware(null_app)),
        "edge: envelope, body, watcher - null app": outside(EdgeOnly(null_app)),
        "resolution alone - null app": outside(ModelResolutionMiddleware(null_app, catalog=catalog)),
        "resolution inside - null app, state prepared": inside(
            ModelResolutionMiddleware(null_app, catalog=catalog), resolved=False, tried=False
        ),
        "resilience alone - null app": outside(ResilienceMiddleware(null_app)),
        "resilience inside - null app, state prepared": inside(ResilienceMiddleware(null_app), tried=False),
        "gate inside, not covering - null app, state prepared": inside(VRAMGateMiddleware(null_app, gate=gate)),
        "gate inside, model resident - null app, state prepared": inside(
            VRAMGateMiddleware(null_app, gate=gate), gated=True
        ),
        "dispatch inside, plain - null app, state prepared": inside(BackendDispatch(backend)),
        f"dispatch inside, stream of {CHUNKS} - null app, state prepared": inside(BackendDispatch(backend), STREAM),
        "whole router, plain - null app": outside(routers),
        f"whole router, stream of {CHUNKS} - null app": outside(routers, STREAM),
    }
    return cases, [gate.aclose, routers.aclose]


def _router(backend: StubBackend) -> SmartRouter:
    """Make a router that serves from the stub alone."""
    router = SmartRouter(
        Settings.model_validate(
            {"discovery": {"enabled": True}, "vram": {"monitor_enabled": False}, "aliases": {MODEL: "engine-model"}}
        ),
        backends={"stub": backend},
    )
    router._in_lifespan = True  # as under a server that runs the lifespan: nothing to warn of
    return router
