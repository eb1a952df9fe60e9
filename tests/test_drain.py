"""The drain alone: who is let in, when the limit passes, and what it does to whom."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from smartrouter_asgi.deployment import Deployment
from smartrouter_asgi.drain import Drain
from smartrouter_asgi.exceptions import DrainingError
from smartrouter_asgi.resilience.attempt import Attempt
from smartrouter_asgi.state import RequestState
from smartrouter_asgi.transport.watchdog import Watchdog

BOUND_S = 5.0


class Request:
    """A request that waits for ever in a scope of its own."""

    def __init__(self, drain: Drain, *, status: int = 0, streams: bool = False) -> None:
        self.state = RequestState(request_id="r", started=0.0, status=status)
        self.drain = drain
        self.streams = streams
        self.work = anyio.CancelScope()
        self.stream = anyio.CancelScope()
        self.task = asyncio.create_task(self.run())

    async def run(self) -> None:
        state = self.state
        self.drain.enter(state)
        state.work = self.work
        try:
            with self.work, self.stream:
                if self.streams:
                    state.attempt = Attempt(number=1, deployment=Deployment(backend="b", model="m"))
                    state.attempt.watchdog = self.watchdog = Watchdog(self.stream)
                await anyio.sleep_forever()
        finally:
            self.drain.leave(state)


async def entered(drain: Drain, *requests: Request) -> None:
    async with asyncio.timeout(BOUND_S):
        while drain.running < len(requests):
            await asyncio.sleep(0)


async def over(*requests: Request) -> None:
    async with asyncio.timeout(BOUND_S):
        await asyncio.gather(*(request.task for request in requests))


async def stop(*requests: Request) -> None:
    for request in requests:
        request.work.cancel()
    await over(*requests)


async def test_nobody_is_let_in_once_it_has_begun():
    drain = Drain()
    assert not drain.active
    drain.begin(60.0)
    assert drain.active
    with pytest.raises(DrainingError) as refused:
        drain.enter(RequestState(request_id="r", started=0.0))
    assert (refused.value.status, refused.value.retry_after_s) == (503, 5.0)
    assert drain.running == 0
    drain.reset()


async def test_what_runs_goes_on_until_the_limit():
    drain = Drain()
    request = Request(drain)
    await entered(drain, request)
    drain.begin(60.0)
    await asyncio.sleep(0)
    assert (drain.running, request.work.cancel_called) == (1, False)
    drain.reset()
    await stop(request)
    assert drain.running == 0


async def test_a_request_that_has_not_begun_to_answer_is_cancelled_and_knows_what_to_answer():
    drain = Drain()
    request = Request(drain)
    await entered(drain, request)
    drain.begin(0.0)
    await over(request)
    assert isinstance(request.state.ended, DrainingError)
    assert drain.running == 0


async def test_a_stream_that_has_begun_is_told_through_its_watchdog_and_its_layers_go_on():
    drain = Drain()
    request = Request(drain, status=200, streams=True)
    await entered(drain, request)
    drain.begin(0.0)
    await over(request)
    assert request.watchdog.expired == "gateway_draining"
    assert not request.work.cancel_called
    assert request.state.ended is None


async def test_a_plain_answer_that_is_being_sent_goes_on():
    drain = Drain()
    answering, waiting = Request(drain, status=200), Request(drain)
    await entered(drain, answering, waiting)
    drain.begin(0.0)
    await over(waiting)
    assert drain.running == 1
    assert not answering.work.cancel_called
    assert answering.state.ended is None
    await stop(answering)


async def test_a_later_call_can_only_bring_the_limit_forward():
    drain = Drain()
    request = Request(drain)
    await entered(drain, request)
    drain.begin(60.0)
    drain.begin(120.0)
    drain.begin(0.0)
    drain.begin(60.0)
    await over(request)
    assert request.state.ended is not None


async def test_after_a_reset_no_limit_passes_and_everybody_is_let_in():
    drain = Drain()
    request = Request(drain)
    await entered(drain, request)
    drain.begin(0.0)
    drain.reset()
    for _ in range(3):
        await asyncio.sleep(0.001)
    assert (drain.active, request.work.cancel_called) == (False, False)
    drain.enter(RequestState(request_id="r", started=0.0))
    await stop(request)


async def test_a_clock_that_was_first_stays_the_reason():
    with anyio.CancelScope() as scope:
        watchdog = Watchdog(scope)
        watchdog.enter("idle", 0.0)
        await anyio.sleep_forever()
    watchdog.expire("gateway_draining")
    assert watchdog.expired == "idle"


async def test_an_expired_watchdog_is_no_clock_any_more():
    with anyio.CancelScope() as scope:
        watchdog = Watchdog(scope)
        watchdog.enter("idle", 0.005)
        watchdog.expire("gateway_draining")
        with anyio.CancelScope(shield=True):
            await asyncio.sleep(0.02)
    assert watchdog.expired == "gateway_draining"
