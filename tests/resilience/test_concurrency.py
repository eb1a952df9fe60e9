"""Waiting for a turn: who is cancelled is gone at once, whatever happens in the same moment."""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from smartrouter_asgi.deployment import Deployment
from smartrouter_asgi.exceptions import DeadlineExceededError, QueueFullError
from smartrouter_asgi.resilience.concurrency import ConcurrencyLimits

OWN = Deployment(backend="free", model="m", max_parallel=1)
SHARED = Deployment(backend="b", model="m")
BOTH = Deployment(backend="b", model="n", max_parallel=1)
UNLIMITED = Deployment(backend="free", model="u")
BOUND_S = 5.0


def limits_of_one(*, max_queue: int = 64) -> ConcurrencyLimits:
    return ConcurrencyLimits({"b": 1}, max_queue=max_queue)


class Visitor:
    """A task that asks for a slot and, once it is in, stays until it is told to go."""

    def __init__(self, limits: ConcurrencyLimits, deployment: Deployment = SHARED, **how: float) -> None:
        self.inside = asyncio.Event()
        self.go = asyncio.Event()
        self.task = asyncio.create_task(self._visit(limits, deployment, how))

    async def _visit(self, limits: ConcurrencyLimits, deployment: Deployment, how: dict) -> None:
        async with limits.slot(deployment, **how):
            self.inside.set()
            await self.go.wait()

    async def comes_in(self) -> Visitor:
        await asyncio.wait_for(self.inside.wait(), BOUND_S)
        return self

    async def leaves(self) -> None:
        self.go.set()
        await asyncio.wait_for(self.task, BOUND_S)


async def queued(limits: ConcurrencyLimits, count: int, name: str = "b") -> None:
    """Let the tasks run until so many wait."""
    async with asyncio.timeout(BOUND_S):
        while limits.depths()[name] != count:
            await asyncio.sleep(0)


@asynccontextmanager
async def held_with_line(limits: ConcurrencyLimits, *priorities: int) -> AsyncIterator[tuple[Visitor, list[Visitor]]]:
    """One visitor inside and a line before the door, all gone in the end."""
    holder = await Visitor(limits).comes_in()
    line = []
    for priority in priorities:
        line.append(Visitor(limits, priority=priority))
        await queued(limits, len(line))
    yield holder, line
    for visitor in (holder, *line):
        visitor.go.set()
    await asyncio.wait_for(asyncio.gather(*(v.task for v in (holder, *line)), return_exceptions=True), BOUND_S)
    assert limits.has_room(SHARED)
    assert limits.depths()["b"] == 0


@pytest.mark.parametrize("deployment", [OWN, SHARED, BOTH, UNLIMITED], ids=["own", "shared", "both", "none"])
async def test_a_free_slot_is_taken_without_a_pause(deployment: Deployment):
    limits = limits_of_one()
    slot = limits.slot(deployment)
    with pytest.raises(StopIteration):
        slot.__aenter__().send(None)
    assert limits.apply(deployment) is (deployment is not UNLIMITED)
    assert limits.has_room(deployment) is (deployment is UNLIMITED)
    with pytest.raises(StopIteration):
        slot.__aexit__(None, None, None).send(None)
    assert limits.has_room(deployment)


async def test_turns_come_in_the_order_of_the_line():
    async with held_with_line(limits_of_one(), 0, 1, 0, -1) as (holder, (second, fourth, third, first)):
        leaving = holder
        for following in (first, second, third, fourth):
            await leaving.leaves()
            leaving = await following.comes_in()
            assert sum(v.inside.is_set() and not v.task.done() for v in (first, second, third, fourth)) == 1


async def test_a_waiter_that_is_cancelled_is_gone_at_once():
    limits = limits_of_one(max_queue=1)
    async with held_with_line(limits, 0) as (holder, (waiter,)):
        waiter.task.cancel()
        await queued(limits, 0)
        successor = Visitor(limits)
        await queued(limits, 1)
        await holder.leaves()
        await (await successor.comes_in()).leaves()
        assert not waiter.inside.is_set()


@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_a_grant_that_meets_a_cancellation_goes_to_the_next(cancelled_first: bool):
    """Both happen before the waiter runs again."""
    limits = limits_of_one()
    async with limits.slot(SHARED):
        unlucky = Visitor(limits)
        await queued(limits, 1)
        following = Visitor(limits)
        await queued(limits, 2)
        if cancelled_first:
            unlucky.task.cancel()
    if not cancelled_first:
        unlucky.task.cancel()
    await following.comes_in()
    assert not unlucky.inside.is_set()
    await following.leaves()
    assert limits.has_room(SHARED)


async def test_who_gives_up_in_the_second_line_gives_its_first_slot_back():
    limits = limits_of_one()
    async with held_with_line(limits):
        waiter = Visitor(limits, BOTH)
        await queued(limits, 1)
        assert not limits.has_room(BOTH)
        other = Visitor(limits, BOTH)
        await queued(limits, 1, BOTH.id)
        waiter.task.cancel()
        await queued(
            limits, 0, BOTH.id
        )  # the other one has the slot of the deployment now, and waits for the backend's
        await queued(limits, 1)
        other.task.cancel()
        await asyncio.wait({waiter.task, other.task})


@pytest.mark.parametrize("victim", range(4))
@pytest.mark.parametrize("step", range(8))
async def test_a_cancellation_at_any_step_loses_no_slot_and_no_waiter(step: int, victim: int):
    """Four requests with both limits; one is cancelled after so many rounds of the loop, the others are served."""
    limits, served = limits_of_one(), []

    async def visit(number: int) -> None:
        async with limits.slot(BOTH):
            await asyncio.sleep(0)
            served.append(number)

    tasks = [asyncio.create_task(visit(number)) for number in range(4)]
    for _ in range(step):
        await asyncio.sleep(0)
    tasks[victim].cancel()
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), BOUND_S)
    assert [number for number in served if number != victim] == [n for n in range(4) if n != victim]
    assert limits.has_room(BOTH)
    assert set(limits.depths().values()) == {0}


async def test_a_full_line_refuses_with_an_estimate():
    limits = limits_of_one(max_queue=1)
    async with held_with_line(limits, 0):
        with pytest.raises(QueueFullError, match=r"backend 'b' serves 1 .* 1 more wait already") as caught:
            await limits.slot(SHARED).__aenter__()
        assert (caught.value.status, caught.value.code, caught.value.retry_after_s) == (503, "queue_full", 2.0)


async def test_who_may_not_wait_is_refused_and_keeps_nothing():
    limits = limits_of_one()
    async with held_with_line(limits):
        with pytest.raises(QueueFullError, match="none is free now"):
            await limits.slot(BOTH, wait=False).__aenter__()
        assert limits.depths() == {"b": 0, BOTH.id: 0}
    assert limits.has_room(BOTH), "the deployment's slot is back too"


async def test_a_deadline_ends_the_wait():
    limits = limits_of_one()
    async with held_with_line(limits):
        waiter = Visitor(limits, deadline=time.monotonic() + 0.02)
        with pytest.raises(DeadlineExceededError, match="backend 'b' was busy"):
            await asyncio.wait_for(waiter.task, BOUND_S)
        assert limits.depths()["b"] == 0


async def test_a_deadline_that_is_over_gets_no_slot():
    limits = limits_of_one()
    with pytest.raises(DeadlineExceededError):
        await limits.slot(BOTH, deadline=time.monotonic()).__aenter__()
    assert limits.has_room(BOTH)


async def test_a_deadline_ends_no_turn_that_has_begun():
    limits = limits_of_one()
    async with held_with_line(limits) as (holder, _):
        deadline = time.monotonic() + 0.3
        waiter = Visitor(limits, deadline=deadline)
        await queued(limits, 1)
        await holder.leaves()
        await waiter.comes_in()
        await asyncio.sleep(deadline - time.monotonic() + 0.02)
        await waiter.leaves()


async def test_a_turn_in_time_leaves_no_timer_behind(monkeypatch: pytest.MonkeyPatch):
    loop, limits = asyncio.get_running_loop(), limits_of_one()
    timers: list[asyncio.TimerHandle] = []
    call_later = loop.call_later
    monkeypatch.setattr(loop, "call_later", lambda *args: timers.append(call_later(*args)) or timers[-1])
    async with limits.slot(SHARED):
        waiter = Visitor(limits, deadline=time.monotonic() + 600)
        await queued(limits, 1)
    monkeypatch.undo()
    await (await waiter.comes_in()).leaves()
    assert [timer.cancelled() for timer in timers] == [True]


async def test_time_that_is_up_in_the_moment_of_a_cancellation_upsets_nobody():
    loop, limits = asyncio.get_running_loop(), limits_of_one()
    upset: list[dict] = []
    loop.set_exception_handler(lambda _, context: upset.append(context))
    async with limits.slot(SHARED):
        deadline = time.monotonic() + 0.3
        waiter = Visitor(limits, deadline=deadline)
        await queued(limits, 1)
        loop.call_soon(waiter.task.cancel)
        time.sleep(deadline - time.monotonic() + 0.02)  # noqa: ASYNC251  both are due in the next round of the loop
        await asyncio.wait({waiter.task})
    assert waiter.task.cancelled()
    assert limits.has_room(SHARED)
    assert not upset


async def test_the_estimate_follows_what_was_observed():
    limits = limits_of_one()
    held = 0.05
    async with limits.slot(SHARED):
        await asyncio.sleep(held)
    async with held_with_line(limits):
        with pytest.raises(QueueFullError) as caught:
            await limits.slot(SHARED, wait=False).__aenter__()
    assert caught.value.retry_after_s is not None
    assert held <= caught.value.retry_after_s < 0.95, "and not the second that is guessed where nothing is known"


def test_what_a_dead_loop_left_behind_is_dropped():
    """A holder and its waiters die with their loop; a new loop has the whole room, and no visitor too many."""
    limits = limits_of_one()
    visitors: list[Visitor] = []

    async def one_inside_and_two_in_line() -> None:
        visitors.append(await Visitor(limits).comes_in())
        for count in (1, 2):
            visitors.append(Visitor(limits))
            await queued(limits, count)
        for visitor in visitors:
            visitor.task._log_destroy_pending = False  # type: ignore[attr-defined]

    async def afterwards() -> None:
        assert limits.has_room(SHARED)
        async with limits.slot(SHARED):
            visitors.clear()
            gc.collect()  # they leave only now, and what they leave is not of this loop
            assert not limits.has_room(SHARED)
        assert limits.has_room(SHARED)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(one_inside_and_two_in_line())
    loop.close()
    assert limits.depths() == {"b": 0}
    asyncio.run(afterwards())


def test_a_new_loop_keeps_what_was_learnt_of_the_service_time():
    limits = limits_of_one()

    async def serve_one() -> None:
        async with limits.slot(SHARED):
            await asyncio.sleep(0.01)

    async def refused() -> float | None:
        async with limits.slot(SHARED):
            with pytest.raises(QueueFullError) as caught:
                await limits.slot(SHARED, wait=False).__aenter__()
        return caught.value.retry_after_s

    asyncio.run(serve_one())
    assert 0.01 <= (asyncio.run(refused()) or math.inf) < 0.95
