"""The `resilience` section: retries, breakers, timeouts, drain."""

from typing import Self

from pydantic import Field, model_validator

from .fields import Count, NonNegative, PositiveSeconds, Problem, Seconds, Section, WholeNumber, refuse


class RetryBudgetSettings(Section):
    """Retries allowed over a time: `ratio` x requests + `reserve`, refilled by one a second."""

    ratio: NonNegative = 0.2
    reserve: WholeNumber = 10


class RetrySettings(Section):
    """How often a whole request is tried again before commit, and how long apart."""

    enabled: bool = True
    max_retries: WholeNumber = 3
    base_delay_s: Seconds = Field(default=0.5, alias="base_delay")
    max_delay_s: Seconds = Field(default=8.0, alias="max_delay")
    budget: RetryBudgetSettings = Field(default_factory=RetryBudgetSettings)


class CircuitBreakerSettings(Section):
    """When a backend that keeps failing is left alone, and for how long."""

    enabled: bool = True
    failure_threshold: Count = 5
    reset_timeout_s: PositiveSeconds = Field(default=60.0, alias="reset_timeout")
    half_open_max_attempts: Count = 3
    sliding_window_size: Count = 100

    @model_validator(mode="after")
    def _can_open(self) -> Self:
        if self.failure_threshold > self.sliding_window_size:
            message = f"must be at most sliding_window_size ({self.sliding_window_size}), or it never opens"
            refuse([Problem(path=("failure_threshold",), value=self.failure_threshold, message=message)])
        return self


class TimeoutSettings(Section):
    """How long each stage of a request may take."""

    connect_s: PositiveSeconds = Field(default=5.0, alias="connect")
    first_token_s: PositiveSeconds = Field(default=120.0, alias="first_token")
    """From admission to the first content event of a stream, the model being loaded."""
    first_token_cold_s: PositiveSeconds = Field(default=300.0, alias="first_token_cold")
    """The same while the engine loads the model."""
    idle_s: PositiveSeconds = Field(default=60.0, alias="idle")
    """Between two events of a stream."""
    client_stall_s: PositiveSeconds = Field(default=60.0, alias="client_stall")
    """How long a client may refuse to read."""
    total_s: PositiveSeconds = Field(default=600.0, alias="total")
    """The whole request; the environment's `ROUTER_GENERATION_TIMEOUT`."""


class HedgeSettings(Section):
    """A second attempt racing the first: not available in this version, so only `false` is accepted."""

    enabled: bool = False

    @model_validator(mode="after")
    def _not_yet(self) -> Self:
        if self.enabled:
            message = "hedging is not available in this version: write false or leave it out"
            refuse([Problem(path=("enabled",), value=True, message=message)])
        return self


class DrainSettings(Section):
    """How the gateway stops: new work is refused after `delay_s`, running work gets `timeout_s`."""

    timeout_s: Seconds = Field(default=30.0, alias="timeout")
    delay_s: Seconds = Field(default=0.0, alias="delay")


class ResilienceSettings(Section):
    """What happens when a backend fails."""

    retry: RetrySettings = Field(default_factory=RetrySettings)
    circuit_breaker: CircuitBreakerSettings = Field(default_factory=CircuitBreakerSettings)
    timeouts: TimeoutSettings = Field(default_factory=TimeoutSettings)
    hedge: HedgeSettings = Field(default_factory=HedgeSettings)
    drain: DrainSettings = Field(default_factory=DrainSettings)
