"""The runners in motion: carries out the scheduler's effects with tasks and timers, one event at a time."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import replace
from typing import TYPE_CHECKING

from .effects import Abort, Admit, Effect, Load, Refuse, Runner, SetTimer, Start, StopTimer, Ticket, Unload
from .errors import OOM_ON_LOAD, APIError, is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from .clock import EngineClock
    from .faults import Fault, Faults
    from .models import SimulatedModel
    from .observation import Observation
    from .scheduler import Scheduler

LOAD_STEPS = 8
LOAD_TIMEOUT_S = 300.0
RECOVERY_WAIT_S = 5.0
"""The scheduler waits no longer than this for an unloaded runner's memory."""


class RunnerPool:
    """Runners that load, serve, expire and go. Everything happens on one event loop."""

    def __init__(
        self,
        scheduler: Scheduler,
        clock: EngineClock,
        faults: Faults,
        observation: Observation,
        vram_release_s: tuple[float, float],
    ) -> None:
        self.scheduler = scheduler
        self._clock = clock
        self._faults = faults
        self._observation = observation
        self._vram_release_s = vram_release_s
        self._random = random.Random(1)
        self._expires_at_s: dict[Runner, float] = {}
        self._timers: dict[Runner, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loads: dict[Runner, asyncio.Task[None]] = {}
        self._admitted: dict[Ticket, asyncio.Future[Runner]] = {}
        self._slots: dict[Ticket, asyncio.Future[None]] = {}
        self._fault_of: dict[Ticket, Fault] = {}

    @contextlib.asynccontextmanager
    async def hold(self, ticket: Ticket, fault: Fault) -> AsyncIterator[Runner]:
        """Hold a loaded runner for one request; raises `APIError` when it cannot be had."""
        future: asyncio.Future[Runner] = asyncio.get_running_loop().create_future()
        self._admitted[ticket] = future
        self._fault_of[ticket] = fault
        try:
            self._apply(self.scheduler.submit(ticket))
            yield await future
        finally:
            if not future.cancel() and not future.cancelled():
                future.exception()
            del self._admitted[ticket], self._fault_of[ticket]
            self._apply(self.scheduler.leave(ticket))

    async def slot(self, ticket: Ticket) -> None:
        """Wait for a slot of the runner that the ticket holds; it is given back with the runner."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._slots[ticket] = future
        try:
            self._apply(self.scheduler.request_slot(ticket))
            await future
        finally:
            future.cancel()
            del self._slots[ticket]

    def unload(self, model: SimulatedModel) -> None:
        """Let a model's runner go, at once or when its last request has ended."""
        runner = self.scheduler.runners.get(model.digest)
        if runner is not None:
            self._expires_at_s[runner] = self._clock.now_s()
        self._apply(self.scheduler.expire(model))

    def crashed(self, runner: Runner, message: str, *, kills_runner: bool) -> None:
        """Note that a runner failed while it answered; for want of memory Ollama unloads all runners."""
        runner.dead = runner.dead or kills_runner
        if is_out_of_memory(message):
            self._apply(self.scheduler.expire_all())

    def remaining_s(self, runner: Runner) -> float:
        """Return how long the runner stays, as /api/ps reports it."""
        expires_at_s = self._expires_at_s.get(runner)
        return runner.keep_alive_s if expires_at_s is None else expires_at_s - self._clock.now_s()

    async def aclose(self) -> None:
        """Stop everything at once."""
        for timer in self._timers.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _apply(self, effects: list[Effect]) -> None:
        for effect in effects:
            self._carry_out(effect)
        stats = self._observation.stats
        stats.peak_vram_bytes = max(stats.peak_vram_bytes, self.scheduler.gpu.used_bytes)
        self._observation.changed()

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Admit(ticket, runner):
                if not self._admitted[ticket].done():
                    self._admitted[ticket].set_result(runner)
            case Start(ticket):
                if ticket in self._slots and not self._slots[ticket].done():
                    self._slots[ticket].set_result(None)
            case Refuse(ticket, error):
                if not self._admitted[ticket].done():
                    self._admitted[ticket].set_exception(error)
            case Load(runner, ticket):
                self._loads[runner] = self._spawn(self._load(runner, ticket))
            case Abort(runner):
                self._observation.stats.aborted_loads += 1
                self._loads.pop(runner).cancel()
                self._spawn(self._give_back(runner, tell=False))
            case Unload(runner):
                self._expires_at_s.pop(runner, None)
                self._observation.stats.unloads += 1
                self._spawn(self._give_back(runner, tell=True))
            case SetTimer(runner):
                self._expires_at_s[runner] = self._clock.now_s() + runner.keep_alive_s
                real_s = self._clock.real_s(runner.keep_alive_s)
                if real_s < 10 * 365 * 86400:
                    self._timers[runner] = asyncio.get_running_loop().call_later(real_s, self._fire, runner)
            case StopTimer(runner):
                timer = self._timers.pop(runner, None)
                if timer is not None:
                    timer.cancel()

    def _fire(self, runner: Runner) -> None:
        self._timers.pop(runner, None)
        self._apply(self.scheduler.timer_fired(runner))

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _load(self, runner: Runner, ticket: Ticket) -> None:
        fault = self._fault_of[ticket]
        self._fault_of[ticket] = replace(fault, load_stall=False)
        self._observation.stats.loads_started += 1
        self._observation.changed()
        try:
            if fault.load_stall:
                async with asyncio.timeout(self._clock.real_s(LOAD_TIMEOUT_S)):
                    await self._faults.until_cleared()
            for step in range(1, LOAD_STEPS + 1):
                await self._clock.sleep(runner.model.load_time_s / LOAD_STEPS)
                if not self.scheduler.gpu.hold(runner, runner.vram_bytes * step // LOAD_STEPS):
                    raise APIError(500, OOM_ON_LOAD)
                self._observation.changed()
            if fault.load_error is not None:
                raise APIError(500, fault.load_error)
        except TimeoutError:
            self._failed(runner, APIError(500, "timed out waiting for llama-server to start - "))
        except APIError as error:
            self._failed(runner, error)
        else:
            del self._loads[runner]
            self._observation.stats.loads += 1
            self._apply(self.scheduler.loaded(runner))

    def _failed(self, runner: Runner, error: APIError) -> None:
        del self._loads[runner]
        self._observation.stats.load_failures += 1
        self._spawn(self._give_back(runner, tell=False))
        self._apply(
            self.scheduler.load_failed(runner, error, out_of_memory=is_out_of_memory(error.message)),
        )

    async def _give_back(self, runner: Runner, *, tell: bool) -> None:
        """Return the memory of a stopped process after a while; `tell` the scheduler, who waits for it."""
        delay_s = self._random.uniform(*self._vram_release_s)
        if not runner.vram_bytes:
            delay_s = 0.0
        patience_s = min(delay_s, RECOVERY_WAIT_S)
        await self._clock.sleep(patience_s)
        if patience_s == delay_s:
            self.scheduler.gpu.release(runner)
        if tell:
            self._apply(self.scheduler.unloaded(runner))
        if patience_s < delay_s:
            await self._clock.sleep(delay_s - patience_s)
            self.scheduler.gpu.release(runner)
        self._observation.changed()
