"""The endpoints that tell about the engine, and those that would change its library and here only count calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import APIError
from .gotime import timestamp
from .requests import Fields
from .simulation import NDJSON, encode, send_json

if TYPE_CHECKING:
    from .effects import Runner
    from .http_parser import Request
    from .http_server import Response
    from .observation import Exchange
    from .simulation import Simulation

MODIFIED_AT = "2026-01-01T00:00:00Z"


class IntrospectionEndpoints:
    """What GET requests and /api/show answer."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    async def root(self, request: Request, response: Response, exchange: Exchange) -> None:
        """GET or HEAD /."""
        await response.send(200, b"Ollama is running")

    async def version(self, request: Request, response: Response, exchange: Exchange) -> None:
        """GET or HEAD /api/version."""
        await send_json(response, {"version": self._simulation.version})

    async def status(self, request: Request, response: Response, exchange: Exchange) -> None:
        """GET /api/status: a simulated engine has no cloud."""
        await send_json(response, {"cloud": {"disabled": True, "source": "env"}})

    async def tags(self, request: Request, response: Response, exchange: Exchange) -> None:
        """GET or HEAD /api/tags."""
        models = [
            {
                "name": model.name,
                "model": model.name,
                "modified_at": MODIFIED_AT,
                "size": model.size_bytes,
                "digest": model.digest,
                "details": {
                    **model.details(),
                    "context_length": model.context_length,
                    "embedding_length": model.embedding_length,
                },
                "capabilities": list(model.capabilities),
            }
            for model in self._simulation.library
        ]
        await send_json(response, {"models": models})

    async def ps(self, request: Request, response: Response, exchange: Exchange) -> None:
        """GET /api/ps: loaded runners and the one that loads, longest remaining first."""
        scheduler, pool = self._simulation.pool.scheduler, self._simulation.pool
        runners = [*scheduler.runners.values(), *([scheduler.loading] if scheduler.loading else [])]
        runners.sort(key=pool.remaining_s, reverse=True)
        await send_json(response, {"models": [self._row(runner) for runner in runners]})

    async def show(self, request: Request, response: Response, exchange: Exchange) -> None:
        """POST /api/show."""
        fields = Fields(request.body, "ShowRequest")
        name = fields.string("model") or fields.string("name")
        if not name:
            raise APIError(400, "model is required")
        model = self._simulation.library.find(name)
        if model is None:
            raise APIError(404, f"model '{name}' not found")
        verbose = fields.boolean("verbose", default=False)
        values = [
            (key, value)
            for key, given in model.parameters.items()
            for value in (given if isinstance(given, list) else [given])
        ]
        lines = [f"{key:<30} {encode(value).decode()}" for key, value in values]
        answer: dict[str, Any] = {
            "license": "The model is simulated; there are no weights.",
            "modelfile": f"# A simulated model\nFROM {model.name}\n",
            **({"parameters": "\n".join(lines)} if lines else {}),
            "template": "{{ .Prompt }}",
            "details": model.details(),
            "model_info": model.info(verbose=verbose),
            "capabilities": list(model.capabilities),
            "modified_at": MODIFIED_AT,
        }
        await send_json(response, answer)

    def _row(self, runner: Runner) -> dict[str, Any]:
        model = runner.model
        return {
            "name": model.name,
            "model": model.name,
            "size": runner.total_bytes,
            "digest": model.digest,
            "details": model.details(),
            "expires_at": timestamp(self._simulation.pool.remaining_s(runner)),
            "size_vram": runner.vram_bytes,
            "context_length": runner.options.num_ctx,
        }


class MutatingEndpoints:
    """Pull, push, create, copy, delete, blobs: they succeed, change nothing and are counted."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    async def progress(self, request: Request, response: Response, exchange: Exchange) -> None:
        """POST /api/pull, /api/push or /api/create."""
        self._count()
        await response.start(200, NDJSON)
        for status in ("pulling manifest", "success"):
            await response.write(encode({"status": status}) + b"\n")

    async def silent(self, request: Request, response: Response, exchange: Exchange) -> None:
        """POST /api/copy, DELETE /api/delete, HEAD or POST /api/blobs/:digest."""
        self._count()
        await response.send(200)

    def _count(self) -> None:
        self._simulation.observation.stats.mutating_calls += 1
