"""From the file's `resilience.circuit_breaker` to the breakers' policy."""

from __future__ import annotations

import pytest

from smartrouter_asgi.config import Settings
from smartrouter_asgi.policies import breaker_policy
from smartrouter_asgi.resilience.policy import BreakerPolicy


def test_defaults_of_the_file_are_those_of_the_policy() -> None:
    assert breaker_policy(Settings()) == BreakerPolicy()


def test_every_key_reaches_the_policy() -> None:
    section = {
        "enabled": False,
        "failure_threshold": 4,
        "reset_timeout": "20s",
        "half_open_max_attempts": 2,
        "sliding_window_size": 50,
        "slow_call_duration": "30s",
        "slow_call_rate": 0.6,
        "slow_call_min_calls": 20,
        "reset_timeout_max": "5m",
    }
    assert breaker_policy(Settings(resilience={"circuit_breaker": section})) == BreakerPolicy(
        enabled=False,
        failure_threshold=4,
        reset_timeout_s=20.0,
        half_open_max_attempts=2,
        sliding_window_size=50,
        slow_call_duration_s=30.0,
        slow_call_rate=0.6,
        slow_call_min_calls=20,
        reset_timeout_max_s=300.0,
    )


@pytest.mark.parametrize(
    "section",
    [
        {"slow_call_duration": 1, "slow_call_min_calls": 101},
        {"slow_call_duration": 1, "slow_call_rate": 1.01},
        {"reset_timeout_max": 59},
    ],
)
def test_what_the_policy_would_refuse_the_file_refuses_first(section: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"resilience\.circuit_breaker"):
        Settings(resilience={"circuit_breaker": section})
