"""The gate as requests see it: it carries out what the scheduler decides and reports back.

Loads, unloads, questions to the engines and polls are tasks of the gate, never of a request: a client that leaves ends
none of them. Between two awaits everything is synchronous, so there is no lock.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections import deque
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, assert_never

from ..events import AdmissionWaited, ModelSwapped
from ..exceptions import SmartRouterError, VRAMExhaustedError
from . import refusals
from .arrivals import Arrivals
from .devices import Devices
from .draining import DrainWatch
from .effects import Grant, Reject, StartLoad, StartReconcile, StartUnload
from .engines import Engines
from .lease import Lease
from .ledger import VRAMLedger
from .names import ModelKey
from .policy import GatePolicy
from .scheduler import Scheduler
from .sizes import Sizes
from .snapshot import GateSnapshot, snapshot_of
from .tasks import OwnTasks, error_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ..deployment import Deployment
    from ..events import Event, Observer
    from ..types import Clock
    from .effects import Effect
    from .engines import Answers
    from .footprints import Footprints
    from .lifecycle import ModelLifecycle
    from .placement import PlacementRule
    from .readings import Readings

LAST_PRIORITY = 100
"""Behind any request: a step is worth ten seconds of waiting, and nobody waits that long."""


class VRAMGate:
    """Lets a request through with a lease on GPU memory for its model; queues, loads and evicts as the policy says.

    `lifecycles` by backend name. The memory to share is one device of `budget_bytes`, or `devices`; neither: unknown,
    and `policy.unknown` says what that means. `rules` say which devices a backend uses, `readings` what is in use,
    `footprints` what models were measured to need before. Deployments in `fixed` hold their declared bytes for good:
    their engines neither load nor unload.
    `load_wait_s` says for how long no load may be asked of a backend, None when one may. One event loop at a time.
    """

    def __init__(
        self,
        *,
        budget_bytes: int | None = None,
        devices: Devices | None = None,
        rules: Mapping[str, PlacementRule] | None = None,
        readings: Readings | None = None,
        footprints: Footprints | None = None,
        fixed: Iterable[Deployment] = (),
        lifecycles: Mapping[str, ModelLifecycle],
        policy: GatePolicy | None = None,
        clock: Clock = time.monotonic,
        observer: Observer | None = None,
        load_wait_s: Callable[[str], float | None] = lambda backend: None,
    ) -> None:
        self._load_wait_s = load_wait_s
        self.policy = policy = policy or GatePolicy()
        if devices is None and budget_bytes is not None:
            devices = Devices.of(budget_bytes)
        self._known = devices is not None
        self._active = self._known or policy.unknown == "closed"
        self._clock = clock
        self._observer = observer
        ledger = VRAMLedger(
            devices or Devices.of(0),
            default_estimate_bytes=policy.default_estimate_bytes,
            pinned=policy.pinned,
            rules=rules,
        )
        self._readings = readings
        self._sizes = Sizes(ledger, footprints)
        self._saving: asyncio.Task[None] | None = None
        self._arrivals = Arrivals(ledger)
        self._fetching: set[ModelKey] = set()
        """Models that are being loaded for nobody in particular."""
        self._scheduler = Scheduler(ledger, policy)
        for deployment in fixed:
            self.fix(deployment)
        self._tickets = count(1)
        self._waiting: dict[int, asyncio.Future[Lease]] = {}
        self._engines = Engines(lifecycles, policy, clock=clock)
        self._tasks = OwnTasks()
        self._drains = DrainWatch(self._engines, tasks=self._tasks, grace_s=policy.release_grace_s, clock=clock)
        self._unloads: dict[ModelKey, asyncio.Task[None]] = {}
        self._question: asyncio.Task[Answers] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False

    # -- admission

    def covers(self, deployment: Deployment) -> bool:
        """Whether a request to this deployment needs a lease from this gate."""
        return deployment.gated and deployment.backend in self._engines and self._active

    def knows(self, backend: str) -> bool:
        """Whether there is a lifecycle by this name."""
        return backend in self._engines

    def is_ready(self, deployment: Deployment) -> bool:
        """Whether a request would be admitted at once, as of this step of the event loop."""
        return not self.covers(deployment) or self._scheduler.is_open(ModelKey(deployment.backend, deployment.model))

    async def admit(
        self, deployment: Deployment, *, deadline: float = math.inf, priority: int = 0, may_spill: bool = False
    ) -> Lease:
        """Return a lease once the model is in memory; at once for a resident one, or one that is not covered.

        `deadline` is on the gate's clock; lower priorities go first. With `may_spill` a wait that would be longer than
        `policy.spill_after_s`, or than the deadline leaves, is not begun (`SpilledError`).

        Raises `AdmissionError` (503) when the model cannot get in, `AttemptError` when its load failed. Cancelled, it
        leaves the queue and keeps nothing.
        """
        key = ModelKey(deployment.backend, deployment.model)
        if not self.covers(deployment):
            return Lease(key, None)
        if self._closing:
            raise refusals.stopping()
        now = self._clock()
        taken = self._scheduler.take(key, now=now)
        if taken is not None:
            return Lease(taken, self, since=now)
        if not self._known:
            raise VRAMExhaustedError("how much GPU memory there is is not known", retry_after_s=self.policy.max_wait_s)
        wait_s = self._load_wait_s(deployment.backend)
        if wait_s is not None and not self._scheduler.is_coming(key):
            raise refusals.no_loads(deployment.backend, retry_after_s=wait_s)  # before anybody is evicted for it
        self._sizes.tell(key, deployment)
        if may_spill:
            wait_s = self._scheduler.projected_wait_s(key, now=now)
            if wait_s > min(self.policy.spill_after_s, deadline - now):
                self._fetch(key, deployment)
                raise refusals.elsewhere(key, wait_s)
        return await self._queue(deployment, key, deadline, priority, now)

    def _fetch(self, key: ModelKey, deployment: Deployment) -> None:
        """Load a model for those who come after the ones that went elsewhere, once there is room without a struggle.

        It waits in the queue like a request, but behind all of them, and is never old enough to close anybody out.
        """
        if key not in self._fetching:
            self._fetching.add(key)
            wait = self._queue(deployment, key, math.inf, LAST_PRIORITY, self._clock())
            self._tasks.start(wait, partial(self._fetched, key))

    def _fetched(self, key: ModelKey, task: asyncio.Task[Lease]) -> None:
        self._fetching.discard(key)
        if error_of(task) is None:
            task.result().release()

    async def _queue(self, deployment: Deployment, key: ModelKey, deadline: float, priority: int, now: float) -> Lease:
        self._sweep(now)
        ticket = next(self._tickets)
        future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = future
        outcome = "left"
        try:
            effects = self._scheduler.request(
                key,
                ticket=ticket,
                now=now,
                deadline=deadline,
                priority=priority,
            )
            self._apply(effects, now)
            lease = await future
            outcome = "admitted"
            return lease
        except SmartRouterError as error:
            outcome = error.code
            raise
        except asyncio.CancelledError:
            self._leave(ticket, future)
            raise
        finally:
            self._waiting.pop(ticket, None)
            self._tell(AdmissionWaited(deployment=deployment.id, seconds=self._clock() - now, outcome=outcome))

    def _sweep(self, now: float) -> None:
        """Forget what was left behind by an event loop that was closed under it."""
        for ticket in [ticket for ticket, future in self._waiting.items() if future.get_loop().is_closed()]:
            del self._waiting[ticket]
            self._apply(self._scheduler.cancel(ticket, now=now), now)
        self._tasks.sweep()

    def _leave(self, ticket: int, future: asyncio.Future[Lease]) -> None:
        """Forget a cancelled waiter, and return the grant that raced with the cancellation."""
        now = self._clock()
        if future.done() and not future.cancelled() and future.exception() is None:
            future.result().release()
        else:
            self._apply(self._scheduler.cancel(ticket, now=now), now)

    # -- leases

    def take_back(self, lease: Lease) -> None:
        """Count a lease as released; called by the lease, once."""
        now = self._clock()
        effects = self._scheduler.released(
            lease.key, now=now, drained=lease.draining, held_s=max(0.0, now - lease.since)
        )
        if effects or self._waiting:
            self._apply(effects, now)

    def watch(self, lease: Lease) -> None:
        """Release a lease once its engine is idle or the grace has passed; called by the lease, once."""
        self._tasks.sweep()
        self._scheduler.draining(lease.key)
        self._drains.add(lease)

    # -- the operator's words

    async def load(self, deployment: Deployment) -> None:
        """Bring a model into memory as a request for it would; raises what `admit` raises."""
        if self.covers(deployment):
            (await self.admit(deployment)).release()
        elif deployment.backend in self._engines:
            await self._engines.load(ModelKey(deployment.backend, deployment.model))

    async def unload(self, deployment: Deployment) -> bool:
        """Take a model out of memory, pinned or not; False when it was not there.

        Raises `AdmissionError` (503 model_in_use) while it is used, `AttemptError` when the engine keeps it.
        """
        key = ModelKey(deployment.backend, deployment.model)
        if deployment.backend not in self._engines:
            return False
        if not self._known:
            await self._engines.unload(key)
            return True
        await self.reconcile()
        now = self._clock()
        key = self._scheduler.ledger.names.canonical(key)
        self._apply(self._scheduler.unload(key, now=now), now)
        task = self._unloads.get(key)
        if task is None:
            return False
        await asyncio.wait({task})
        error = error_of(task)
        if error is not None:
            raise refusals.failed(key, error, verb="unloaded")
        return True

    def doubt(self) -> None:
        """Ask the engines and devices anew before the next load decision: something did not go as the books say."""
        self._scheduler.freshness.doubt()

    def pin(self, deployment: Deployment) -> None:
        """Keep a model from being evicted, loaded or not."""
        now = self._clock()
        self._apply(self._scheduler.pin(ModelKey(deployment.backend, deployment.model), now=now), now)

    def unpin(self, deployment: Deployment) -> None:
        """Let a model be evicted again."""
        now = self._clock()
        self._apply(self._scheduler.unpin(ModelKey(deployment.backend, deployment.model), now=now), now)

    def fix(self, deployment: Deployment) -> None:
        """Count a model that is there for good, with its declared bytes: its engine neither loads nor unloads."""
        key, ledger = ModelKey(deployment.backend, deployment.model), self._scheduler.ledger
        if self._known and ledger.get(key) is None:
            ledger.fix(key, deployment.vram_bytes or 0)

    def tell_digests(self, backend: str, digests: Mapping[str, str]) -> None:
        """Take the models (name to digest) of one backend with equal digests for one resident."""
        self._scheduler.tell_digests(backend, digests)

    # -- what is going on

    def queue_depths(self) -> dict[str, int]:
        """Return how many requests wait, by deployment id."""
        return {key.id: depth for key, depth in self._scheduler.queue.depths().items()}

    def snapshot(self) -> GateSnapshot:
        """Return the gate's state as one frozen value."""
        now = self._clock()
        return snapshot_of(self._scheduler, now=now) if self._known else GateSnapshot(at=now, budget_bytes=None)

    async def reconcile(self, *, force: bool = False) -> None:
        """Ask the engines what they have loaded, unless that is known freshly or being asked; never raises."""
        now = self._clock()
        self._sweep(now)
        if not self._known or (self._scheduler.freshness.is_fresh(now) and not force):
            return
        self._apply(self._scheduler.refresh(), now)
        if self._question is not None:
            await asyncio.wait({self._question})

    async def aclose(self) -> None:
        """Send the waiters away (503 gateway_draining), cancel the gate's tasks and wait for their end.

        The gate can be used again afterwards, as by a host that enters its lifespan twice.
        """
        self._closing = True
        try:
            self._apply(self._scheduler.dismiss(), self._clock())
            await self._tasks.aclose()
            await self._sizes.save()
        finally:
            self._closing = False

    # -- effects

    def _apply(self, effects: Iterable[Effect], now: float) -> None:
        """Carry out effects, and the effects of a grant nobody waits for any more; then set the timer."""
        pending = deque(effects)
        while pending:
            effect = pending.popleft()
            match effect:
                case Grant(ticket=ticket, key=key):
                    future = self._waiting.get(ticket)
                    if future is None or future.done():
                        pending.extend(self._scheduler.released(key, now=now))
                    else:
                        future.set_result(Lease(key, self, since=now))
                case Reject(ticket=ticket, error=error):
                    future = self._waiting.get(ticket)
                    if future is not None and not future.done():
                        future.set_exception(error)
                case StartLoad(key=key):
                    self._arrivals.begin(key, self._used_bytes())
                    self._tasks.start(self._engines.load(key), partial(self._loaded, key, now))
                case StartUnload(key=key, by_hand=by_hand):
                    done = partial(self._unloaded, key, now, not by_hand)
                    self._unloads[key] = self._tasks.start(self._engines.unload(key), done)
                case StartReconcile():
                    self._question = self._tasks.start(self._ask(), partial(self._answered, now))
                case _:
                    assert_never(effect)
        self._set_timer(now)

    def _set_timer(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wakeup = self._scheduler.next_wakeup(now=now)
        if wakeup < math.inf:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(wakeup - now, self._on_timer, context=contextvars.Context())

    def _on_timer(self) -> None:
        now = self._clock()
        self._apply(self._scheduler.tick(now=now), now)

    def _loaded(self, key: ModelKey, started: float, task: asyncio.Task[None]) -> None:
        now, error = self._clock(), error_of(task)
        action = "load" if error is None else "load_failed"
        self._tell(ModelSwapped(deployment=key.id, action=action, seconds=now - started))
        if error is None:
            self._apply(self._scheduler.load_finished(key, now=now, load_s=now - started), now)
        else:
            self._apply(self._scheduler.load_failed(key, error, now=now), now)

    def _unloaded(self, key: ModelKey, started: float, evicted: bool, task: asyncio.Task[None]) -> None:
        now, error = self._clock(), error_of(task)
        del self._unloads[key]
        if error is None:
            self._tell(ModelSwapped(deployment=key.id, action="unload", seconds=now - started, evicted=evicted))
            self._apply(self._scheduler.unload_finished(key, now=now), now)
        else:
            self._apply(self._scheduler.unload_failed(key, error, now=now), now)

    async def _ask(self) -> Answers:
        """Ask the engines what they have loaded, and the devices what is in use."""
        if self._readings is None:
            return await self._engines.ask()
        answers, _ = await asyncio.gather(self._engines.ask(), self._readings.refresh())
        return answers

    def _answered(self, asked_at: float, task: asyncio.Task[Answers]) -> None:
        self._question = None
        answers = {} if error_of(task) is not None else task.result()
        now = self._clock()
        readings = self._used_bytes()
        self._arrivals.settle(readings, asked_at=asked_at)
        vanished = self._readings.vanished() if self._readings is not None else frozenset()
        effects = self._scheduler.reconciled(
            answers, asked_at=asked_at, now=now, readings=readings, vanished_devices=vanished
        )
        self._apply(effects, now)
        self._sizes.learn()
        if self._sizes.dirty and self._saving is None:
            self._saving = self._tasks.start(self._sizes.save(), self._saved)

    def _saved(self, task: asyncio.Task[None]) -> None:
        self._saving = None

    def _used_bytes(self) -> Mapping[str, int | None]:
        return self._readings.used_bytes() if self._readings is not None else {}

    def _tell(self, event: Event) -> None:
        if self._observer is not None:
            self._observer.on_event(event)
