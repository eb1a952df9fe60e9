"""Resolution: the requested model's name becomes a route plan in the scope."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import cast

from .._asgi import BodyLimits, at_the_edge, route_path
from ..deployment import Deployment
from ..exceptions import AttemptError, ModelNotFoundError, RequestError, RouteExhaustedError, SmartRouterError
from ..routing.affinity import Affinity, AffinityKey, affinity_key
from ..routing.catalog import Catalog
from ..routing.needs import Needs, needs
from ..routing.plan import RoutePlan
from ..routing.resolver import Load, not_found, resolve
from ..routing.source import CatalogSource, FixedCatalog
from ..state import SCOPE_KEY, RequestState, find_state
from ..types import ASGIApp, Operation, Random, Receive, Scope, Send
from ..wire.call import OPERATION_PATHS, Call, parse_call

INFERENCE_PATHS: Mapping[str, Operation] = {
    prefix + path: operation for prefix in ("/v1", "") for path, operation in OPERATION_PATHS.items()
}

SESSION_HEADERS = (b"x-session-id", b"x-litellm-session-id", b"x-openwebui-chat-id")
"""Headers that name a session, the most general first: anybody's, LiteLLM's, Open WebUI's where it forwards them."""


class ModelResolutionMiddleware:
    """Reads the body, resolves its `model` against the catalog and hands a route plan to the layers inside.

    `catalog` is a `Catalog`, or a source that can refresh itself. `paths` says which paths (without the mount's prefix)
    are inference and of what kind; POST requests to them are resolved, all else passes untouched. Resolved requests go
    to `inference` where it is given, so that the layers can stand in front of an app with routes of its own.

    A candidate whose capabilities exclude a request, or for which `check` raises, is left out; when none remains the
    request is refused. `settle` finds out what is not known yet of a plan's backends, and says whether the plan has to
    be made again.

    A model's `affinity` keeps requests of one session, or of one prompt's beginning, at one deployment. A session is
    named by a header (`SESSION_HEADERS`), else by the body.

    When every engine says that it no longer has the model, the catalog is asked to look again, and whoever has it by
    then is asked instead: once, and never after commit.

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
        await self.resolved(scope, receive, send)

    async def resolved(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve an inference request whose state in the scope has a body, and an operation for `endpoint`."""
        state: RequestState = scope[SCOPE_KEY]
        state.call = call = parse_call(cast(Operation, state.endpoint), state.body or b"")
        affinity = _affinity_of(call, scope)
        plan = self._resolve(call, self._source.current(), affinity)
        if plan is None:
            catalog = await self._source.refreshed(call.model)
            plan = self._resolve(call, catalog, affinity)
            if plan is None:
                raise self._source.why_missing(call.model) or not_found(call.model, catalog)
        if self._settle is not None and await self._settle(plan):
            plan = self._resolve(call, self._source.current(), affinity) or plan
        state.plan = able(plan, call, self._check)
        try:
            await self._inference(scope, receive, send)
        except (AttemptError, RouteExhaustedError) as exc:
            if state.committed or exc.code != ModelNotFoundError.code:
                raise
            state.plan = await self._without_missing(state, call, exc, affinity)
            await self._inference(scope, receive, send)

    def _resolve(self, call: Call, catalog: Catalog, affinity: AffinityKey) -> RoutePlan | None:
        return resolve(call.model, catalog, random=self._random, load=self._load, affinity=affinity)

    async def _without_missing(
        self, state: RequestState, call: Call, exc: SmartRouterError, affinity: AffinityKey
    ) -> RoutePlan:
        """Resolve again after an engine said that it has no such model: to candidates nobody has asked yet, or 404."""
        tried = {record.deployment for record in getattr(exc, "attempts", ())}
        if state.attempt is not None:
            tried.add(state.attempt.deployment.id)
        catalog = await self._source.rechecked({deployment.partition("/")[0] for deployment in tried})
        plan = self._resolve(call, catalog, affinity)
        if plan is None:
            catalog = await self._source.refreshed(call.model)
            plan = self._resolve(call, catalog, affinity)
        if plan is None:
            raise (self._source.why_missing(call.model) or not_found(call.model, catalog)) from exc
        left = tuple(d for d in plan.candidates if d.id not in tried)
        if not left:
            raise exc
        state.attempt = None
        return able(replace(plan, candidates=left), call, self._check)

    def _operation(self, scope: Scope) -> Operation | None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return None
        return self._paths.get(route_path(scope))


def _affinity_of(call: Call, scope: Scope) -> AffinityKey:
    """Return what finds a request's affinity key; nothing is looked at before a model wants it."""

    def key(affinity: Affinity) -> bytes | None:
        named = {name: value for name, value in scope["headers"] if name in SESSION_HEADERS}
        return affinity_key(affinity, call, session=next(filter(None, map(named.get, SESSION_HEADERS)), None))

    return key


def able(plan: RoutePlan, call: Call, check: Callable[[Call, Deployment], None] | None = None) -> RoutePlan:
    """Leave out the candidates that cannot honour a call.

    When none can, those take over that are named for such a refusal (a longer context, say); raises the first one's
    `RequestError` when there are none either.
    """
    if len(plan.candidates) == 1 and not plan.alternatives:
        only = plan.candidates[0]
        if only.capabilities is None or not only.capabilities.is_limited:
            if check is not None:
                check(call, only)
            return plan
    refusals: dict[Deployment, RequestError] = {}
    wanted: Needs | None = None
    for candidate in {*plan.candidates, *(d for others in plan.alternatives.values() for d in others)}:
        can = candidate.capabilities
        if can is not None and can.is_limited:
            wanted = wanted or needs(call)
            refusal = wanted.refusal(can, by=candidate.id)
            if refusal is not None:
                refusals[candidate] = refusal
                continue
        if check is not None:
            try:
                check(call, candidate)
            except RequestError as exc:
                refusals[candidate] = exc
    if not refusals:
        return plan
    alternatives = {code: tuple(d for d in others if d not in refusals) for code, others in plan.alternatives.items()}
    candidates = tuple(d for d in plan.candidates if d not in refusals)
    if not candidates:
        first = refusals[plan.candidates[0]]
        candidates = alternatives.get(first.code, ())
        if not candidates:
            raise first
    return replace(plan, candidates=candidates, alternatives=alternatives)
