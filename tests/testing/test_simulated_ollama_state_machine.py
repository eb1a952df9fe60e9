"""The scheduler of the simulated Ollama alone: random events never break what Ollama promises."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from smartrouter_asgi.testing.ollama import GIB
from smartrouter_asgi.testing.ollama.effects import (
    Abort,
    Admit,
    Effect,
    Load,
    Refuse,
    Runner,
    SetTimer,
    Start,
    StopTimer,
    Ticket,
    Unload,
)
from smartrouter_asgi.testing.ollama.errors import OOM_ON_LOAD, APIError
from smartrouter_asgi.testing.ollama.gpu import SimulatedGPU
from smartrouter_asgi.testing.ollama.options import LoadOptions
from smartrouter_asgi.testing.ollama.scheduler import Scheduler, choose_victim

from .simulated_engine import plain

MODELS = [plain(name, gib) for name, gib in (("a", 2), ("b", 6), ("c", 11), ("d", 18), ("e", 30))]
MAX_LOADED, PARALLEL, MAX_QUEUE = 3, 2, 4


def new_scheduler(gpu: SimulatedGPU | None = None) -> Scheduler:
    return Scheduler(
        gpu or SimulatedGPU(24 * GIB),
        max_loaded=MAX_LOADED,
        parallel=PARALLEL,
        max_queue=MAX_QUEUE,
        keep_alive_s=300,
        reserve=GIB // 2,
    )


def ticket(number: int, num_ctx: int = 2048, keep_alive_s: float | None = None) -> Ticket:
    return Ticket(MODELS[number], LoadOptions(num_ctx=num_ctx, num_ctx_auto=False), keep_alive_s)


class SchedulerMachine(RuleBasedStateMachine):
    """Carries effects out by hand; every rule is an event that may come at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.gpu = SimulatedGPU(24 * GIB)
        self.scheduler = new_scheduler(self.gpu)
        self.open: list[Ticket] = []
        self.admitted: set[Ticket] = set()
        self.started: set[Ticket] = set()
        self.timers: set[Runner] = set()
        self.going: list[tuple[Runner, bool]] = []
        """Stopped runners whose memory is not back, and whether the scheduler waits to hear of it."""

    def carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Admit(one, runner):
                    assert one in self.open
                    assert one not in self.admitted
                    assert runner.serves(one)
                    self.admitted.add(one)
                case Start(one):
                    assert one in self.admitted
                    assert one not in self.started
                    self.started.add(one)
                case Refuse(one, error):
                    assert one in self.open
                    assert one not in self.admitted
                    assert error.status in (500, 503)
                    self.open.remove(one)
                case Load(runner, one):
                    assert one in self.open, "nobody who left causes a load"
                    assert self.gpu.hold(runner, runner.vram_bytes)
                case Abort(runner):
                    self.going.append((runner, False))
                case Unload(runner):
                    assert not runner.held_by, "a runner with a request is never stopped"
                    self.going.append((runner, True))
                case SetTimer(runner):
                    assert not runner.held_by
                    self.timers.add(runner)
                case StopTimer(runner):
                    self.timers.discard(runner)

    @rule(
        number=st.integers(0, len(MODELS) - 1),
        num_ctx=st.sampled_from([2048, 2048, 4096]),
        keep_alive_s=st.sampled_from([None, None, 0.0, 60.0, float("inf")]),
    )
    def submit(self, number: int, num_ctx: int, keep_alive_s: float | None) -> None:
        one = ticket(number, num_ctx, keep_alive_s)
        self.open.append(one)
        self.carry_out(self.scheduler.submit(one))

    @precondition(lambda self: self.admitted)
    @rule(data=st.data())
    def ask_for_a_slot(self, data: st.DataObject) -> None:
        waiting = [one for one in self.open if one in self.admitted and one not in self.started]
        waiting = [one for one in waiting if one not in one.runner.slot_queue]
        if waiting:
            self.carry_out(self.scheduler.request_slot(data.draw(st.sampled_from(waiting))))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.open))
        self.open.remove(one)
        self.carry_out(self.scheduler.leave(one))

    @precondition(lambda self: self.scheduler.loading is not None)
    @rule()
    def load_succeeds(self) -> None:
        self.carry_out(self.scheduler.loaded(self.scheduler.loading))

    @precondition(lambda self: self.scheduler.loading is not None)
    @rule(out_of_memory=st.booleans())
    def load_fails(self, out_of_memory: bool) -> None:
        runner = self.scheduler.loading
        self.going.append((runner, False))
        self.carry_out(self.scheduler.load_failed(runner, APIError(500, OOM_ON_LOAD), out_of_memory=out_of_memory))

    @precondition(lambda self: self.going)
    @rule(data=st.data())
    def memory_comes_back(self, data: st.DataObject) -> None:
        runner, awaited = self.going.pop(data.draw(st.integers(0, len(self.going) - 1)))
        self.gpu.release(runner)
        if awaited:
            self.carry_out(self.scheduler.unloaded(runner))

    @precondition(lambda self: self.timers)
    @rule(data=st.data())
    def keep_alive_passes(self, data: st.DataObject) -> None:
        runner = data.draw(st.sampled_from(sorted(self.timers, key=lambda one: one.model.name)))
        self.carry_out(self.scheduler.timer_fired(runner))

    @rule(number=st.integers(0, len(MODELS) - 1))
    def unload_is_asked_for(self, number: int) -> None:
        self.carry_out(self.scheduler.expire(MODELS[number]))

    @rule(number=st.integers(0, len(MODELS) - 1))
    def runner_dies(self, number: int) -> None:
        runner = self.scheduler.runners.get(MODELS[number].digest)
        if runner is not None:
            runner.dead = True

    @invariant()
    def limits_hold(self) -> None:
        runners = self.scheduler.runners.values()
        assert len(runners) + (self.scheduler.loading is not None) <= MAX_LOADED
        assert len(self.scheduler.pending) <= MAX_QUEUE
        assert self.gpu.used_bytes <= self.gpu.total_bytes
        for runner in runners:
            assert len(runner.busy) <= runner.parallel
            assert runner.busy <= runner.held_by
            assert not runner.slot_queue or len(runner.busy) == runner.parallel
            assert runner.held_by <= set(self.open)

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        """When nothing loads, goes or is in use, nobody is left in the queue."""
        in_use = any(runner.held_by for runner in self.scheduler.runners.values())
        if self.scheduler.loading is None and not self.going and not in_use:
            assert not self.scheduler.pending
            assert self.scheduler.head is None


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def effects_of(effects: list[Effect], kind: type) -> list[Effect]:
    return [effect for effect in effects if isinstance(effect, kind)]


def resident(scheduler: Scheduler, *tickets: Ticket) -> None:
    """Load the models of tickets, which leave again."""
    for one in tickets:
        (load,) = effects_of(scheduler.submit(one), Load)
        scheduler.gpu.hold(load.runner, load.runner.vram_bytes)
        scheduler.loaded(load.runner)
        scheduler.leave(one)


def test_who_waited_for_a_load_keeps_his_place_though_his_model_has_become_resident():
    scheduler = new_scheduler()
    first, stranger, second = ticket(3), ticket(2), ticket(3)
    (load,) = effects_of(scheduler.submit(first), Load)
    scheduler.gpu.hold(load.runner, load.runner.vram_bytes)
    assert scheduler.submit(stranger) == scheduler.submit(second) == []
    scheduler.loaded(load.runner)
    assert scheduler.head is stranger, "it waits for the eviction of what the first one uses"
    assert second.runner is None
    late = ticket(3)
    assert effects_of(scheduler.submit(late), Admit), "who comes now takes the resident model past both"


def test_an_unload_that_was_asked_for_stands_whatever_later_requests_want():
    scheduler = new_scheduler()
    holder, later = ticket(0), ticket(0, keep_alive_s=float("inf"))
    (load,) = effects_of(scheduler.submit(holder), Load)
    scheduler.loaded(load.runner)
    assert not effects_of(scheduler.expire(MODELS[0]), Unload)
    scheduler.submit(later)
    assert not effects_of(scheduler.leave(holder), Unload)
    assert effects_of(scheduler.leave(later), Unload)


def test_a_head_that_left_holds_its_place_until_the_unload_it_asked_for():
    scheduler = new_scheduler()
    holder, head, behind = ticket(3), ticket(2), ticket(1)
    (load,) = effects_of(scheduler.submit(holder), Load)
    scheduler.gpu.hold(load.runner, load.runner.vram_bytes)
    scheduler.loaded(load.runner)
    scheduler.submit(head)
    scheduler.submit(behind)
    assert scheduler.leave(head) == []
    assert scheduler.leave(holder) == [StopTimer(load.runner), Unload(load.runner)]
    scheduler.gpu.release(load.runner)
    (next_load,) = effects_of(scheduler.unloaded(load.runner), Load)
    assert next_load.ticket is behind


def test_the_victim_is_idle_first_then_shortest_kept_then_lowest_digest():
    scheduler = new_scheduler()
    resident(scheduler, ticket(0, keep_alive_s=60), ticket(1, keep_alive_s=60), ticket(2, keep_alive_s=900))
    a, b, c = scheduler.runners.values()
    lower, higher = sorted((a, b), key=lambda runner: runner.model.digest)
    assert choose_victim([c, a, b]) is lower
    lower.held_by.add(ticket(0))
    assert choose_victim([c, a, b]) is higher
    higher.held_by.add(ticket(1))
    assert choose_victim([c, a, b]) is c
    c.held_by.add(ticket(2))
    assert choose_victim([c, a, b]) is lower
