"""When a breaker opens and how it closes again, as one value."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..exceptions import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """When a breaker opens and how it closes again; a policy that could never open is refused (ConfigurationError)."""

    enabled: bool = True
    failure_threshold: int = 5
    """So many failures among the last `sliding_window_size` outcomes open it; they need not be consecutive."""
    reset_timeout_s: float = 60.0
    half_open_max_attempts: int = 3
    """Probes per half-open period, all of which must succeed."""
    sliding_window_size: int = 100
    slow_call_duration_s: float | None = None
    """A success is slow when its first token took at least this long; None: no success is."""
    slow_call_rate: float = 0.8
    """This share of slow ones, among the outcomes in the window that told a first-token time, opens it."""
    slow_call_min_calls: int = 10
    """As long as fewer outcomes in the window told a first-token time, their rate says nothing."""
    reset_timeout_max_s: float | None = None
    """Up to this the open time doubles with each opening in a row; None: every one lasts `reset_timeout_s`."""
    reset_timeout_jitter: float = 0.1
    """A longer open time is lengthened by up to this share of it, so that workers do not probe in step."""

    def __post_init__(self) -> None:
        if self.failure_threshold < 1 or self.half_open_max_attempts < 1:
            raise ConfigurationError("circuit_breaker: failure_threshold and half_open_max_attempts must be at least 1")
        if self.sliding_window_size < self.failure_threshold:
            raise ConfigurationError(
                f"circuit_breaker: a sliding_window_size of {self.sliding_window_size} can never hold "
                f"failure_threshold = {self.failure_threshold} failures; make it at least that"
            )
        if not (math.isfinite(self.reset_timeout_s) and self.reset_timeout_s >= 0):
            raise ConfigurationError("circuit_breaker: reset_timeout must be a finite number of seconds, 0 or more")
        if self.slow_call_duration_s is not None:
            self._check_slow_calls(self.slow_call_duration_s)
        if self.reset_timeout_max_s is not None:
            self._check_escalation(self.reset_timeout_max_s)

    def is_slow(self, first_token_s: float | None) -> bool:
        """Tell whether a success with this time to its first token is a slow one."""
        limit_s = self.slow_call_duration_s
        return limit_s is not None and first_token_s is not None and first_token_s >= limit_s

    def _check_slow_calls(self, limit_s: float) -> None:
        if not (math.isfinite(limit_s) and limit_s > 0):
            raise ConfigurationError("circuit_breaker: slow_call_duration must be a finite number of seconds above 0")
        if not 0 < self.slow_call_rate <= 1:
            raise ConfigurationError("circuit_breaker: slow_call_rate must be above 0 and at most 1")
        if not 1 <= self.slow_call_min_calls <= self.sliding_window_size:
            raise ConfigurationError(
                f"circuit_breaker: slow_call_min_calls must be at least 1 and at most sliding_window_size "
                f"({self.sliding_window_size}), or slow calls never open it"
            )

    def _check_escalation(self, longest_s: float) -> None:
        if not (math.isfinite(longest_s) and longest_s >= self.reset_timeout_s > 0):
            raise ConfigurationError(
                "circuit_breaker: reset_timeout_max must be a finite number of seconds, at least reset_timeout, "
                "which must be above 0"
            )
        if not 0 <= self.reset_timeout_jitter <= 1:
            raise ConfigurationError("circuit_breaker: reset_timeout_jitter must be from 0 to 1")
