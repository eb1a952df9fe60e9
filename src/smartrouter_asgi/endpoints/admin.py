"""`/admin`: what the operator sees and does."""

from __future__ import annotations

import dataclasses
import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..backends.base import Backend
from ..deployment import Deployment
from ..exceptions import AuthenticationError, NotFoundError, PermissionDeniedError
from ..routing.discovery import Discovery
from ..routing.resolver import not_found
from ..types import Secret
from ..vram.gate import VRAMGate
from .health import BackendHealth

DONE = {"load": "loaded", "unload": "unloaded", "pin": "pinned", "unpin": "unpinned"}
"""What a model can be told, and the word for having done it."""

_FORWARDING = frozenset({"forwarded", "x-real-ip", "via", "cf-connecting-ip", "true-client-ip"})
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


class Operated(Protocol):
    """What the admin endpoints act on; `SmartRouter` is one."""

    discovery: Discovery
    gate: VRAMGate | None
    backends: dict[str, Backend]
    health: BackendHealth

    @property
    def running(self) -> int:
        """How many inference requests run."""

    def drain(self) -> None:
        """Take no new work from now on, and end what still runs after a time."""


class AdminGuard:
    """Lets an operator in: by key, or without one only from this machine, by its own name, not through a proxy."""

    def __init__(self, key: Secret | None) -> None:
        self._key = key

    def check(self, request: Request) -> None:
        """Raise `AuthenticationError` (401) or `PermissionDeniedError` (403) unless the caller may."""
        if self._key:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            given = token.strip() if scheme.lower() == "bearer" else ""
            if not hmac.compare_digest(given.encode(), self._key.reveal().encode()):
                raise AuthenticationError("this needs the admin key: send 'Authorization: Bearer <admin key>'")
            return
        client = request.client.host if request.client is not None else ""
        headers = request.headers
        origin = headers.get("origin")
        if (
            not (_is_loopback(client) and _is_local_host(headers.getlist("host")))
            or any(name in _FORWARDING or name.startswith("x-forwarded-") for name in headers)
            # a page in the operator's own browser, which may send without being allowed to read
            or (origin is not None and urlsplit(origin).hostname not in _LOCAL_HOSTS)
            or headers.get("sec-fetch-site") in ("cross-site", "same-site")
        ):
            raise PermissionDeniedError(
                "without an admin key this is for callers on this machine only: set ROUTER_ADMIN_API_KEY to open it"
            )


def admin_routes(router: Operated, key: Secret | None) -> list[Route]:
    """Return the admin routes, each behind the guard."""
    guard = AdminGuard(key)

    def guarded(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def check_and_serve(request: Request) -> Response:
            guard.check(request)
            return await endpoint(request)

        return check_and_serve

    async def backends(request: Request) -> Response:
        states = await router.health.states()
        ages = router.discovery.ages()
        return JSONResponse(
            {
                name: {
                    **states.get(name, {}),
                    "capabilities": dataclasses.asdict(backend.capabilities),
                    "listed_s_ago": ages.get(name),
                    "keys": [dataclasses.asdict(state) for state in backend.key_states()],
                }
                for name, backend in router.backends.items()
            }
        )

    async def vram(request: Request) -> Response:
        if router.gate is None:
            return JSONResponse({"gated": False, "reason": "no budget is declared and no GPU was detected"})
        return JSONResponse({"gated": True, **dataclasses.asdict(router.gate.snapshot())})

    async def refresh(request: Request) -> Response:
        catalog = await router.discovery.refresh(max_age_s=-1.0, by_operator=True)
        return JSONResponse({"models": list(catalog.names)})

    async def drain(request: Request) -> Response:
        router.drain()
        return JSONResponse({"draining": True, "running": router.running})

    async def act(request: Request) -> Response:
        name, action = request.path_params["name"], request.path_params["action"]
        if action not in DONE:
            raise NotFoundError(f"nothing is served at this path: a model can be told to {', '.join(DONE)}")
        catalog = router.discovery.current()
        group = catalog.find(name)
        if group is None:
            catalog = await router.discovery.refreshed(name)
            group = catalog.find(name)
        if group is None:
            raise router.discovery.why_missing(name) or not_found(name, catalog)
        done = [await _act(router, action, deployment) for deployment in group.deployments]
        return JSONResponse(done[0] if len(done) == 1 else {"deployments": done})

    return [
        Route("/admin/backends", guarded(backends), methods=["GET"]),
        Route("/admin/vram", guarded(vram), methods=["GET"]),
        Route("/admin/models/refresh", guarded(refresh), methods=["POST"]),
        Route("/admin/models/{name:path}/{action}", guarded(act), methods=["POST"]),
        Route("/admin/drain", guarded(drain), methods=["POST"]),
    ]


async def _act(router: Operated, action: str, deployment: Deployment) -> dict[str, Any]:
    """Load, unload, pin or unpin one deployment; what its engine cannot do is said, not failed."""
    gate = router.gate
    done = DONE[action]
    told: dict[str, Any] = {"deployment": deployment.id}
    if not router.backends[deployment.backend].capabilities.can_load:
        return told | {done: False, "reason": "its engine cannot load and unload models"}
    if gate is None or not gate.covers(deployment):
        if action in ("pin", "unpin"):
            return told | {done: False, "reason": "it is not gated: nothing here would ever unload it"}
        backend = router.backends[deployment.backend]
        await (backend.load if action == "load" else backend.unload)(deployment.model)
        return told | {done: True}
    if action == "load":
        await gate.load(deployment)
    elif action == "unload":
        if not await gate.unload(deployment):
            return told | {done: False, "reason": "it was not in memory"}
    else:
        (gate.pin if action == "pin" else gate.unpin)(deployment)
    return told | {done: True}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_local_host(hosts: list[str]) -> bool:
    """Tell whether the one Host header names this machine: a page elsewhere whose name resolves here does not."""
    return len(hosts) == 1 and (urlsplit(f"//{hosts[0]}").hostname or "") in _LOCAL_HOSTS
