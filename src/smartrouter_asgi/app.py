"""`SmartRouter`: the layers and endpoints put together as one mountable ASGI app."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route

from . import assembly, policies
from ._asgi import BodyLimits, route_path, with_body, with_envelope
from .backends.base import Backend, Undecided
from .config import Settings, load_settings
from .deployment import Deployment
from .dispatch import BackendDispatch
from .drain import Drain
from .endpoints.admin import admin_routes
from .endpoints.errors import WrongPath, render_bug, render_error
from .endpoints.health import BackendHealth, health_routes
from .endpoints.metrics import Metrics, metrics_routes
from .endpoints.models import models_routes
from .events import Observer
from .exceptions import SmartRouterError
from .gating import build_gate, fixed_deployments, gauges, is_gating, pinned_ids, warm_up, watch
from .memory import build_memory
from .middleware.resilience import ResilienceMiddleware
from .middleware.resolution import INFERENCE_PATHS, ModelResolutionMiddleware
from .middleware.vram import VRAMGateMiddleware
from .observers import LoggingObserver, Observers, ThresholdWarning
from .resilience.breaker import BreakerBoard
from .resilience.budget import BudgetBoard
from .resilience.hedging import Hedging
from .resilience.rest import RestBoard
from .routing.balancing import LoadTracker
from .routing.discovery import Discovery
from .routing.latency import FirstTokenTimes
from .settling import Settling
from .state import SCOPE_KEY, RequestState
from .transport.choice import choose_transport
from .types import ASGIApp, Receive, Scope, Send

if TYPE_CHECKING:
    import httpx

    from .deployment import ModelInfo
    from .routing.plan import RoutePlan
    from .vram.lifecycle import ModelLifecycle
    from .wire.call import Call

logger = logging.getLogger("smartrouter_asgi")

WARM_UP_WAIT_S = 0.5
"""How long a start waits for the first lists of models; what takes longer goes on beside the requests."""


class SmartRouter:
    """An LLM gateway as an ASGI app: mount it, or serve it alone.

    `http_client` speaks to the engines instead of a client of our own, and is never closed here. `backends` adds
    adapters made in code, `lifecycles` engines that are no backends and share the GPU all the same: those of services
    with a `VRAMGateMiddleware` of their own over this router's `gate`. Everything starts on demand, so it serves
    without a lifespan; `lifespan` adds warm-up and an orderly end. One event loop at a time.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        http_client: httpx.AsyncClient | None = None,
        *,
        backends: Mapping[str, Backend] | None = None,
        lifecycles: Mapping[str, ModelLifecycle] | None = None,
        observers: tuple[Observer, ...] = (),
    ) -> None:
        self.settings = settings = settings or Settings()
        timeouts = policies.timeouts(settings)
        self._transport = choose_transport(settings.transport, http_client, connect_timeout_s=timeouts.connect_s)
        added = [backend for backend in (backends or {}).values() if backend.capabilities.can_load]
        self.memory = build_memory(settings, beside=bool(lifecycles or added))
        gating = partial(is_gating, settings, self.memory)
        self.backends: dict[str, Backend] = {
            **assembly.build_backends(settings, self._transport, gating=gating),
            **(backends or {}),
        }
        self.metrics = Metrics()
        self._tracker = LoadTracker(learns=any(model.balance == "latency" for model in settings.models))
        self._first_tokens = FirstTokenTimes()
        threshold = ThresholdWarning(self._above_threshold, settings.vram.unload_threshold_pct)
        watching = (self._first_tokens,) if settings.resilience.hedge.enabled else ()
        self._observer = Observers((LoggingObserver(), self.metrics, self._tracker, threshold, *watching, *observers))
        self.breakers = BreakerBoard(
            policies.breaker_policy(settings),
            observer=self._observer,
            probe_lease_s=max(timeouts.first_token_s, timeouts.first_token_cold_s),
        )
        budget_bytes = self.memory.devices.budget_bytes if self.memory is not None else None
        self._deployer = assembly.Deployer(settings, self.backends, budget_bytes=budget_bytes)
        self.discovery = Discovery(
            sources=assembly.discovery_sources(settings, self.backends, self._deployer, self.breakers, self._on_listed),
            configured=self._deployer.configured,
            aliases=settings.aliases,
            rules=policies.discovery_rules(settings),
        )
        self.rests = RestBoard(policies.rest_policy(settings))
        self._limits = policies.concurrency_limits(settings)
        self.gate = build_gate(
            settings,
            self.memory,
            backends=self.backends,
            deployer=self._deployer,
            breakers=self.breakers,
            observer=self._observer,
            lifecycles=lifecycles or {},
        )
        self._pinned = set(pinned_ids(settings, self._deployer, self.backends))
        """Deployment ids that the gate was told to pin: an operator may unpin them."""
        self._settling = Settling()
        self._undecided: dict[str, Undecided] = {
            name: backend
            for name, backend in self.backends.items()
            # What an engine of a known kind can do matters to the gate only.
            if isinstance(backend, Undecided) and (self.gate is not None or backend.type == "auto")
        }
        self.health = BackendHealth(self.backends, self._breaker_state)
        self.metrics.on_scrape.append(self._update_gauges)
        self._drain = Drain()
        self._questions: set[asyncio.Future[bool | None]] = set()
        self._in_lifespan = False
        self._told_about_lifespan = False
        self._body = BodyLimits(max_bytes=settings.server.max_body_bytes)
        self._inference = self._build_stack()
        self._endpoints = self._build_endpoints()

    @classmethod
    def from_env(cls, http_client: httpx.AsyncClient | None = None) -> SmartRouter:
        """Make a router from `ROUTER_*` variables (and the file `ROUTER_CONFIG` names). Raises `ConfigurationError`."""
        return cls(_told(load_settings()), http_client)

    @classmethod
    def from_file(cls, path: str | Path, http_client: httpx.AsyncClient | None = None) -> SmartRouter:
        """Make a router from a YAML or TOML file. Raises `ConfigurationError`."""
        return cls(_told(load_settings(file=path)), http_client)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "http":
            await with_envelope(self._route, scope, receive, send, observer=self._observer, catch_all=True)
        else:
            await self._endpoints(scope, receive, send)

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncGenerator[None, None]:
        """Warm up on entry, for a moment or in the background, end in order on exit: for the host's own lifespan."""
        self._in_lifespan = True
        self._drain.reset()
        warm_up = asyncio.create_task(self._warm_up())
        monitor = asyncio.create_task(self._monitor())
        try:
            # A backend that hangs, or a model that loads for minutes, keeps nobody from being served meanwhile.
            await asyncio.wait({warm_up}, timeout=WARM_UP_WAIT_S)
            if warm_up.done():
                warm_up.result()
            yield
        finally:
            self._in_lifespan = False
            self._drain.reset(active=True)
            warm_up.cancel()
            monitor.cancel()
            await asyncio.gather(warm_up, monitor, return_exceptions=True)
            await self.aclose()
            self._drain.reset()

    async def aclose(self) -> None:
        """Let go of everything: tasks and connections. The router can be used again afterwards."""
        await self.discovery.aclose()
        await self._settling.aclose()
        if self.gate is not None:
            await self.gate.aclose()
        for backend in self.backends.values():
            await backend.aclose()
        await self._transport.aclose()

    @property
    def draining(self) -> bool:
        """Whether new inference is refused."""
        return self._drain.active

    @property
    def running(self) -> int:
        """How many inference requests run."""
        return self._drain.running

    def drain(self, timeout_s: float | None = None) -> None:
        """Take no new inference from now on; what runs is ended after `timeout_s` (default: `drain.timeout`).

        To be called in the event loop. Once begun it can only be made shorter; a new lifespan ends it.
        """
        self._drain.begin(self.settings.resilience.drain.timeout_s if timeout_s is None else timeout_s)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send inference to the layers by one dict lookup, everything else through Starlette."""
        operation = INFERENCE_PATHS.get(route_path(scope)) if scope["method"] == "POST" else None
        if operation is None:
            await self._endpoints(scope, receive, send)
            return
        state: RequestState = scope[SCOPE_KEY]
        state.endpoint = operation
        self._drain.enter(state)
        try:
            if not self._in_lifespan:
                self._tell_about_lifespan()
            await with_body(self._inference.resolved, scope, receive, send, state, self._body, native=True)
        finally:
            self._drain.leave(state)

    async def _warm_up(self) -> None:
        catalog = await self.discovery.refresh()
        if self.gate is not None:
            await warm_up(self.gate, catalog, self.settings)

    async def _monitor(self) -> None:
        if self.gate is not None and self.settings.vram.monitor_enabled:
            await watch(self.gate, self.settings.vram.monitor_interval_s)

    def _tell_about_lifespan(self) -> None:
        if not self._told_about_lifespan:
            self._told_about_lifespan = True
            logger.warning(
                "serving without a lifespan: nothing is warmed up and nothing is closed in order; "
                "use smartrouter_asgi.install(app, path, router), or enter router.lifespan() in the host's lifespan"
            )

    def _build_stack(self) -> ModelResolutionMiddleware:
        """Put the four layers around each other; the gate is left out where nothing is gated."""
        settings = self.settings
        timeouts = policies.timeouts(settings)
        app: ASGIApp = BackendDispatch(
            self.backends,
            timeouts=timeouts,
            limits=self._limits,
            inflight=self._tracker.inflight,
            observer=self._observer,
        )
        if self.gate is not None:
            app = VRAMGateMiddleware(app, gate=self.gate, timeouts=timeouts)
        budget = settings.resilience.retry.budget
        app = ResilienceMiddleware(
            app,
            policy=policies.retry_policy(settings),
            breakers=self.breakers,
            budgets=BudgetBoard(ratio=budget.ratio, reserve=budget.reserve),
            rests=self.rests,
            hedging=self._hedging(),
            timeouts=timeouts,
            idle=self._is_idle,
            observer=self._observer,
        )
        return ModelResolutionMiddleware(
            app,
            catalog=self.discovery,
            body=self._body,
            random=random.random,
            load=self._tracker.load,
            check=self._check,
            settle=self._settle if self._undecided else None,
        )

    def _build_endpoints(self) -> Starlette:
        routes: list[Any] = [
            *(Route(path, self._inference, methods=["POST"]) for path in INFERENCE_PATHS),
            *models_routes(self.discovery),
            *health_routes(self.health, lambda: self.draining),
            *metrics_routes(self.metrics),
            *admin_routes(self, self.settings.admin.api_key),
        ]
        endpoints = Starlette(
            routes=routes,
            lifespan=self.lifespan,
            exception_handlers={
                SmartRouterError: render_error,
                HTTPException: WrongPath(routes),
                Exception: render_bug,
            },
        )
        endpoints.router.redirect_slashes = False  # a 404 that names the right path says more, behind any proxy
        return endpoints

    async def _settle(self, plan: RoutePlan) -> bool:
        """Find out what the engines of a plan are, where that is not known yet: it decides whether they are gated.

        Only the first candidate is waited for, and not again so soon after it could not be told. True: deployments have
        changed, whoever it was that found out.
        """
        names = dict.fromkeys(d.backend for d in plan.candidates if d.backend in self._undecided)
        for name in names:
            self._settling.start(name, self._undecided[name])
        if plan.candidates[0].backend in names:
            await self._settling.wait(plan.candidates[0].backend)
        settled = [name for name in names if self._undecided[name].is_settled]
        for name in settled:
            del self._undecided[name]
        if settled:
            self.discovery.rebuild()
            self._tell_gate()
        return bool(settled)

    def _tell_gate(self) -> None:
        """Tell the gate what is pinned and what is there for good, once more: engines have told what they are."""
        if self.gate is not None:
            for deployment_id in pinned_ids(self.settings, self._deployer, self.backends):
                if deployment_id in self._pinned:
                    continue
                self._pinned.add(deployment_id)
                backend, _, model = deployment_id.partition("/")
                self.gate.pin(Deployment(backend=backend, model=model))
            for deployment in fixed_deployments(self.settings, self._deployer):
                self.gate.fix(deployment)

    def _check(self, call: Call, deployment: Deployment) -> None:
        self.backends[deployment.backend].check(call, deployment)

    def _hedging(self) -> Hedging | None:
        policy = policies.hedge_policy(self.settings)
        if policy is None:
            return None
        return Hedging(policy=policy, times=self._first_tokens, is_ready=self._is_ready)

    def _is_ready(self, deployment: Deployment) -> bool:
        """Tell whether a deployment would serve a request now, without a queue and without a load."""
        if not self._limits.has_room(deployment):
            return False
        if self.gate is not None and self.gate.covers(deployment):
            return self.gate.is_ready(deployment)
        return not self.backends[deployment.backend].capabilities.loads_on_demand

    async def _is_idle(self, deployment: Deployment) -> bool | None:
        """Ask an engine, in a task of its own: a request that is cancelled natively must not break a control call."""
        backend = self.backends[deployment.backend]
        if not backend.capabilities.can_report_idle:
            return None
        question = asyncio.ensure_future(backend.is_idle(deployment.model))
        self._questions.add(question)
        question.add_done_callback(self._questions.discard)
        return await asyncio.shield(question)

    def _breaker_state(self, backend: str) -> str:
        """Return the worst state among a backend's breakers."""
        order = ("closed", "half-open", "open")
        states = [state for name, _, state in self.breakers.states() if name == backend]
        return max(states, key=order.index, default="closed")

    def _on_listed(self, backend: str, models: Sequence[ModelInfo]) -> None:
        """Tell the gate which names are one model."""
        if self.gate is not None:
            self.gate.tell_digests(backend, {model.id: model.digest for model in models if model.digest})
            if backend in self._undecided:
                self._tell_gate()

    def _above_threshold(self) -> bool:
        return self.gate is not None and self.gate.snapshot().above_threshold

    def _update_gauges(self, metrics: Metrics) -> None:
        metrics.set_breakers(self.breakers.states())
        metrics.set_stale_outcomes(self.breakers.stale())
        inflight: Counter[str] = Counter(dict.fromkeys(self.backends, 0))
        for deployment, count in self._tracker.inflight.items():
            inflight[deployment.partition("/")[0]] += count
        metrics.set_inflight(inflight.items())
        metrics.set_list_ages(self.discovery.ages().items())
        depths = Counter(self._limits.depths())
        if self.gate is not None:
            depths.update(self.gate.queue_depths())
        metrics.set_queue(depths.items())
        if self.gate is not None:
            seen = self.gate.snapshot()
            metrics.set_vram(gauges(seen, self.settings.vram.unload_threshold_pct))
            metrics.set_vram_unknown((device.device, not device.known) for device in seen.devices)


def install(app: Starlette, path: str, router: SmartRouter) -> None:
    """Mount a router in a Starlette or FastAPI app and share the host's lifespan with it."""
    outer = app.router.lifespan_context

    @asynccontextmanager
    async def both(host: Any) -> AsyncGenerator[Any, None]:
        async with router.lifespan(), outer(host) as state:
            yield state

    app.router.lifespan_context = both
    app.mount(path, router)


def create_app() -> SmartRouter:
    """Make a router from the environment: `uvicorn --factory smartrouter_asgi:create_app`."""
    return SmartRouter.from_env()


def _told(settings: Settings) -> Settings:
    """Log what was accepted but is perhaps not meant."""
    for line in settings.warnings:
        logger.warning("configuration: %s", line)
    return settings
