"""The gate with an engine that loads when it is told to: no sleeps, only events."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import math

import anyio
import pytest

from smartrouter_asgi.deployment import Deployment, LoadedModel
from smartrouter_asgi.events import AdmissionWaited, ModelSwapped
from smartrouter_asgi.exceptions import (
    AdmissionError,
    AttemptError,
    DrainingError,
    FailureKind,
    QueueFullError,
    VRAMExhaustedError,
    VRAMQueueTimeoutError,
)
from smartrouter_asgi.vram import CallbackLifecycle, GatePolicy, VRAMGate


def deployment(model: str, size: int | None = 4, *, gated: bool = True, backend: str = "box") -> Deployment:
    return Deployment(backend=backend, model=model, vram_bytes=size, gated=gated)


A, B, C = (deployment(name) for name in "ABC")


class FakeEngine:
    """Keeps `calls`; `hold(verb)` makes that verb wait for `let(verb)`; `fail[verb]` makes it raise."""

    def __init__(self, *loaded: str) -> None:
        self.loaded = dict.fromkeys(loaded, 4)
        self.calls: list[str] = []
        self.changed = asyncio.Condition()
        self.gates: dict[str, asyncio.Event] = {}
        self.fail: dict[str, BaseException] = {}
        self.idle: bool | None = None

    def hold(self, verb: str) -> None:
        self.gates[verb] = asyncio.Event()

    def let(self, verb: str) -> None:
        self.gates.pop(verb).set()

    async def seen(self, call: str, times: int = 1) -> None:
        async with self.changed:
            await asyncio.wait_for(self.changed.wait_for(lambda: self.calls.count(call) >= times), 5)

    async def _do(self, verb: str, call: str) -> None:
        self.calls.append(call)
        gate = self.gates.get(verb)
        async with self.changed:
            self.changed.notify_all()
        if gate is not None:
            await gate.wait()
        if verb in self.fail:
            raise self.fail[verb]

    async def load(self, model: str) -> None:
        await self._do("load", f"load {model}")
        self.loaded[model] = 4

    async def unload(self, model: str) -> None:
        await self._do("unload", f"unload {model}")
        self.loaded.pop(model, None)

    async def running(self) -> tuple[LoadedModel, ...]:
        await self._do("running", "running")
        return tuple(LoadedModel(id=model, vram_bytes=size) for model, size in self.loaded.items())

    async def is_idle(self, model: str) -> bool | None:
        await self._do("is_idle", f"is_idle {model}")
        return self.idle

    def changes(self) -> list[str]:
        return [call for call in self.calls if call.startswith(("load", "unload"))]


class Notes:
    def __init__(self) -> None:
        self.events: list[object] = []

    def on_event(self, event: object) -> None:
        self.events.append(event)


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
async def make_gate(engine):
    gates = []

    def make(budget=8, observer=None, **policy):
        gate = VRAMGate(budget_bytes=budget, lifecycles={"box": engine}, policy=GatePolicy(**policy), observer=observer)
        gates.append(gate)
        return gate

    yield make
    for gate in gates:
        await gate.aclose()


async def turns(count: int = 10) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


def leases(gate, model="A"):
    return {view.deployment: view.leases for view in gate.snapshot().residents}.get(f"box/{model}")


# -- what passes straight through


async def test_what_is_not_covered_gets_a_lease_that_holds_nothing(make_gate, engine):
    gate = make_gate()
    for other in (deployment("A", gated=False), deployment("A", backend="cloud")):
        assert not gate.covers(other)
        lease = await gate.admit(other)
        assert not lease.held
        lease.release()
        lease.drain()
    assert engine.calls == []


async def test_an_unknown_budget_lets_everything_through_when_open(make_gate, engine):
    gate = make_gate(budget=None, unknown="open")
    assert not gate.covers(A)
    assert not (await gate.admit(A)).held
    assert gate.snapshot().budget_bytes is None
    await gate.reconcile()
    assert engine.calls == []


async def test_an_unknown_budget_refuses_when_closed(make_gate):
    gate = make_gate(budget=None, unknown="closed")
    assert gate.covers(A)
    with pytest.raises(VRAMExhaustedError):
        await gate.admit(A)


async def test_an_unknown_budget_leaves_load_and_unload_to_the_engine(make_gate, engine):
    gate = make_gate(budget=None)
    await gate.load(A)
    assert await gate.unload(A)
    assert engine.changes() == ["load A", "unload A"]


# -- admission


async def test_a_model_that_is_loaded_already_is_used_with_its_measured_size(make_gate, engine):
    engine.loaded["A"] = 3
    gate = make_gate()
    with await gate.admit(A):
        (view,) = gate.snapshot().residents
        assert (view.size_bytes, view.measured, view.leases) == (3, True, 1)
    assert engine.changes() == []


async def test_concurrent_requests_share_one_load(make_gate, engine):
    gate = make_gate()
    held = await asyncio.gather(*(gate.admit(A) for _ in range(20)))
    assert engine.changes() == ["load A"]
    assert leases(gate) == 20
    for lease in held:
        lease.release()
    assert leases(gate) == 0


async def test_admission_to_a_resident_waits_for_nothing(make_gate, engine):
    gate = make_gate(budget=4)
    await gate.load(A)
    await gate.reconcile()
    engine.hold("running")
    asked = len(engine.calls)
    admission = gate.admit(A)
    with pytest.raises(StopIteration) as done:
        admission.send(None)
    assert done.value.value.held
    assert len(engine.calls) == asked


async def test_a_resident_is_served_while_another_model_loads(make_gate, engine):
    gate = make_gate()
    await gate.load(A)
    engine.hold("load")
    cold = asyncio.create_task(gate.admit(B))
    await engine.seen("load B")
    (await gate.admit(A)).release()
    engine.let("load")
    (await cold).release()


async def test_the_longest_unused_model_goes_first(make_gate, engine):
    gate = make_gate(min_residency=0.0)
    for model in (A, B, A, C):
        (await gate.admit(model)).release()
    assert engine.changes() == ["load A", "load B", "unload B", "load C"]


async def test_a_model_in_use_is_not_evicted_until_it_is_released(make_gate, engine):
    gate = make_gate(budget=4)
    lease = await gate.admit(A)
    waiting = asyncio.create_task(gate.admit(B))
    await turns()
    assert gate.queue_depths() == {"box/B": 1}
    assert engine.changes() == ["load A"]
    lease.release()
    (await waiting).release()
    assert engine.changes() == ["load A", "unload A", "load B"]


async def test_a_queued_request_times_out(make_gate, engine):
    gate = make_gate(budget=4, max_wait_s=0.05)
    with await gate.admit(A):
        with pytest.raises(VRAMQueueTimeoutError) as caught:
            await gate.admit(B)
        assert caught.value.status == 503
        assert caught.value.retry_after_s >= 1
    assert gate.queue_depths() == {}


async def test_the_deadline_bounds_the_wait(make_gate):
    gate = make_gate(budget=4)
    with await gate.admit(A), pytest.raises(VRAMQueueTimeoutError):
        await gate.admit(B, deadline=asyncio.get_running_loop().time() + 0.05)


async def test_a_silent_engine_does_not_outlast_max_wait(make_gate, engine):
    gate = make_gate(max_wait_s=0.05)
    engine.hold("running")
    with pytest.raises(VRAMQueueTimeoutError):
        await gate.admit(A)


async def test_an_engine_that_cannot_say_what_it_has_loaded_is_tolerated(make_gate, engine):
    engine.fail["running"] = OSError("down")
    gate = make_gate()
    (await gate.admit(A)).release()
    assert leases(gate) == 0


async def test_a_full_queue_refuses(make_gate, engine):
    gate = make_gate(max_queue=1)
    engine.hold("load")
    first = asyncio.create_task(gate.admit(A))
    await engine.seen("load A")
    with pytest.raises(QueueFullError):
        await gate.admit(A)
    engine.let("load")
    (await first).release()


async def test_what_cannot_fit_is_refused_without_waiting(make_gate):
    gate = make_gate(budget=4)
    with pytest.raises(VRAMExhaustedError):
        await gate.admit(deployment("A", 5))


async def test_an_old_waiter_closes_the_model_in_its_way(make_gate, engine):
    gate = make_gate(budget=4, fair_after_s=0.0)
    lease = await gate.admit(A)
    old = asyncio.create_task(gate.admit(B))
    await turns()
    assert [view.closed for view in gate.snapshot().residents] == [True]
    late = asyncio.create_task(gate.admit(A))
    await turns()
    assert gate.queue_depths() == {"box/B": 1, "box/A": 1}
    lease.release()
    (await old).release()
    (await late).release()
    assert engine.changes() == ["load A", "unload A", "load B", "unload B", "load A"]


# -- failures


async def test_a_failed_load_reaches_every_waiter_and_the_next_request_tries_again(make_gate, engine):
    gate = make_gate()
    engine.fail["load"] = RuntimeError("secret path")
    results = await asyncio.gather(*(gate.admit(A) for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in results] == [AttemptError] * 3
    assert {(error.kind, error.status, error.code) for error in results} == {
        (FailureKind.MODEL_FAILED, 503, "model_load_failed")
    }
    assert all("secret" not in error.message for error in results)
    assert gate.snapshot().used_bytes == 0
    engine.fail.clear()
    (await gate.admit(A)).release()
    assert engine.changes() == ["load A", "load A"]


async def test_out_of_memory_at_load_is_vram_exhausted(make_gate, engine):
    gate = make_gate()
    engine.fail["load"] = AttemptError("out of memory", kind=FailureKind.MODEL_FAILED, code="vram_exhausted")
    with pytest.raises(AttemptError) as caught:
        await gate.admit(A)
    assert (caught.value.status, caught.value.code) == (503, "vram_exhausted")
    assert caught.value.retry_after_s is not None


async def test_a_load_that_never_ends_fails(make_gate, engine):
    gate = make_gate(load_timeout_s=0.02)
    engine.hold("load")
    with pytest.raises(AttemptError):
        await gate.admit(A)


async def test_a_failed_unload_keeps_the_model_and_another_one_goes(make_gate, engine):
    gate = make_gate()
    for model in (A, B):
        (await gate.admit(model)).release()
    unload = engine.unload

    async def only_b(model):
        await unload(model)
        if model == "A":
            engine.loaded["A"] = 4
            raise RuntimeError("no")

    engine.unload = only_b
    (await gate.admit(C)).release()
    assert engine.changes() == ["load A", "load B", "unload A", "unload B", "load C"]
    assert leases(gate, "A") == 0


# -- leaving


async def test_a_waiter_that_leaves_is_gone_at_once(make_gate):
    gate = make_gate(budget=4)
    with await gate.admit(A):
        waiting = asyncio.create_task(gate.admit(B))
        await turns()
        assert gate.queue_depths() == {"box/B": 1}
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert gate.queue_depths() == {}


async def test_a_waiter_leaves_by_a_cancel_scope(make_gate):
    gate = make_gate(budget=4)
    with await gate.admit(A):
        with anyio.move_on_after(0.02) as scope:
            await gate.admit(B)
        assert scope.cancelled_caught
        assert gate.queue_depths() == {}


async def test_a_load_goes_on_when_its_waiter_leaves(make_gate, engine):
    gate = make_gate()
    engine.hold("load")
    first = asyncio.create_task(gate.admit(A))
    await engine.seen("load A")
    first.cancel()
    await asyncio.wait({first})
    second = asyncio.create_task(gate.admit(A))
    await turns()
    engine.let("load")
    (await second).release()
    assert engine.changes() == ["load A"]
    assert leases(gate) == 0


async def test_a_waiter_that_left_before_its_load_causes_none(make_gate, engine):
    gate = make_gate()
    engine.hold("load")
    first = asyncio.create_task(gate.admit(A))
    await engine.seen("load A")
    second = asyncio.create_task(gate.admit(B))
    await turns()
    second.cancel()
    await asyncio.wait({second})
    engine.let("load")
    (await first).release()
    await turns()
    assert engine.changes() == ["load A"]


@pytest.fixture
async def closed_out(make_gate):
    """A gate, a lease on A, and a request for A that is closed out for an older one for B; pinning A lets it in."""
    gate = make_gate(budget=4, fair_after_s=0.0)
    lease = await gate.admit(A)
    old = asyncio.create_task(gate.admit(B))
    await turns()
    late = asyncio.create_task(gate.admit(A))
    await turns()
    assert gate.queue_depths() == {"box/B": 1, "box/A": 1}
    yield gate, late
    with pytest.raises(VRAMExhaustedError):
        await old
    lease.release()
    assert leases(gate) == 0
    assert gate.queue_depths() == {}


async def test_a_grant_that_raced_with_a_cancellation_is_returned(closed_out):
    gate, late = closed_out
    gate.pin(A)
    assert leases(gate) == 2
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late
    assert leases(gate) == 1


async def test_a_grant_for_a_waiter_that_was_just_cancelled_is_returned(closed_out):
    gate, late = closed_out
    late.cancel()
    gate.pin(A)
    assert leases(gate) == 1
    with pytest.raises(asyncio.CancelledError):
        await late


async def test_every_moment_of_leaving_keeps_the_books_right(make_gate, engine):
    """Cancel after each number of turns of the loop: whatever it hits, nothing stays leased."""
    for moment in range(40):
        gate = make_gate(budget=4)
        engine.loaded.clear()
        tasks = [asyncio.create_task(gate.admit(model)) for model in (A, A)]
        await turns(moment)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(result, BaseException):
                result.release()
        (await gate.admit(B)).release()
        assert all(view.leases == 0 for view in gate.snapshot().residents)
        assert gate.queue_depths() == {}


# -- leases


async def test_a_lease_is_released_exactly_once(make_gate):
    gate = make_gate()
    first, second = await gate.admit(A), await gate.admit(A)
    first.release()
    first.release()
    first.drain()
    assert leases(gate) == 1
    assert not first.held
    assert second.held
    second.release()


async def test_a_draining_lease_counts_until_the_engine_is_idle(make_gate, engine):
    gate = make_gate(release_grace_s=60)
    engine.idle = False
    lease = await gate.admit(A)
    lease.drain()
    lease.drain()
    lease.release()
    (view,) = gate.snapshot().residents
    assert (view.leases, view.draining) == (1, 1)
    await engine.seen("is_idle A", times=2)
    assert lease.held
    engine.idle = True
    await engine.seen("is_idle A", times=engine.calls.count("is_idle A") + 1)
    await turns()
    assert not lease.held
    assert leases(gate) == 0


async def test_a_draining_lease_keeps_its_model_from_eviction(make_gate, engine):
    gate = make_gate(budget=4, release_grace_s=60)
    engine.idle = False
    (await gate.admit(A)).drain()
    waiting = asyncio.create_task(gate.admit(B))
    await engine.seen("is_idle A", times=2)
    assert engine.changes() == ["load A"]
    engine.idle = True
    (await waiting).release()
    assert engine.changes() == ["load A", "unload A", "load B"]


@pytest.mark.parametrize("says", [None, False])
async def test_the_grace_ends_draining_when_the_engine_does_not_show_idle(make_gate, engine, says):
    gate = make_gate(budget=4, release_grace_s=0.05)
    engine.idle = says
    (await gate.admit(A)).drain()
    (await gate.admit(B)).release()
    assert engine.changes() == ["load A", "unload A", "load B"]


async def test_an_engine_that_cannot_be_asked_about_idleness_gets_the_grace(make_gate, engine):
    gate = make_gate(budget=4, release_grace_s=0.05)
    engine.fail["is_idle"] = OSError()
    (await gate.admit(A)).drain()
    (await gate.admit(B)).release()


async def test_an_engine_silent_about_idleness_gets_the_grace(make_gate, engine):
    gate = make_gate(budget=4, release_grace_s=0.05)
    engine.hold("is_idle")
    (await gate.admit(A)).drain()
    (await gate.admit(B)).release()


async def test_an_idle_answer_counts_only_for_leases_that_drained_before_it_was_asked_for(make_gate, engine):
    gate = make_gate(release_grace_s=60)
    first, second = await gate.admit(A), await gate.admit(A)
    engine.hold("is_idle")
    first.drain()
    await engine.seen("is_idle A")
    second.drain()
    engine.idle = True
    gate_event = engine.gates["is_idle"]
    engine.hold("is_idle")
    gate_event.set()
    await turns()
    assert not first.held
    assert second.held
    await engine.seen("is_idle A", times=2)
    engine.let("is_idle")
    await turns()
    assert not second.held


async def test_many_draining_leases_are_polled_by_one_task(make_gate, engine):
    gate = make_gate(release_grace_s=60)
    engine.idle = True
    held = [await gate.admit(A) for _ in range(10)]
    for lease in held:
        lease.drain()
    await engine.seen("is_idle A")
    await turns()
    assert engine.calls.count("is_idle A") == 1
    assert leases(gate) == 0


# -- by hand


async def test_unload_by_hand_says_whether_there_was_something_to_unload(make_gate, engine):
    gate = make_gate()
    assert await gate.unload(A) is False
    await gate.load(A)
    assert await gate.unload(A) is True
    assert gate.snapshot().used_bytes == 0


async def test_unload_by_hand_of_a_model_in_use_is_refused(make_gate, engine):
    gate = make_gate()
    with await gate.admit(A):
        with pytest.raises(AdmissionError) as caught:
            await gate.unload(A)
        assert caught.value.code == "model_in_use"
    assert engine.changes() == ["load A"]


async def test_unload_by_hand_raises_when_the_engine_keeps_the_model(make_gate, engine):
    gate = make_gate()
    await gate.load(A)
    engine.fail["unload"] = RuntimeError()
    with pytest.raises(AttemptError):
        await gate.unload(A)
    assert leases(gate) == 0


async def test_two_unloads_by_hand_are_one(make_gate, engine):
    gate = make_gate()
    await gate.load(A)
    assert await asyncio.gather(gate.unload(A), gate.unload(A)) == [True, True]
    assert engine.changes() == ["load A", "unload A"]


async def test_a_pinned_model_stays(make_gate, engine):
    gate = make_gate()
    await gate.load(A)
    gate.pin(A)
    await gate.load(B)
    await gate.load(C)
    assert engine.changes() == ["load A", "load B", "unload B", "load C"]
    gate.unpin(A)
    await gate.load(B)
    assert engine.changes()[-2:] == ["unload A", "load B"]


async def test_two_tags_of_one_digest_share_a_resident(make_gate, engine):
    gate = make_gate()
    gate.tell_digests("box", {"A": "sha:1", "B": "sha:1"})
    (await gate.admit(A)).release()
    (await gate.admit(B)).release()
    assert engine.changes() == ["load A"]


# -- reconciliation


async def test_reconciling_is_single_flight_and_has_a_ttl(make_gate, engine):
    gate = make_gate(reconcile_ttl_s=60)
    await asyncio.gather(*(gate.reconcile() for _ in range(5)))
    await gate.reconcile()
    assert engine.calls == ["running"]
    await gate.reconcile(force=True)
    assert engine.calls == ["running"] * 2


async def test_reconciling_shows_what_happened_behind_our_back(make_gate, engine):
    gate = make_gate()
    await gate.load(A)
    await turns()
    engine.loaded = {"B": 2}
    await gate.reconcile(force=True)
    snapshot = gate.snapshot()
    assert [view.deployment for view in snapshot.residents] == ["box/B"]
    assert (snapshot.used_bytes, snapshot.free_bytes) == (2, 6)
    assert {decision.action for decision in snapshot.decisions} >= {"load", "appeared", "vanished"}


# -- the whole


async def test_a_snapshot_shows_loads_queues_and_use(make_gate, engine):
    gate = make_gate(budget=8, pinned=frozenset({"box/A"}), unload_threshold_pct=50)
    lease = await gate.admit(A)
    engine.hold("load")
    waiting = [asyncio.create_task(gate.admit(model)) for model in (B, B, C)]
    await engine.seen("load B")
    snapshot = gate.snapshot()
    (resident,) = snapshot.residents
    assert (resident.deployment, resident.pinned, resident.leases) == ("box/A", True, 1)
    assert [view.deployment for view in snapshot.reservations] == ["box/B"]
    assert [(view.deployment, view.waiting) for view in snapshot.queues] == [("box/B", 2), ("box/C", 1)]
    assert all(view.oldest_age_s >= 0 for view in snapshot.queues)
    assert (snapshot.budget_bytes, snapshot.used_bytes, snapshot.free_bytes) == (8, 8, 0)
    assert snapshot.above_threshold
    lease.release()
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)


async def test_the_observer_learns_of_swaps_and_waits(make_gate, engine):
    notes = Notes()
    gate = make_gate(budget=4, observer=notes)
    (await gate.admit(A)).release()
    (await gate.admit(A)).release()
    (await gate.admit(B)).release()
    engine.fail["load"] = RuntimeError()
    with pytest.raises(AttemptError):
        await gate.admit(C)
    swaps = [(event.deployment, event.action) for event in notes.events if isinstance(event, ModelSwapped)]
    waits = [(event.deployment, event.outcome) for event in notes.events if isinstance(event, AdmissionWaited)]
    assert swaps == [
        ("box/A", "load"),
        ("box/A", "unload"),
        ("box/B", "load"),
        ("box/B", "unload"),
        ("box/C", "load_failed"),
    ]
    assert waits == [("box/A", "admitted"), ("box/B", "admitted"), ("box/C", "model_load_failed")]


async def test_the_observer_learns_who_left(make_gate, engine):
    notes = Notes()
    gate = make_gate(observer=notes)
    engine.hold("load")
    task = asyncio.create_task(gate.admit(A))
    await engine.seen("load A")
    task.cancel()
    await asyncio.wait({task})
    assert [event.outcome for event in notes.events if isinstance(event, AdmissionWaited)] == ["left"]


async def test_the_gates_work_does_not_run_in_the_context_of_a_request(make_gate, engine):
    variable = contextvars.ContextVar("request", default="none")
    seen = []
    load = engine.load

    async def spy(model):
        seen.append(variable.get())
        await load(model)

    engine.load = spy
    variable.set("mine")
    (await make_gate().admit(A)).release()
    assert seen == ["none"]


async def test_closing_sends_waiters_away_and_ends_every_task(make_gate, engine):
    gate = make_gate(release_grace_s=60)
    engine.idle = False
    lease = await gate.admit(A)
    lease.drain()
    engine.hold("load")
    waiting = asyncio.create_task(gate.admit(B))
    await engine.seen("load B")
    before = asyncio.all_tasks()
    await gate.aclose()
    with pytest.raises(DrainingError):
        await waiting
    assert not lease.held
    assert asyncio.all_tasks() <= before
    assert gate.snapshot().reservations == ()


async def test_a_gate_can_be_used_again_after_it_was_closed(make_gate, engine):
    gate = make_gate()
    engine.hold("load")
    waiting = asyncio.create_task(gate.admit(A))
    await engine.seen("load A")
    await gate.aclose()
    await asyncio.wait({waiting})
    assert isinstance(waiting.exception(), DrainingError)
    engine.let("load")
    (await gate.admit(A)).release()


async def test_nobody_is_admitted_while_the_gate_closes(make_gate, engine):
    gate = make_gate()
    engine.hold("load")
    waiting = asyncio.create_task(gate.admit(A))
    await engine.seen("load A")
    closing = asyncio.create_task(gate.aclose())
    await asyncio.sleep(0)
    with pytest.raises(DrainingError):
        await gate.admit(A)
    await closing
    await asyncio.wait({waiting})
    assert waiting.exception() is not None


def test_a_gate_outlives_its_event_loop():
    """As under a test client that runs each request in a loop of its own, with no lifespan."""
    engine = FakeEngine()
    gate = VRAMGate(budget_bytes=8, lifecycles={"box": engine})

    async def once(model):
        (await gate.admit(model)).release()

    for model in (A, A, B, C):
        asyncio.run(once(model))
    assert leases(gate, "C") == 0


def test_a_load_whose_event_loop_was_closed_under_it_does_not_block_the_next():
    engine = FakeEngine()
    gate = VRAMGate(budget_bytes=8, lifecycles={"box": engine})
    engine.hold("load")
    loop = asyncio.new_event_loop()
    task = loop.create_task(gate.admit(A))
    loop.run_until_complete(engine.seen("load A"))
    for left in asyncio.all_tasks(loop):
        left._log_destroy_pending = False
    loop.close()
    del task
    engine.gates.clear()
    engine.changed = asyncio.Condition()

    async def again():
        (await asyncio.wait_for(gate.admit(A), 5)).release()

    asyncio.run(again())
    gc.collect()
    assert leases(gate) == 0


# -- plain callables


async def test_plain_callables_make_a_lifecycle():
    calls = []

    async def load(model):
        calls.append(("load", model))

    async def unload(model):
        calls.append(("unload", model))

    lifecycle = CallbackLifecycle(load=load, unload=unload)
    gate = VRAMGate(budget_bytes=4, lifecycles={"box": lifecycle})
    for model in (A, B, B, A):
        (await gate.admit(model)).release()
    await gate.aclose()
    assert calls == [("load", "A"), ("unload", "A"), ("load", "B"), ("unload", "B"), ("load", "A")]
    assert [model.id for model in await lifecycle.running()] == ["A"]
    assert await lifecycle.is_idle("A") is None


async def test_plain_callables_may_tell_what_runs_and_what_is_idle():
    async def nothing(model):
        return None

    async def running():
        return (LoadedModel(id="X"),)

    async def idle(model):
        return model == "X"

    lifecycle = CallbackLifecycle(load=nothing, unload=nothing, running=running, is_idle=idle)
    assert await lifecycle.running() == (LoadedModel(id="X"),)
    assert await lifecycle.is_idle("X") is True


def test_an_infinite_deadline_is_the_default():
    assert math.isinf(VRAMGate.admit.__kwdefaults__["deadline"])


# -- loops that end under it


async def _left_in_a_loop_that_ends(engine, gate):
    """Leave a question and a draining lease behind."""
    (await gate.admit(A)).drain()
    await turns()
    engine.hold("running")
    asked = engine.calls.count("running")
    asking = asyncio.ensure_future(gate.reconcile(force=True))
    await engine.seen("running", asked + 1)
    return asking


@pytest.mark.parametrize("first", ["drain", "question"])
def test_neither_questions_nor_draining_end_with_the_event_loop_that_was_closed_under_them(first):
    engine = FakeEngine()
    gate = VRAMGate(budget_bytes=8, lifecycles={"box": engine}, policy=GatePolicy(release_grace_s=0.05))
    loop = asyncio.new_event_loop()
    loop.run_until_complete(_left_in_a_loop_that_ends(engine, gate))
    for left in asyncio.all_tasks(loop):
        left._log_destroy_pending = False
    loop.close()
    engine.gates.clear()
    engine.changed = asyncio.Condition()

    async def again():
        if first == "drain":
            (await gate.admit(A)).drain()  # at once: it is resident
        async with asyncio.timeout(5):
            if first == "drain":
                while leases(gate):
                    await asyncio.sleep(0)
            assert await gate.unload(A)

    asyncio.run(again())
    gc.collect()
