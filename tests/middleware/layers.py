"""The layers, each around an inner app, and inner apps that show what a layer did to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from smartrouter_asgi import (
    Capabilities,
    Catalog,
    Deployment,
    ErrorEnvelopeMiddleware,
    GatePolicy,
    ModelGroup,
    ModelResolutionMiddleware,
    ResilienceMiddleware,
    RetryPolicy,
    VRAMGate,
    VRAMGateMiddleware,
)
from smartrouter_asgi.testing.asgi import http_scope
from smartrouter_asgi.testing.backend import ScriptedBackend
from smartrouter_asgi.types import ASGIApp, Message, Receive, Scope, Send

GIB = 1024**3
CHAT = "/v1/chat/completions"

ALPHA = Deployment(backend="gpu", model="alpha", vram_bytes=6 * GIB, gated=True)
BETA = Deployment(backend="gpu", model="beta", vram_bytes=6 * GIB, gated=True)

CATALOG = Catalog(
    models={
        "chat": ModelGroup(name="chat", deployments=(Deployment(backend="b1", model="upstream"),)),
        "both": ModelGroup(
            name="both",
            deployments=(Deployment(backend="b1", model="one"), Deployment(backend="b2", model="two", order=2)),
        ),
        "alpha": ModelGroup(name="alpha", deployments=(ALPHA,)),
        "beta": ModelGroup(name="beta", deployments=(BETA,)),
    },
    aliases={"gpt-4o": "chat"},
)

QUICK = RetryPolicy(max_retries=3, base_delay_s=0.0, max_delay_s=0.0)


def chat(model: str = "chat", **fields: Any) -> bytes:
    """The body of a chat request."""
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}).encode()


def gpu(name: str = "gpu", **settings: Any) -> ScriptedBackend:
    """An engine that loads and unloads."""
    return ScriptedBackend(name, capabilities=Capabilities(can_load=True, can_report_loaded=True), **settings)


def gate_over(engine: ScriptedBackend, *, budget_gib: int = 8, **policy: Any) -> VRAMGate:
    """A gate on which either `ALPHA` or `BETA` fits."""
    return VRAMGate(budget_bytes=budget_gib * GIB, lifecycles={engine.name: engine}, policy=GatePolicy(**policy))


def enveloped(app: ASGIApp) -> ASGIApp:
    return ErrorEnvelopeMiddleware(app)


def resolved(app: ASGIApp) -> ASGIApp:
    return ModelResolutionMiddleware(app, catalog=CATALOG)


def resilient(app: ASGIApp) -> ASGIApp:
    return ResilienceMiddleware(app, policy=QUICK)


def gated(app: ASGIApp) -> ASGIApp:
    return VRAMGateMiddleware(app, gate=gate_over(gpu()), model_of=lambda scope: ALPHA)


def gated_by_nothing(app: ASGIApp) -> ASGIApp:
    return VRAMGateMiddleware(app, gate=gate_over(gpu()), model_of=lambda scope: None)


Layer = Callable[[ASGIApp], ASGIApp]

LAYERS: dict[str, Layer] = {
    "envelope": enveloped,
    "resolution": resolved,
    "resilience": resilient,
    "gate": gated,
    "gate, nothing to gate": gated_by_nothing,
}
STACKS: dict[str, Layer] = {
    **LAYERS,
    "envelope + resolution": lambda app: enveloped(resolved(app)),
    "envelope + resilience": lambda app: enveloped(resilient(app)),
    "envelope + gate": lambda app: enveloped(gated(app)),
    "resolution + resilience": lambda app: resolved(resilient(app)),
    "resolution + gate": lambda app: resolved(gated(app)),
    "resilience + gate": lambda app: resilient(gated(app)),
    "all": lambda app: enveloped(resolved(resilient(gated(app)))),
}


class Inner:
    """An inner app: notes each call with its whole body, then answers as told, or the next of several ways."""

    def __init__(self, *answers: Callable[[Send], Any] | Exception, status: int = 200, body: bytes = b"inner") -> None:
        self.answers = list(answers)
        self.status = status
        self.body = body
        self.scopes: list[Scope] = []
        self.bodies: list[bytes] = []

    @property
    def calls(self) -> int:
        return len(self.scopes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        self.bodies.append(await whole_body(receive))
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        if answer is not None:
            await answer(send)
        else:
            await say(send, self.status, self.body)


def status(code: int, body: bytes = b"inner", headers: tuple[tuple[bytes, bytes], ...] = ()) -> Callable[[Send], Any]:
    """One way to answer."""

    async def answer(send: Send) -> None:
        await say(send, code, body, headers)

    return answer


async def say(send: Send, code: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    await send({"type": "http.response.start", "status": code, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


async def whole_body(receive: Receive) -> bytes:
    parts = []
    more = True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        parts.append(message["body"])
        more = message.get("more_body", False)
    return b"".join(parts)


class Witness:
    """An inner app that begins a stream and then waits, to see how it ends."""

    def __init__(self, *, commit: bool = True) -> None:
        self.commit = commit
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        self.cancelled = False
        self.over = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await whole_body(receive)
        if self.commit:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"begun ", "more_body": True})
        self.entered.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            self.over.set()
        if not self.commit:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ended"})


async def turns(count: int = 50) -> None:
    """Let everything run that can; what has not happened after that waits for something."""
    for _ in range(count):
        await asyncio.sleep(0)


async def soon(event: asyncio.Event) -> None:
    """Wait for an event, but not for ever."""
    async with asyncio.timeout(10):
        await event.wait()


async def silent(message: Message) -> None:
    """A `send` that nobody listens to."""


def post(path: str = CHAT, **settings: Any) -> Scope:
    return http_scope("POST", path, **settings)
