"""Where the file is silent, the policies of retries and rests are those of their own defaults."""

from __future__ import annotations

from smartrouter_asgi.config import Settings
from smartrouter_asgi.policies import rest_policy, retry_policy
from smartrouter_asgi.resilience import RetryPolicy
from smartrouter_asgi.resilience.rest import RestPolicy


def test_defaults_of_the_file_are_those_of_the_policies() -> None:
    assert retry_policy(Settings()) == RetryPolicy()
    assert rest_policy(Settings()) == RestPolicy()
