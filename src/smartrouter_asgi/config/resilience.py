"""The `resilience` section: retries, breakers, timeouts, drain."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from .fields import Count, NonNegative, Positive, PositiveSeconds, Problem, Seconds, Section, WholeNumber, refuse
from .units import format_duration


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
    slow_call_duration_s: PositiveSeconds | None = Field(default=None, alias="slow_call_duration")
    """A success is slow when its first token took at least this long; not set: no success is."""
    slow_call_rate: Positive = Field(default=0.8, le=1)
    """This share of slow ones among the outcomes that told a first-token time opens the breaker."""
    slow_call_min_calls: Count = 10
    """With fewer outcomes that told a first-token time, their rate says nothing."""
    reset_timeout_max_s: PositiveSeconds | None = Field(default=None, alias="reset_timeout_max")
    """Up to this the open time doubles with each opening in a row; not set: it is always `reset_timeout`."""

    @model_validator(mode="after")
    def _can_open(self) -> Self:
        size, longest_s = self.sliding_window_size, self.reset_timeout_max_s
        problems = []
        if self.failure_threshold > size:
            message = f"must be at most sliding_window_size ({size}), or it never opens"
            problems.append(Problem(path=("failure_threshold",), value=self.failure_threshold, message=message))
        if self.slow_call_duration_s is not None and self.slow_call_min_calls > size:
            message = f"must be at most sliding_window_size ({size}), or slow calls never open it"
            problems.append(Problem(path=("slow_call_min_calls",), value=self.slow_call_min_calls, message=message))
        if longest_s is not None and longest_s < self.reset_timeout_s:
            message = f"must be at least reset_timeout ({format_duration(self.reset_timeout_s)}), which it grows from"
            value = format_duration(longest_s)
            problems.append(Problem(path=("reset_timeout_max",), value=value, message=message))
        refuse(problems)
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
    """A second attempt beside one whose first token is late: streams only, the first to speak is the answer."""

    enabled: bool = False
    quantile: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Late is a first token that takes longer than this share of the deployment's last ones did."""
    min_samples: Count = 20
    """First tokens a deployment must have given before anything is late; the last 100 are known."""
    min_delay_s: Seconds = Field(default=0.1, alias="min_delay")

    @model_validator(mode="after")
    def _can_know(self) -> Self:
        if self.min_samples > 100:
            message = "must be at most 100: no more first tokens are remembered"
            refuse([Problem(path=("min_samples",), value=self.min_samples, message=message)])
        return self


class RestSettings(Section):
    """How long a deployment whose model fails is left alone; doubled with each failure in a row."""

    base_s: Seconds = Field(default=10.0, alias="base")
    """0: a failing model is asked again at once."""
    max_s: Seconds = Field(default=120.0, alias="max")


class DrainSettings(Section):
    """How the gateway stops, told by `POST /admin/drain` or, under `serve`, by SIGTERM or SIGINT.

    From that moment `/readyz` says 503 and new requests are refused (503 `gateway_draining`).
    """

    timeout_s: Seconds = Field(default=30.0, alias="timeout")
    """What runs may go on for so long, counted from that moment; then it ends with `gateway_draining`."""
    delay_s: Seconds = Field(default=0.0, alias="delay")
    """Under `serve`: how long it still listens after the signal, so that probes and balancers see the 503."""


class ResilienceSettings(Section):
    """What happens when a backend fails."""

    retry: RetrySettings = Field(default_factory=RetrySettings)
    circuit_breaker: CircuitBreakerSettings = Field(default_factory=CircuitBreakerSettings)
    timeouts: TimeoutSettings = Field(default_factory=TimeoutSettings)
    hedge: HedgeSettings = Field(default_factory=HedgeSettings)
    rest: RestSettings = Field(default_factory=RestSettings)
    drain: DrainSettings = Field(default_factory=DrainSettings)
