"""ASGI layers that do nothing, and the gateway's stack with layers left out."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from starlette.middleware.base import BaseHTTPMiddleware

from smartrouter_asgi import (
    BackendDispatch,
    Catalog,
    ErrorEnvelopeMiddleware,
    ModelGroup,
    ModelResolutionMiddleware,
    ResilienceMiddleware,
    VRAMGate,
    VRAMGateMiddleware,
)

from .answers import MODEL
from .layer_cases import App, Call, null_app, outside
from .stub import StubBackend, deployment

DEPTHS = {
    "pass-through": tuple(range(9)),
    "wrapping send": (1, 2, 4, 8),
    "BaseHTTPMiddleware": (1, 2, 4),
}
STACK = ("envelope", "resolution", "resilience", "gate", "dispatch")
ALWAYS_ON = {"resolution", "dispatch"}
"""Without a route there is nothing to dispatch."""


class PassThrough:
    """The least a layer can do."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await self._app(scope, receive, send)


class WrappingSend:
    """A layer that looks at what is sent."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def seen(message: Any) -> None:
            await send(message)

        await self._app(scope, receive, seen)


class PassThroughBase(BaseHTTPMiddleware):
    """The same as people write it with Starlette."""

    async def dispatch(self, request: Any, call_next: Any) -> Any:
        return await call_next(request)


_KINDS: dict[str, Any] = {
    "pass-through": PassThrough,
    "wrapping send": WrappingSend,
    "BaseHTTPMiddleware": PassThroughBase,
}


def depth_cases() -> dict[tuple[str, int], Call]:
    """Return an app behind so many layers of a kind."""
    return {(kind, layers): outside(_behind(kind, layers)) for kind, counts in DEPTHS.items() for layers in counts}


def _behind(kind: str, layers: int) -> App:
    app: App = null_app
    for _ in range(layers):
        app = _KINDS[kind](app)
    return app


async def stack_cases() -> tuple[dict[tuple[str, ...], Call], VRAMGate]:
    """Return the gateway's layers around a stub backend, by the layers that are left out; and the gate, to be closed.

    The model is resident and every request takes a lease, which remote backends would not.
    """
    target, backend = deployment(gated=True), StubBackend()
    group = ModelGroup(name=MODEL, deployments=(target,))
    catalog = Catalog(models=MappingProxyType({MODEL: group}))
    gate = VRAMGate(budget_bytes=8 * 1024**3, lifecycles={"stub": backend})
    await gate.load(target)

    def stack(off: frozenset[str]) -> Call:
        app: Any = BackendDispatch(backend)
        if "gate" not in off:
            app = VRAMGateMiddleware(app, gate=gate)
        if "resilience" not in off:
            app = ResilienceMiddleware(app)
        app = ModelResolutionMiddleware(app, catalog=catalog)
        return outside(app if "envelope" in off else ErrorEnvelopeMiddleware(app))

    left_out = [(), *[(name,) for name in STACK if name not in ALWAYS_ON], ("envelope", "resilience", "gate")]
    return {off: stack(frozenset(off)) for off in left_out}, gate
