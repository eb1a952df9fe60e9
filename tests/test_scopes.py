"""What ends the work of a request: whose end goes how far."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from smartrouter_asgi._scopes import GuardedScope, NativeScope, NativeWork, cancel_scope


async def in_scope(scope: NativeScope, began: asyncio.Event, seen: list[str]) -> None:
    with scope:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("ended")
    seen.append("after")
    await asyncio.sleep(0)
    seen.append("went on")


async def test_an_end_that_was_asked_for_goes_no_further_than_its_block():
    scope, began, seen = NativeScope(), asyncio.Event(), list[str]()
    task = asyncio.create_task(in_scope(scope, began, seen))
    await began.wait()
    scope.cancel()
    scope.cancel()
    await task
    assert seen == ["ended", "after", "went on"]
    assert task.cancelling() == 0


@pytest.mark.parametrize("first", ["scope", "task"])
async def test_somebody_elses_cancellation_goes_on(first: str):
    """Also where both come in the same moment."""
    scope, began, seen = NativeScope(), asyncio.Event(), list[str]()
    task = asyncio.create_task(in_scope(scope, began, seen))
    await began.wait()
    for end in (scope.cancel, task.cancel) if first == "scope" else (task.cancel, scope.cancel):
        end()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["ended"]


async def test_an_error_of_the_block_passes():
    with pytest.raises(ValueError, match="x"), NativeScope():
        raise ValueError("x")


async def test_an_anyio_scope_around_ends_what_is_in_the_block():
    seen = []
    with anyio.move_on_after(0.01) as outer:
        with NativeScope():
            await anyio.sleep(60)
        seen.append("after")
    assert outer.cancelled_caught
    assert not seen


async def worked(work: NativeWork, seen: list[str], *, guarded: bool, error: Exception | None = None) -> None:
    """Run a block of a request's work, guarded or not, and then some more."""
    if not guarded:
        await asyncio.sleep(60)
    with GuardedScope(work):
        try:
            await anyio.sleep(60)
        except asyncio.CancelledError as exc:
            seen.append("by a scope" if "cancel scope" in str(exc) else "natively")
            if error is not None:
                raise error from None
            raise
    seen.append("after")


@pytest.mark.parametrize("error", [None, OSError("reset")])
async def test_what_is_guarded_is_ended_by_its_scope_and_what_is_around_it_ends_as_well(error: Exception | None):
    """Even where the block makes an error of its end: nobody is to try once more for a client that has left."""
    work, seen = NativeWork(), list[str]()
    task = asyncio.create_task(worked(work, seen, guarded=True, error=error))
    work.begin(task)
    await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["by a scope"]
    assert work.cancel_called


async def test_what_is_not_guarded_is_ended_natively():
    work, seen = NativeWork(), list[str]()
    task = asyncio.create_task(worked(work, seen, guarded=False))
    work.begin(task)
    await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not seen


async def test_work_that_has_not_begun_never_does():
    work, seen = NativeWork(), list[str]()
    task = asyncio.create_task(worked(work, seen, guarded=True))
    work.begin(task)
    work.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def test_two_attempts_side_by_side_are_each_ended_by_their_own_scope():
    """Whichever task it runs in."""
    work, seen = NativeWork(), list[str]()

    async def both() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(other)
            with GuardedScope(work):
                try:
                    await anyio.sleep(60)
                finally:
                    seen.append("own")

    async def other() -> None:
        with GuardedScope(work):
            try:
                await anyio.sleep(60)
            finally:
                seen.append("other")

    task = asyncio.create_task(both())
    work.begin(task)
    while len(work._guards) < 2:
        await asyncio.sleep(0)
    work.cancel()
    await asyncio.wait({task}, timeout=5)
    assert sorted(seen) == ["other", "own"]
    assert not work._guards


async def test_a_guard_can_be_ended_alone():
    """By its own clock: the work goes on."""
    work = NativeWork()
    with GuardedScope(work) as scope:
        asyncio.get_running_loop().call_soon(scope.cancel)
        await anyio.sleep(60)
    assert not work.cancel_called


async def test_a_scope_is_anyios_own():
    with cancel_scope() as scope:
        scope.cancel()
        await anyio.sleep(60)
    assert isinstance(scope, type(anyio.CancelScope()))
    assert scope.cancelled_caught


@pytest.mark.parametrize("first", ["attempt", "work"])
async def test_an_attempt_that_is_beaten_as_its_client_leaves_does_not_swallow_the_end_of_the_work(first: str):
    """The winner runs in a task of its own: if this one did not end, nobody would end that one."""
    work, attempt, seen = NativeWork(), anyio.CancelScope(), list[str]()

    async def beaten() -> None:
        with attempt:
            await worked(work, seen, guarded=True)
        seen.append("went on")

    task = asyncio.create_task(beaten())
    work.begin(task)
    while not work._guards:
        await asyncio.sleep(0)
    for end in (attempt.cancel, work.cancel) if first == "attempt" else (work.cancel, attempt.cancel):
        end()
    await asyncio.wait({task}, timeout=5)
    assert task.cancelled()
    assert seen == ["by a scope"]
