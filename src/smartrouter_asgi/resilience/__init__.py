"""Retries, breakers, budgets: pure deciders that need no ASGI and no HTTP client."""

from __future__ import annotations

from .backoff import compute_delay_s
from .breaker import BreakerBoard, CircuitBreaker
from .budget import BudgetBoard, RetryBudget
from .circuit import Circuit, CircuitState
from .permit import Permit
from .policy import BreakerPolicy
from .retry import (
    NEVER_REACHED,
    Decision,
    Failure,
    GiveUp,
    GiveUpReason,
    RetryPolicy,
    TryNow,
    Wait,
    counts_as_failure,
    decide,
    most_telling,
)
from .states import CircuitOpenError

__all__ = [
    "NEVER_REACHED",
    "BreakerBoard",
    "BreakerPolicy",
    "BudgetBoard",
    "Circuit",
    "CircuitBreaker",
    "CircuitOpenError",
    "CircuitState",
    "Decision",
    "Failure",
    "GiveUp",
    "GiveUpReason",
    "Permit",
    "RetryBudget",
    "RetryPolicy",
    "TryNow",
    "Wait",
    "compute_delay_s",
    "counts_as_failure",
    "decide",
    "most_telling",
]
