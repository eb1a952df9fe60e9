"""Errors of the endpoints, wrong paths and wrong methods, in the shape of every other error."""

from __future__ import annotations

import difflib

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .._asgi import route_path
from ..exceptions import MethodNotAllowedError, NotFoundError, SmartRouterError
from ..wire.errors import error_headers, openai_envelope


async def render_error(request: Request, exc: Exception) -> Response:
    """Turn an error of an endpoint into its answer."""
    assert isinstance(exc, SmartRouterError)
    headers = {name.decode(): value.decode() for name, value in error_headers(exc)}
    return Response(openai_envelope(exc), exc.status, headers, media_type="application/json")


async def render_bug(request: Request, exc: Exception) -> Response:
    """Answer for a bug of ours; the exception goes on to the server, which logs it."""
    return await render_error(request, SmartRouterError("the gateway failed to serve this request; its log says why"))


class WrongPath:
    """Answers a wrong path or method with JSON that names the right one."""

    def __init__(self, routes: list[Route]) -> None:
        self._methods = {route.path: sorted({*(route.methods or ())} - {"HEAD"}) for route in routes}

    async def __call__(self, request: Request, exc: Exception) -> Response:
        """Answer a 404 or 405 of Starlette's routing."""
        assert isinstance(exc, HTTPException)
        if exc.status_code == 405:
            allow = tuple((exc.headers or {}).get("Allow", "POST").replace(" ", "").split(","))
            error: SmartRouterError = MethodNotAllowedError(
                f"{request.method} is not served here; this path takes {', '.join(allow)}", allow=allow
            )
        else:
            error = self._not_found(route_path(request.scope))
        return await render_error(request, error)

    def _not_found(self, path: str) -> NotFoundError:
        shown = path[:100]
        if path.startswith("/v1/v1/"):
            return NotFoundError(f"nothing is served at {shown}: /v1 is in there twice, take it off the base URL once")
        near = difflib.get_close_matches(path, self._methods, n=1, cutoff=0.6)
        if near:
            return NotFoundError(f"nothing is served at {shown}: did you mean {self._methods[near[0]][-1]} {near[0]}?")
        return NotFoundError(
            f"nothing is served at {shown}; try POST /v1/chat/completions, GET /v1/models or GET /health"
        )
