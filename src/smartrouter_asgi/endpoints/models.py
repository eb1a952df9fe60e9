"""`GET /v1/models` and `GET /v1/models/{id}`."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..routing.catalog import Catalog, ModelGroup
from ..routing.discovery import Discovery
from ..routing.resolver import not_found

UNKNOWN_CREATED = 1_700_000_000  # a constant: "now" would make every listing differ


def models_routes(discovery: Discovery) -> list[Route]:
    """Return the routes, with and without `/v1`."""

    async def list_models(request: Request) -> Response:
        catalog = await discovery.refresh()
        if not catalog.names and (silent := discovery.why_missing("")) is not None:
            raise silent
        data = [describe(name, catalog) for name in catalog.names]
        return JSONResponse({"object": "list", "data": [entry for entry in data if entry is not None]})

    async def get_model(request: Request) -> Response:
        name = request.path_params["model"]
        if not name:
            return await list_models(request)
        entry = describe(name, discovery.current())
        if entry is None:
            catalog = await discovery.refreshed(name)
            entry = describe(name, catalog)
            if entry is None:
                raise discovery.why_missing(name) or not_found(name, catalog)
        return JSONResponse(entry)

    return [
        route
        for prefix in ("/v1", "")
        for route in (
            Route(f"{prefix}/models", list_models, methods=["GET"]),
            Route(f"{prefix}/models/{{model:path}}", get_model, methods=["GET"]),
        )
    ]


def describe(name: str, catalog: Catalog) -> dict[str, Any] | None:
    """Describe a model in OpenAI's shape; None when the catalog does not know it."""
    group = catalog.find(name)
    if group is None:
        return None
    info = group.info
    return {
        "id": name,
        "object": "model",
        "created": info.created if info is not None and info.created else UNKNOWN_CREATED,
        "owned_by": _owner(group),
    }


def _owner(group: ModelGroup) -> str:
    if group.info is not None and group.info.owned_by:
        return group.info.owned_by
    return group.deployments[0].backend if group.deployments else "smartrouter"
