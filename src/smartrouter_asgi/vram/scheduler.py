"""The gate's decisions as a synchronous state machine: events in, effects out; time is an argument.

The numbers in comments are those of the decision tree in `DESIGN.md`.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, assert_never

from ..exceptions import AdmissionError
from . import refusals
from .effects import Decision, Grant, Reject, StartLoad, StartReconcile, StartUnload
from .freshness import Freshness
from .holding import HoldingState
from .order import is_old, turn_ends
from .projection import projected_wait_s
from .queue import Waiter, WaitQueue
from .tree import Close, Evict, Load, Refuse, decide

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ..deployment import LoadedModel
    from .effects import Effect
    from .ledger import VRAMLedger
    from .names import ModelKey
    from .policy import GatePolicy

PRIORITY_STEP_S = 10.0
"""What one step of a request's priority is worth in waiting."""
UNLOAD_RETRY_S = 5.0
"""How long a model that would not go is not asked again."""
DECISIONS_KEPT = 32


class Scheduler:
    """Decides who is let in, what is loaded and what has to go. Every event returns the effects it calls for."""

    def __init__(self, ledger: VRAMLedger, policy: GatePolicy) -> None:
        self.ledger = ledger
        self.policy = policy
        self.queue = WaitQueue()
        self.decisions: deque[Decision] = deque(maxlen=DECISIONS_KEPT)
        self.closing: dict[ModelKey, frozenset[ModelKey]] = {}
        """Residents that take no new requests, by the model for whose oldest waiter they drain."""
        self.closed: frozenset[ModelKey] = frozenset()
        """All of them."""
        self.freshness = Freshness(ttl_s=policy.reconcile_ttl_s)
        self._advanced_at = -math.inf

    # -- requests

    def take(self, key: ModelKey, *, now: float) -> ModelKey | None:
        """Lease a resident at once and return the key it is held under; None when the request has to queue."""
        key = self.ledger.names.canonical(key)
        if key in self.closed or not self.ledger.lease(key, now=now):  # 1
            return None
        return key

    def is_open(self, key: ModelKey) -> bool:
        """Tell whether `take` would give a lease now."""
        key = self.ledger.names.canonical(key)
        return key not in self.closed and self.ledger.is_resident(key)

    def is_coming(self, key: ModelKey) -> bool:
        """Tell whether a model is in memory or on its way there, so that waiting for it needs no load of its own."""
        held = self.ledger.get(self.ledger.names.canonical(key))
        return held is not None and held.state is not HoldingState.UNLOADING

    def request(
        self,
        key: ModelKey,
        *,
        ticket: int,
        now: float,
        deadline: float = math.inf,
        priority: int = 0,
        declared_bytes: int | None = None,
    ) -> list[Effect]:
        """Ask for a lease; a `Grant` or `Reject` with this ticket follows, now or later. Lower priorities go first."""
        key = self.ledger.names.canonical(key)
        if declared_bytes is not None:
            self.ledger.declare(key, declared_bytes)
        taken = self.take(key, now=now)
        if taken is not None:
            return [Grant(ticket=ticket, key=taken)]
        waiting = len(self.queue)
        if waiting >= self.policy.max_queue:  # 2
            self._note(now, key, "reject", "the queue is full")
            retry_after_s = self._retry_after_s(key, now)
            return [Reject(ticket=ticket, error=refusals.queue_full(waiting, retry_after_s=retry_after_s))]
        expires = min(now + self.policy.max_wait_s, deadline)
        since = now + priority * PRIORITY_STEP_S
        self.queue.add(Waiter(ticket=ticket, key=key, since=since, came=now, expires=expires, deadline=deadline))
        return self._advance(now)

    def projected_wait_s(self, key: ModelKey, *, now: float) -> float:
        """Return a guess of how long a request for this model would queue if it came now."""
        key = self.ledger.names.canonical(key)
        if self.is_open(key):
            return 0.0
        return projected_wait_s(key, self.ledger, self.queue, self.policy, now=now)

    def _retry_after_s(self, key: ModelKey, now: float) -> float:
        """Return when a refused client is to come back; one that could never be served hears what `_refuse` says."""
        wait_s = self.projected_wait_s(key, now=now)
        return max(1.0, wait_s) if wait_s < math.inf else self.policy.max_wait_s

    def cancel(self, ticket: int, *, now: float) -> list[Effect]:
        """Forget a waiter; harmless when it does not wait any more."""
        return [] if self.queue.remove(ticket) is None else self._advance(now)

    def dismiss(self) -> list[Effect]:
        """Send every waiter away: the gateway stops."""
        waiting = [waiter for key in self.queue.models() for waiter in self.queue.take_group(key)]
        return [Reject(ticket=waiter.ticket, error=refusals.stopping()) for waiter in waiting]

    def draining(self, key: ModelKey) -> None:
        """Note that the holder of one lease left and the engine may still work."""
        self.ledger.drain(key)

    def released(
        self, key: ModelKey, *, now: float, drained: bool = False, held_s: float | None = None
    ) -> list[Effect]:
        """Count one lease back; `drained` when it was draining, `held_s` how long it was held."""
        self.ledger.release(key, now=now, drained=drained, held_s=held_s)
        return self._advance(now) if self.queue else []

    # -- loads and unloads

    def load_finished(self, key: ModelKey, *, now: float, load_s: float) -> list[Effect]:
        """Let the waiters of a loaded model in, and ask for its real size."""
        self.ledger.commit(key, now=now, load_s=load_s)
        self.freshness.doubt()
        granted = self._grant(key, now)
        return [*granted, *self.refresh(), *self._advance(now)]

    def load_failed(self, key: ModelKey, cause: BaseException, *, now: float) -> list[Effect]:
        """Tell the waiters why their model is not loaded; free its bytes and doubt the ledger."""
        self.ledger.abandon(key)
        self.freshness.doubt()
        self._note(now, key, "load_failed", str(cause) or type(cause).__name__)
        retry_after_s = max(1.0, self.ledger.load_s(key))
        rejected: list[Effect] = [
            Reject(
                ticket=waiter.ticket,
                error=refusals.failed(key, cause, verb="loaded", retry_after_s=retry_after_s),
            )
            for waiter in self.queue.take_group(key)
        ]
        return rejected + self._advance(now)

    def unload(self, key: ModelKey, *, now: float) -> list[Effect]:
        """Unload by hand, pinned or not; nothing to do when it is not resident.

        Raises `AdmissionError` (503 model_in_use) while it is being loaded or used.
        """
        held = self.ledger.get(self.ledger.names.canonical(key))
        if held is None or held.state is HoldingState.UNLOADING:
            return []
        if held.state is HoldingState.RESERVED or held.leases:
            raise AdmissionError(f"{held.key.id} is in use", code="model_in_use", retry_after_s=1.0)
        self.ledger.begin_unload(held.key)
        self._note(now, held.key, "unload", "asked for")
        return [StartUnload(key=held.key, by_hand=True)]

    def unload_finished(self, key: ModelKey, *, now: float) -> list[Effect]:
        """Free the bytes of a model that is really gone."""
        self.ledger.finish_unload(key, now=now)
        return self._advance(now)

    def unload_failed(self, key: ModelKey, cause: BaseException, *, now: float) -> list[Effect]:
        """Take a model for resident again, and leave it alone for a while."""
        self.ledger.fail_unload(key, retry_at=now + UNLOAD_RETRY_S)
        self._note(now, key, "unload_failed", str(cause) or type(cause).__name__)
        return self._advance(now)

    # -- what the engines and the operator say

    def refresh(self) -> list[Effect]:
        """Ask the engines, unless they are being asked."""
        return [StartReconcile()] if self.freshness.ask() else []

    def reconciled(
        self,
        answers: Mapping[str, tuple[LoadedModel, ...] | None],
        *,
        asked_at: float,
        now: float,
        readings: Mapping[str, int | None] | None = None,
        vanished_devices: Collection[str] = (),
    ) -> list[Effect]:
        """Take the engines' answers, by backend; None where an engine gave none, which changes nothing.

        `readings` are the bytes in use by device, as its driver tells; None of a device that cannot be read now.
        """
        self.freshness.answered(now=now)
        for backend, models in answers.items():
            if models is None:
                continue
            appeared, vanished = self.ledger.observe(backend, models, asked_at=asked_at, now=now)
            for key in appeared:
                self._note(now, key, "appeared", "the engine has it loaded")
            for key in vanished:
                self._note(now, key, "vanished", "the engine has it no more")
        for device, used_bytes in (readings or {}).items():
            self._see(device, used_bytes, gone=device in vanished_devices, asked_at=asked_at)
        again = self.refresh() if self.freshness.is_doubted else []
        return again + self._advance(now)

    def _see(self, device: str, used_bytes: int | None, *, gone: bool, asked_at: float) -> None:
        devices, ledger = self.ledger.devices, self.ledger
        if used_bytes is None or gone:
            devices[device].known = False
            devices[device].lost = gone or self.policy.unknown == "closed"
            return
        devices[device].known = True
        devices[device].lost = False
        least_bytes, most_bytes = ledger.bounds_on(device, asked_at=asked_at)
        devices.see(device, used_bytes, least_bytes=least_bytes, most_bytes=most_bytes)

    def pin(self, key: ModelKey, *, now: float) -> list[Effect]:
        """Never evict the model, loaded or not."""
        self.ledger.names.pin(key)
        return self._advance(now)

    def unpin(self, key: ModelKey, *, now: float) -> list[Effect]:
        """Let the model be evicted again."""
        self.ledger.names.unpin(key)
        return self._advance(now)

    def tell_digests(self, backend: str, digests: Mapping[str, str]) -> None:
        """Take models of one backend with equal digests for one resident; what is in use keeps the name it has."""
        self.ledger.names.tell_digests(backend, digests, in_use=self._in_use)

    def tick(self, *, now: float) -> list[Effect]:
        """Let time pass: call it at `next_wakeup`."""
        return self._advance(now)

    def next_wakeup(self, *, now: float) -> float:
        """Return when time alone will change something; infinity if never.

        It is past what the tree has seen, not past `now`: a moment nobody has acted upon yet is due at once.
        """
        if not self.queue:
            return math.inf
        ledger, policy = self.ledger, self.policy
        moments = [self._ends(waiter) for waiter in self.queue]
        if len(ledger.loading_on()) < len(ledger.devices):
            moments.append(self.freshness.stale_at)
            fair_at = [self.queue.oldest(key).since + policy.fair_after_s for key in self.queue.models()]
            moments += fair_at
            for held in ledger.holdings():
                stays_until = held.loaded_at + policy.min_residency * ledger.load_s(held.key)
                # Nobody is closed before somebody is old, and a turn costs him one load at most.
                turn_ends_at = max(turn_ends(held.key, ledger, policy), min(fair_at))
                moments += (held.retry_unload_at, stays_until, turn_ends_at)
                moments += (moment + ledger.load_s(held.key) for moment in fair_at)
        return min((moment for moment in moments if moment > min(now, self._advanced_at)), default=math.inf)

    # -- the tree

    def _advance(self, now: float) -> list[Effect]:
        self._advanced_at = now
        effects: list[Effect] = self._expire(now)  # 3
        self._open_again(now)
        effects += self._grant_open(now)  # 4
        if not self.queue or len(self.ledger.loading_on()) == len(self.ledger.devices):  # 5
            return effects
        if not self.freshness.is_fresh(now):  # 6
            return effects + self.refresh()
        return effects + self._serve(now)

    def _expire(self, now: float) -> list[Effect]:
        late = [waiter for waiter in self.queue if now >= self._ends(waiter)]
        for waiter in late:
            self.queue.remove(waiter.ticket)
        return [self._timed_out(waiter, now) for waiter in late]

    def _ends(self, waiter: Waiter) -> float:
        """Return when a waiter's time is up: that of its request once its model is being loaded."""
        held = self.ledger.get(waiter.key)
        is_loading = held is not None and held.state is HoldingState.RESERVED
        return waiter.deadline if is_loading else waiter.expires

    def _timed_out(self, waiter: Waiter, now: float) -> Reject:
        self._note(now, waiter.key, "reject", "waited too long")
        retry_after_s = self._retry_after_s(waiter.key, now)
        error = refusals.queue_timeout(waiter.key, now - waiter.came, retry_after_s=retry_after_s)
        return Reject(ticket=waiter.ticket, error=error)

    def _grant_open(self, now: float) -> list[Effect]:
        return [grant for key in self.queue.models() if key not in self.closed for grant in self._grant(key, now)]

    def _grant(self, key: ModelKey, now: float) -> list[Effect]:
        held = self.ledger.get(key)
        if held is None or held.state is not HoldingState.RESIDENT:
            return []
        granted: list[Effect] = []
        for waiter in self.queue.take_group(key):
            self.ledger.lease(key, now=now)
            granted.append(Grant(ticket=waiter.ticket, key=key))
        return granted

    def _serve(self, now: float) -> list[Effect]:
        """Take steps until all who wait have to go on waiting."""
        effects: list[Effect] = []
        while self.queue:
            step = decide(self.ledger, self.queue, self.policy, closing=self.closing, now=now)
            match step:
                case None:
                    break
                case Refuse():
                    effects += self._refuse(step, now)
                case Load(key=key, placement=placement):
                    self.ledger.reserve(key, placement, now=now, wanted_since=self.queue.oldest(key).since)
                    self._note(now, key, "load", f"it fits on {', '.join(placement)}")
                    effects.append(StartLoad(key=key))
                case Evict(victims=victims, key=key):
                    for victim in victims:
                        self.ledger.begin_unload(victim)
                        self._note(now, victim, "evict", f"makes room for {key.id}")
                        effects.append(StartUnload(key=victim))
                case Close(residents=residents, key=key):
                    for resident in sorted(residents - self.closed):
                        self._note(now, resident, "close", f"drains for {key.id}")
                    self.closing[key] = residents
                case _:
                    assert_never(step)
            self._open_again(now)
        return effects + self._grant_open(now)

    def _open_again(self, now: float) -> None:
        """Let the residents take requests that drain for nobody any more.

        Closing serves somebody as long as its model is waited for, is old, and is not on its way in; and as long as
        nobody older waits only because he was closed out.
        """
        if not self.closing:
            return
        for key, residents in list(self.closing.items()):
            if (
                key not in self.queue
                or not is_old(key, self.queue, self.policy, now=now)
                or self.is_coming(key)
                or any(
                    closed in self.queue and self.queue.oldest(closed).since < self.queue.oldest(key).since
                    for closed in residents
                )
            ):
                del self.closing[key]
        self.closed = frozenset().union(*self.closing.values())

    def _refuse(self, step: Refuse, now: float) -> list[Effect]:
        self._note(now, step.key, "reject", "it cannot fit")
        need_bytes, limit_bytes, retry_after_s = step.need_bytes, step.limit_bytes, self.policy.max_wait_s
        return [
            Reject(
                ticket=waiter.ticket,
                error=refusals.exhausted(step.key, need_bytes, limit_bytes, retry_after_s=retry_after_s),
            )
            for waiter in self.queue.take_group(step.key)
        ]

    def _in_use(self, key: ModelKey) -> bool:
        return key in self.queue or self.ledger.get(key) is not None

    def _note(self, now: float, key: ModelKey, action: str, reason: str) -> None:
        self.decisions.append(Decision(at=now, deployment=key.id, action=action, reason=reason))
