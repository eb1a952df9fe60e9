"""Tests that hold on asyncio's own loop and on uvloop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

BOUND_S = 20.0


def on_both_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test on each kind of loop; what the loop had to report (a lost exception, say) is a failure."""

    def run(loop_kind: str, **arguments: Any) -> None:
        factory = asyncio if loop_kind == "asyncio" else pytest.importorskip("uvloop")
        reports: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=factory.new_event_loop) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: reports.append(context))
            runner.run(_bounded(test(**arguments)))
        assert reports == []

    inner = inspect.signature(test)
    kind = inspect.Parameter("loop_kind", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = inner.replace(parameters=[kind, *inner.parameters.values()])  # type: ignore[attr-defined]
    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    run.pytestmark = list(getattr(test, "pytestmark", []))  # type: ignore[attr-defined]
    return pytest.mark.parametrize("loop_kind", ["asyncio", "uvloop"])(run)


async def _bounded(body: Awaitable[None]) -> None:
    async with asyncio.timeout(BOUND_S):
        await body
