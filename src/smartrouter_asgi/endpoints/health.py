"""Is it alive, is it ready, who answers: `/healthz`, `/readyz`, `/health`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..backends.base import Backend
from ..exceptions import SmartRouterError

TTL_S = 1.0
PING_TIMEOUT_S = 2.0


class BackendHealth:
    """Asks every backend whether it answers: all at once, at most once a second, once for all who want to know."""

    def __init__(self, backends: Mapping[str, Backend], breaker_state: Callable[[str], str]) -> None:
        self._backends = backends
        self._breaker_state = breaker_state
        self._asking: asyncio.Task[dict[str, dict[str, Any]]] | None = None
        self._known: dict[str, dict[str, Any]] = {}
        self._known_at = float("-inf")

    async def states(self) -> dict[str, dict[str, Any]]:
        """Return `{backend: {"state": "up" | "down", "type", "breaker", "reason"?}}`; reasons hold no URL."""
        if time.monotonic() - self._known_at <= TTL_S:
            return self._known
        loop = asyncio.get_running_loop()
        if self._asking is None or self._asking.done() or self._asking.get_loop() is not loop:
            self._asking = loop.create_task(self._ask_all())
        return await asyncio.shield(self._asking)

    async def _ask_all(self) -> dict[str, dict[str, Any]]:
        answers = await asyncio.gather(*(self._ask(backend) for backend in self._backends.values()))
        self._known = dict(zip(self._backends, answers, strict=True))
        self._known_at = time.monotonic()
        return self._known

    async def _ask(self, backend: Backend) -> dict[str, Any]:
        state: dict[str, Any] = {"state": "up", "type": backend.type}
        try:
            with anyio.fail_after(PING_TIMEOUT_S):
                await backend.ping()
        except TimeoutError:
            state |= {"state": "down", "reason": f"it has not answered within {PING_TIMEOUT_S:g} s"}
        except SmartRouterError as exc:
            state |= {"state": "down", "reason": exc.message}
        except Exception as exc:  # a backend from outside the package: its bug must not hide the others' health
            state |= {"state": "down", "reason": f"its adapter failed with {type(exc).__name__}"}
        state["type"] = backend.type
        state["breaker"] = self._breaker_state(backend.name)
        return state


def health_routes(health: BackendHealth, draining: Callable[[], bool]) -> list[Route]:
    """Return the three routes."""

    async def summary(request: Request) -> Response:
        states = await health.states()
        up = any(state["state"] == "up" for state in states.values())
        status = "draining" if draining() else "ok" if up else "down"
        return JSONResponse({"status": status, "backends": states}, status_code=200 if up else 503)

    async def alive(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(request: Request) -> Response:
        if draining():
            return JSONResponse({"status": "draining"}, status_code=503)
        return JSONResponse({"status": "ok"})

    return [
        Route("/health", summary, methods=["GET"]),
        Route("/healthz", alive, methods=["GET"]),
        Route("/readyz", ready, methods=["GET"]),
    ]
