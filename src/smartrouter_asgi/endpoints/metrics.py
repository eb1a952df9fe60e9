"""`/metrics` in Prometheus text: the observer that counts, and what is read when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..events import AdmissionWaited, AttemptFinished, Event, ModelSwapped, RequestFinished
from .series import Buckets, Count, CounterSeries, HistogramSeries, Key

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

OUTCOMES = frozenset(
    {
        "ok",
        "error",
        "cancelled",
        "client_disconnected",
        "client_stalled",
        "invalid_json",
        "invalid_request",
        "unsupported_parameter",
        "context_length_exceeded",
        "content_filter",
        "invalid_api_key",
        "permission_denied",
        "model_not_found",
        "not_found",
        "method_not_allowed",
        "body_too_large",
        "body_timeout",
        "no_backend",
        "breaker_open",
        "queue_full",
        "vram_exhausted",
        "vram_queue_timeout",
        "gateway_draining",
        "upstream_error",
        "upstream_auth",
        "upstream_redirect",
        "upstream_protocol",
        "upstream_connect_timeout",
        "upstream_dns",
        "upstream_tls",
        "gateway_overloaded",
        "model_load_failed",
        "model_failed",
        "first_token_timeout",
        "deadline_exceeded",
        "rate_limited",
        "upstream_disconnected",
        "upstream_idle_timeout",
        "upstream_truncated",
        "stream_deadline",
        "event_too_large",
        "internal_error",
    }
)
"""The outcomes that are labels: the codes of the contract and the ways a request ends without one."""

BREAKER_STATES = {"closed": 0, "half-open": 1, "open": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class _RequestSeries:
    """Where a request of one kind is counted. A series that never got anything is not shown."""

    count: Count
    seconds: Buckets
    first_token: Buckets
    prompt: Count
    completion: Count


class Metrics:
    """Counts what happens, in a registry of its own. Label values come from configuration or discovery only."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = CounterSeries(
            "smartrouter_requests_total",
            "Requests by how they ended",
            ["endpoint", "model", "backend", "outcome"],
            registry=registry,
        )
        self._request_s = HistogramSeries(
            "smartrouter_request_seconds", "Whole requests", ["endpoint"], bounds=_SECONDS, registry=registry
        )
        self._first_token_s = HistogramSeries(
            "smartrouter_first_token_seconds", "Until the first token", ["backend"], bounds=_SECONDS, registry=registry
        )
        self._attempts = CounterSeries(
            "smartrouter_attempts_total",
            "Attempts by how they ended",
            ["backend", "operation", "outcome"],
            registry=registry,
        )
        self._tokens = CounterSeries(
            "smartrouter_tokens_total", "Tokens", ["model", "backend", "kind"], registry=registry
        )
        self._swaps = CounterSeries("smartrouter_vram_swaps_total", "Loads by the gate", ["model"], registry=registry)
        self._waits = HistogramSeries(
            "smartrouter_vram_wait_seconds", "Waits in the gate's queue", bounds=_SECONDS, registry=registry
        )
        self._disconnects = CounterSeries(
            "smartrouter_client_disconnects_total", "Clients that left before the end", registry=registry
        )
        self._breakers = Gauge(
            "smartrouter_breaker_state",
            "0 closed, 1 half-open, 2 open",
            ["backend", "operation"],
            registry=registry,
        )
        self._stale = Gauge(
            "smartrouter_breaker_stale_outcomes",
            "Outcomes that came too late to move a breaker",
            ["backend", "operation"],
            registry=registry,
        )
        self._inflight = Gauge("smartrouter_inflight", "Exchanges under way", ["backend"], registry=registry)
        self._list_age_s = Gauge(
            "smartrouter_model_list_age_seconds",
            "Since a backend last listed its models",
            ["backend"],
            registry=registry,
        )
        self._queue = Gauge("smartrouter_queue_depth", "Requests in the gate's queue", ["model"], registry=registry)
        self._vram = Gauge("smartrouter_vram_bytes", "GPU memory", ["device", "kind"], registry=registry)
        self._vram_unknown = Gauge(
            "smartrouter_vram_unknown", "1 while a device cannot be read", ["device"], registry=registry
        )
        self._evictions = CounterSeries(
            "smartrouter_vram_evictions_total", "Models unloaded to make room", ["model"], registry=registry
        )
        self._load_s = HistogramSeries(
            "smartrouter_vram_load_seconds", "Loads by the gate", bounds=_SECONDS, registry=registry
        )
        self._of_request: dict[Key, _RequestSeries] = {}
        """The series of requests that have been seen, which need not be looked up one by one."""
        self.hears: dict[type[Event], Callable[[Any], None]] = {
            RequestFinished: self._on_request,
            AttemptFinished: self._on_attempt,
            ModelSwapped: self._on_swap,
            AdmissionWaited: self._on_wait,
        }
        self.on_scrape: list[Callable[[Metrics], None]] = []
        """Called before each exposition, to set gauges from what is true now."""

    def on_event(self, event: Event) -> None:
        """Count one event."""
        count = self.hears.get(type(event))
        if count is not None:
            count(event)

    def _on_request(self, event: RequestFinished) -> None:
        key = (event.endpoint, event.model, event.backend, event.outcome)
        series = self._of_request.get(key)
        if series is None:
            series = self._series_of(event)
            if event.outcome in OUTCOMES:  # an engine's own codes are without end
                self._of_request[key] = series
        series.count.value += 1
        series.seconds.observe(event.duration_s)
        if event.first_token_s is not None:
            series.first_token.observe(event.first_token_s)
        series.prompt.value += event.prompt_tokens
        series.completion.value += event.completion_tokens
        if event.outcome == "client_disconnected":
            self._disconnects.add()

    def _series_of(self, event: RequestFinished) -> _RequestSeries:
        endpoint, model, backend = event.endpoint, event.model, event.backend
        return _RequestSeries(
            count=self._requests.child((endpoint, model, backend, outcome_label(event.outcome))),
            seconds=self._request_s.child((endpoint,)),
            first_token=self._first_token_s.child((backend,)),
            prompt=self._tokens.child((model, backend, "prompt")),
            completion=self._tokens.child((model, backend, "completion")),
        )

    def _on_attempt(self, event: AttemptFinished) -> None:
        self._attempts.child((event.backend, event.operation, outcome_label(event.outcome))).value += 1

    def _on_swap(self, event: ModelSwapped) -> None:
        model = event.deployment.partition("/")[2]
        if event.action == "load":
            self._swaps.add((model,))
            self._load_s.observe(event.seconds)
        elif event.evicted:
            self._evictions.add((model,))

    def _on_wait(self, event: AdmissionWaited) -> None:
        self._waits.observe(event.seconds)

    def set_breakers(self, states: Iterable[tuple[str, str, str]]) -> None:
        """Set the breakers' gauges."""
        for backend, operation, state in states:
            self._breakers.labels(backend, operation).set(BREAKER_STATES[state])

    def set_stale_outcomes(self, counts: Iterable[tuple[str, str, int]]) -> None:
        """Set how many outcomes came too late to count, by breaker."""
        for backend, operation, count in counts:
            self._stale.labels(backend, operation).set(count)

    def set_inflight(self, counts: Iterable[tuple[str, int]]) -> None:
        """Set how many exchanges are under way, by backend."""
        for backend, count in counts:
            self._inflight.labels(backend).set(count)

    def set_list_ages(self, ages_s: Iterable[tuple[str, float | None]]) -> None:
        """Set how old each backend's list of models is; one that never listed any has no age."""
        for backend, age_s in ages_s:
            if age_s is not None:
                self._list_age_s.labels(backend).set(age_s)

    def set_queue(self, depths: Iterable[tuple[str, int]]) -> None:
        """Set how many wait, by deployment id (a backend's own line counts as `other`); empty lines are not shown."""
        self._queue.clear()
        for name, depth in depths:
            if depth:
                self._queue.labels(name.partition("/")[2] or "other").inc(depth)

    def set_vram_unknown(self, devices: Iterable[tuple[str, bool]]) -> None:
        """Set which devices cannot be read now."""
        for device, unknown in devices:
            self._vram_unknown.labels(device).set(unknown)

    def set_vram(self, values: Iterable[tuple[str, str, int]]) -> None:
        """Set bytes by device and kind."""
        for device, kind, size in values:
            self._vram.labels(device, kind).set(size)

    def render(self) -> bytes:
        """Return the exposition in text form."""
        for update in self.on_scrape:
            update(self)
        return generate_latest(self.registry)


def outcome_label(outcome: str) -> str:
    """Return an outcome fit for a label: engines have codes of their own, and those are `other`."""
    return outcome if outcome in OUTCOMES else "other"


def metrics_routes(metrics: Metrics) -> list[Route]:
    """Return the route."""

    async def expose(request: Request) -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)

    return [Route("/metrics", expose, methods=["GET"])]
