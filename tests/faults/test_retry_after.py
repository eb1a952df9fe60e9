"""A 429 and what its Retry-After says, be it sense or not."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from ..harness.answers import error_code
from ..harness.engines import ANSWER, answering, good
from ..harness.gateways import gateway_over
from ..harness.servers import Exchange, RawServer, Script

FAR = "Fri, 31 Dec 9999 23:59:59 GMT"
NONSENSE = ["-1", "nan", "1e999", "1,2", "x" * 10_240, "9" * 10_240, formatdate(1_000_000_000, usegmt=True), ""]


def limited(value: str) -> Script:
    return answering(429, b'{"error": {"message": "slow down"}}', f"retry-after: {value}\r\n")


RICH = {"retry": {"base_delay": "5ms", "max_delay": "10ms", "budget": {"reserve": 1000}}}


async def test_row_27_another_engine_is_asked_whatever_retry_after_says():
    """At once, and a 429 opens no breaker."""
    for value in ("3600", FAR, "9999999999", *NONSENSE):
        async with RawServer(limited(value)) as busy, RawServer(good) as engine:
            async with gateway_over(busy, engine) as gateway:
                started = time.monotonic()
                response = await gateway.ask()
                assert (response.json(), response.headers["x-smartrouter-attempts"]) == (ANSWER, "2"), value[:20]
                assert gateway.breaker("b1") == "closed"
                assert time.monotonic() - started < 2


async def test_row_27_nonsense_is_as_if_nothing_was_said():
    """A lone engine is asked again by backoff, then the 429 passes."""
    async with RawServer(good) as busy, gateway_over(busy, resilience=RICH) as gateway:
        for number, value in enumerate(NONSENSE, 1):
            busy.script = limited(value)
            started = time.monotonic()
            response = await gateway.ask()
            assert time.monotonic() - started < 2
            assert error_code(response) == (429, "rate_limited"), value[:20]
            assert len(busy.exchanges) == 4 * number, value[:20]
            assert 1 <= int(response.headers["retry-after"]) <= 60
        busy.script = good


@pytest.mark.parametrize(("value", "told"), [("3600", 3600), (FAR, 86_400), ("9999999999", 86_400)])
async def test_row_27_a_pause_too_long_is_passed_on_within_reason(value: str, told: int):
    """Nobody waits for it here, and no client is told to sleep for centuries."""
    async with RawServer(limited(value)) as busy, gateway_over(busy, serves_on=False) as gateway:
        response = await gateway.ask()
    assert error_code(response) == (429, "rate_limited")
    assert int(response.headers["retry-after"]) == told
    assert len(busy.exchanges) == 1


async def test_row_27_a_date_is_waited_for():
    """A lone engine is not asked before it."""
    due: list[int] = []

    async def limited_until(exchange: Exchange) -> None:
        if due:
            asked.append(time.time())
            await good(exchange)
            return
        due.append(int(time.time()) + 2)
        await limited(formatdate(due[0], usegmt=True))(exchange)

    asked: list[float] = []
    async with RawServer(limited_until) as engine, gateway_over(engine) as gateway:
        assert (await gateway.ask()).json() == ANSWER
    assert asked[0] >= due[0]
