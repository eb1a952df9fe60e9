"""Resolution: the requested model's name becomes a route plan in the scope."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping

from .._asgi import BodyLimits, at_the_edge, route_path
from ..deployment import Deployment
from ..exceptions import RequestError
from ..routing.catalog import Catalog
from ..routing.plan import RoutePlan
from ..routing.resolver import Load, not_found, resolve
from ..routing.source import CatalogSource, FixedCatalog
from ..state import find_state
from ..types import ASGIApp, Operation, Random, Receive, Scope, Send
from ..wire.call import OPERATION_PATHS, Call, parse_call

INFERENCE_PATHS: Mapping[str, Operation] = {
    prefix + path: operation for prefix in ("/v1", "") for path, operation in OPERATION_PATHS.items()
}


class ModelResolutionMiddleware:
    """Reads the body, resolves its `model` against the catalog and hands a route plan to the layers inside.

    `catalog` is a `Catalog`, or a source that can refresh itself. `paths` says which paths (without the mount's prefix)
    are inference and of what kind; POST requests to them are resolved, all else passes untouched. Resolved requests go
    to `inference` where it is given, so that the layers can stand in front of an app with routes of its own. `check`
    raises for a candidate that cannot honour a request: it is left out, and when none remains the request is refused.
    `settle` finds out what is not known yet of a plan's backends, and says whether the plan has to be made again.

    Answers 400 for a body that cannot be used, 404 with near names for a model it does not know, 413 and 408 for a body
    too large or too slow. When it is the outermost of ours it also watches for the client leaving.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        catalog: Catalog | CatalogSource,
        inference: ASGIApp | None = None,
        check: Callable[[Call, Deployment], None] | None = None,
        settle: Callable[[RoutePlan], Awaitable[bool]] | None = None,
        paths: Mapping[str, Operation] = INFERENCE_PATHS,
        body: BodyLimits | None = None,
        random: Random = random.random,
        load: Load | None = None,
    ) -> None:
        self.app = app
        self._inference = inference or app
        self._check = check
        self._settle = settle
        self._source: CatalogSource = FixedCatalog(catalog) if isinstance(catalog, Catalog) else catalog
        self._paths = paths
        self._body = body or BodyLimits()
        self._random = random
        self._load = load

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        operation = self._operation(scope)
        if operation is None:
            await self.app(scope, receive, send)
            return
        state = find_state(scope)
        if state is None or state.body is None:
            await at_the_edge(self, scope, receive, send, limits=self._body)
            return
        state.endpoint = operation
        state.call = call = parse_call(operation, state.body)
        plan = resolve(call.model, self._source.current(), random=self._random, load=self._load)
        if plan is None:
            catalog = await self._source.refreshed(call.model)
            plan = resolve(call.model, catalog, random=self._random, load=self._load)
            if plan is None:
                raise self._source.why_missing(call.model) or not_found(call.model, catalog)
        if self._settle is not None and await self._settle(plan):
            plan = resolve(call.model, self._source.current(), random=self._random, load=self._load) or plan
        state.plan = plan if self._check is None else able(plan, call, self._check)
        await self._inference(scope, receive, send)

    def _operation(self, scope: Scope) -> Operation | None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return None
        return self._paths.get(route_path(scope))


def able(plan: RoutePlan, call: Call, check: Callable[[Call, Deployment], None]) -> RoutePlan:
    """Leave out the candidates that cannot honour a call. Raises the first one's `RequestError` when none can."""
    refusals: dict[Deployment, RequestError] = {}
    for candidate in {*plan.candidates, *(d for others in plan.alternatives.values() for d in others)}:
        try:
            check(call, candidate)
        except RequestError as exc:
            refusals[candidate] = exc
    if not refusals:
        return plan
    candidates = tuple(d for d in plan.candidates if d not in refusals)
    if not candidates:
        raise refusals[plan.candidates[0]]
    return RoutePlan(
        model=plan.model,
        candidates=candidates,
        alternatives={
            code: tuple(d for d in others if d not in refusals) for code, others in plan.alternatives.items()
        },
    )
