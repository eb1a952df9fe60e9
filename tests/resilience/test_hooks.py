"""Laws of the calls into other people's code."""

from __future__ import annotations

from typing import Any

import pytest

from smartrouter_asgi.resilience.hooks import Hooks


class Listener:
    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def news(self, *args: Any, **kwargs: Any) -> None:
        self.heard.append((args, kwargs))

    def fail(self, *args: Any) -> None:
        raise LookupError("sk-secret")


def test_who_is_told_hears_every_argument_by_its_name() -> None:
    hooks, listener = Hooks("gpu/chat"), Listener()
    hooks.note(listener, "news", 1, method="GET", listener=2)
    assert listener.heard == [], "not before it is told"
    hooks.tell()
    hooks.tell()
    assert listener.heard == [((1,), {"method": "GET", "listener": 2})]


@pytest.mark.parametrize("told", [False, True])
def test_the_first_exception_is_logged_by_the_breakers_name_and_its_type_alone(
    told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    hooks, listener = Hooks("gpu/chat"), Listener()
    for _ in range(3):
        if told:
            hooks.note(listener, "fail", 1)
            hooks.tell()
        else:
            hooks.guard(listener.fail, 1)
    assert [record.getMessage() for record in caplog.records] == [
        "a hook or storage of circuit breaker gpu/chat raised LookupError"
    ]
