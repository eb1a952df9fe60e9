"""From settings to the limits, clocks and policies of the parts."""

from __future__ import annotations

from .config import Settings
from .resilience.concurrency import ConcurrencyLimits
from .resilience.deadline import Timeouts
from .resilience.hedging import HedgePolicy
from .resilience.policy import BreakerPolicy
from .resilience.rest import RestPolicy
from .resilience.retry import RetryPolicy
from .routing.discovery import DiscoveryRules
from .vram.policy import GatePolicy


def discovery_rules(settings: Settings) -> DiscoveryRules:
    """Return the rules of discovery."""
    section = settings.discovery
    return DiscoveryRules(
        enabled=section.enabled, ttl_s=section.ttl_s, include=section.include, exclude=section.exclude
    )


def retry_policy(settings: Settings) -> RetryPolicy:
    """Return the retry policy."""
    section = settings.resilience.retry
    return RetryPolicy(
        enabled=section.enabled,
        max_retries=section.max_retries,
        base_delay_s=section.base_delay_s,
        max_delay_s=section.max_delay_s,
    )


def breaker_policy(settings: Settings) -> BreakerPolicy:
    """Return the breakers' policy."""
    section = settings.resilience.circuit_breaker
    return BreakerPolicy(
        enabled=section.enabled,
        failure_threshold=section.failure_threshold,
        reset_timeout_s=section.reset_timeout_s,
        half_open_max_attempts=section.half_open_max_attempts,
        sliding_window_size=section.sliding_window_size,
        slow_call_duration_s=section.slow_call_duration_s,
        slow_call_rate=section.slow_call_rate,
        slow_call_min_calls=section.slow_call_min_calls,
        reset_timeout_max_s=section.reset_timeout_max_s,
    )


def rest_policy(settings: Settings) -> RestPolicy:
    """Return how long failing models are left alone."""
    section = settings.resilience.rest
    return RestPolicy(base_s=section.base_s, max_s=section.max_s)


def hedge_policy(settings: Settings) -> HedgePolicy | None:
    """Return when a second deployment is asked; None: never."""
    section = settings.resilience.hedge
    if not section.enabled:
        return None
    return HedgePolicy(quantile=section.quantile, min_samples=section.min_samples, min_delay_s=section.min_delay_s)


def timeouts(settings: Settings) -> Timeouts:
    """Return the clocks."""
    section = settings.resilience.timeouts
    return Timeouts(
        connect_s=section.connect_s,
        first_token_s=section.first_token_s,
        first_token_cold_s=section.first_token_cold_s,
        idle_s=section.idle_s,
        client_stall_s=section.client_stall_s,
        total_s=section.total_s,
    )


def concurrency_limits(settings: Settings) -> ConcurrencyLimits:
    """Return the limits on parallel requests; those of deployments come with the deployments."""
    return ConcurrencyLimits(
        {name: section.max_parallel for name, section in settings.backends.items() if section.max_parallel is not None}
    )


def gate_policy(settings: Settings, pinned: frozenset[str]) -> GatePolicy:
    """Return the gate's policy; `pinned` are deployment ids."""
    section = settings.vram
    return GatePolicy(
        auto_unload=section.auto_unload,
        unload_strategy=section.unload_strategy,
        pinned=pinned,
        default_estimate_bytes=section.default_estimate_bytes,
        max_wait_s=section.max_wait_s,
        max_queue=section.max_queue,
        release_grace_s=section.release_grace_s,
        fair_after_s=section.fair_after_s,
        spill_after_s=section.spill_after_s,
        unknown=section.unknown,
        unload_threshold_pct=section.unload_threshold_pct,
        reconcile_ttl_s=section.monitor_interval_s,
    )
