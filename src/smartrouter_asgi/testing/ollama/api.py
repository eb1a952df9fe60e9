"""Every request's way: host check, routing, faults of plain endpoints, errors as JSON, the log."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from typing import TYPE_CHECKING, TypeAlias

from .embedding import EmbeddingEndpoints
from .errors import APIError, ConnectionDropped
from .faults import INFERENCE_PATHS
from .inference import InferenceEndpoints
from .introspection import IntrospectionEndpoints, MutatingEndpoints
from .observation import Exchange
from .simulation import send_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .http_parser import Request
    from .http_server import Response
    from .simulation import Simulation

Endpoint: TypeAlias = "Callable[[Request, Response, Exchange], Awaitable[None]]"

LOCAL_DOMAINS = (".localhost", ".local", ".internal")


class OllamaAPI:
    """Ollama's HTTP surface over one simulation."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        about, mutating = IntrospectionEndpoints(simulation), MutatingEndpoints(simulation)
        inference, vectors = InferenceEndpoints(simulation), EmbeddingEndpoints(simulation)
        self._routes: dict[str, dict[str, Endpoint]] = {
            "/": {"GET": about.root, "HEAD": about.root},
            "/api/version": {"GET": about.version, "HEAD": about.version},
            "/api/status": {"GET": about.status},
            "/api/tags": {"GET": about.tags, "HEAD": about.tags},
            "/api/ps": {"GET": about.ps},
            "/api/show": {"POST": about.show},
            "/api/chat": {"POST": inference.chat},
            "/api/generate": {"POST": inference.generate},
            "/api/embed": {"POST": vectors.embed},
            "/api/embeddings": {"POST": vectors.embeddings},
            "/api/pull": {"POST": mutating.progress},
            "/api/push": {"POST": mutating.progress},
            "/api/create": {"POST": mutating.progress},
            "/api/copy": {"POST": mutating.silent},
            "/api/delete": {"DELETE": mutating.silent},
            "/api/blobs/": {"HEAD": mutating.silent, "POST": mutating.silent},
        }

    async def __call__(self, request: Request, response: Response) -> None:
        """Answer one request and write down what became of it."""
        observation = self._simulation.observation
        exchange = Exchange(request.method, request.path, request.headers, _decoded(request.body))
        observation.log.append(exchange)
        observation.stats.requests += 1
        observation.changed()
        try:
            await self._route(request, response, exchange)
            exchange.outcome = "done"
        except APIError as error:
            await send_json(response, {"error": error.message}, error.status)
            exchange.outcome = "done"
        except ConnectionDropped:
            exchange.outcome = "dropped"
            raise
        except asyncio.CancelledError:
            exchange.outcome = "aborted"
            raise
        finally:
            exchange.status = response.status
            observation.changed()

    async def _route(self, request: Request, response: Response, exchange: Exchange) -> None:
        if not allowed_host(request.headers.get("host", "")):
            await response.send(403)
            return
        path = "/api/blobs/" if request.path.startswith("/api/blobs/") else request.path
        methods = self._routes.get(path)
        if methods is None:
            await response.send(404, b"404 page not found")
            return
        endpoint = methods.get(request.method)
        if endpoint is None:
            await response.send(405, b"405 method not allowed", headers=[("allow", ", ".join(methods))])
            return
        if path not in INFERENCE_PATHS and await self._simulation.meet(path, None, response) is None:
            return
        await endpoint(request, response, exchange)


def allowed_host(host: str) -> bool:
    """Tell whether an engine bound to loopback answers to this `Host`: local names and private addresses only."""
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    name = name.strip("[]").lower()
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name in ("", "localhost", socket.gethostname().lower()) or name.endswith(LOCAL_DOMAINS)
    return address.is_loopback or address.is_private or address.is_unspecified


def _decoded(body: bytes) -> object:
    try:
        return json.loads(body) if body else None
    except (ValueError, RecursionError):
        return body
