"""Ollama's scheduler as a synchronous state machine: events in, effects out; no clock, no tasks, no sockets.

1. A request whose runner is loaded and compatible takes it at once, past everyone who waits for a load.
2. Any other joins one FIFO; when `max_queue` wait in it the request is refused (503).
3. Only the head of the FIFO is worked on. While it waits for an unload or loads, all behind it wait, those too whose
   model has become resident meanwhile.
4. The head's model is resident but needs a reload: that runner is the victim. Else, `max_loaded` runners: a victim.
   Else it fits into 80 % of the free memory, or nothing else is loaded: load. Else a victim.
5. Victim: shortest keep-alive first, then digest; the first idle one, else the first, which then leaves when idle.
   A runner with a request is never stopped.
6. Any unload that has ended (its memory is back) lets the head look again.
7. A load that runs out of memory beside others unloads all others and is tried once more.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from .effects import Abort, Admit, Effect, Load, Refuse, Runner, SetTimer, Start, StopTimer, Ticket, Unload
from .errors import SERVER_BUSY, APIError
from .models import MIB

if TYPE_CHECKING:
    from .gpu import SimulatedGPU
    from .models import SimulatedModel

FIT_FRACTION = 0.8


class Scheduler:
    """The state machine; every method returns the effects to carry out, in order."""

    def __init__(
        self, gpu: SimulatedGPU, *, max_loaded: int, parallel: int, max_queue: int, keep_alive_s: float, reserve: int
    ) -> None:
        self.gpu = gpu
        self.max_loaded = max_loaded
        self.parallel = parallel
        self.max_queue = max_queue
        self.keep_alive_s = keep_alive_s
        self.reserve_bytes = reserve
        self.runners: dict[str, Runner] = {}
        self.pending: deque[Ticket] = deque()
        self.head: Ticket | None = None
        self.loading: Runner | None = None
        self._unloads_awaited = 0

    def submit(self, ticket: Ticket) -> list[Effect]:
        """Take in a request (1, 2)."""
        runner = self.runners.get(ticket.model.digest)
        if runner is not None and runner.serves(ticket):
            return self._use(runner, ticket)
        if len(self.pending) >= self.max_queue:
            return [Refuse(ticket, APIError(503, SERVER_BUSY))]
        self.pending.append(ticket)
        return self._advance()

    def request_slot(self, ticket: Ticket) -> list[Effect]:
        """Ask for one of the runner's slots; `Start` follows, now or when one is free."""
        runner = ticket.runner
        assert runner is not None, "a slot is asked for by a ticket that holds a runner"
        if len(runner.busy) >= runner.parallel:
            runner.slot_queue.append(ticket)
            return []
        runner.busy.add(ticket)
        return [Start(ticket)]

    def leave(self, ticket: Ticket) -> list[Effect]:
        """Forget a request that has ended, or whose client has gone, in whatever state it is."""
        ticket.gone = True
        if ticket.runner is not None:
            return self._finish(ticket.runner, ticket)
        if ticket in self.pending:
            self.pending.remove(ticket)
        elif ticket is self.head and self.loading is not None:
            runner, self.loading, self.head = self.loading, None, None
            return [Abort(runner), *self._advance()]
        return []

    def loaded(self, runner: Runner) -> list[Effect]:
        """Give the runner, which answers now, to the head."""
        ticket = self.head
        assert runner is self.loading, "only the runner that is loading can become loaded"
        assert ticket is not None, "what loads, loads for the head"
        self.loading = self.head = None
        self.runners[runner.model.digest] = runner
        return [*self._use(runner, ticket), *self._advance()]

    def load_failed(self, runner: Runner, error: APIError, *, out_of_memory: bool) -> list[Effect]:
        """Refuse the head, whose runner did not start, or let it try once more (7)."""
        ticket = self.head
        assert runner is self.loading, "only the runner that is loading can fail to load"
        assert ticket is not None, "what loads, loads for the head"
        self.loading = None
        if out_of_memory and self.runners and not ticket.retried:
            ticket.retried = True
            return self.expire_all(awaited=True)
        self.head = None
        return [Refuse(ticket, error), *self._advance()]

    def unloaded(self, runner: Runner) -> list[Effect]:
        """Let the head look again: the memory of an unloaded runner is back (6)."""
        self._unloads_awaited = max(0, self._unloads_awaited - 1)
        return self._advance()

    def timer_fired(self, runner: Runner) -> list[Effect]:
        """Unload a runner that was idle for its keep-alive."""
        return self._expire(runner)

    def expire(self, model: SimulatedModel) -> list[Effect]:
        """Unload on request: at once when idle, else when the last request has ended."""
        runner = self.runners.get(model.digest)
        return [] if runner is None else self._expire(runner)

    def expire_all(self, *, awaited: bool = False) -> list[Effect]:
        """Unload every runner, each when it is idle; `awaited`: the head waits for all of them."""
        runners = list(self.runners.values())
        if awaited:
            self._unloads_awaited = len(runners)
        return [effect for runner in runners for effect in self._expire(runner)]

    def _advance(self) -> list[Effect]:
        effects: list[Effect] = []
        while self.loading is None and self._unloads_awaited == 0:
            if self.head is None or self.head.gone:
                self.head = self.pending.popleft() if self.pending else None
                if self.head is None:
                    break
            head = self.head
            victim = self.runners.get(head.model.digest)
            if victim is not None and victim.serves(head):
                self.head = None
                effects += self._use(victim, head)
                continue
            if victim is None:
                full = len(self.runners) >= self.max_loaded
                if not full and (not self.runners or self._fits(head)):
                    self.loading = self._place(head)
                    effects.append(Load(self.loading, head))
                    break
                victim = choose_victim(list(self.runners.values()))
            self._unloads_awaited = 1
            effects += self._expire(victim)
        return effects

    def _use(self, runner: Runner, ticket: Ticket) -> list[Effect]:
        ticket.runner = runner
        runner.held_by.add(ticket)
        if ticket.keep_alive_s is not None:
            runner.keep_alive_s = ticket.keep_alive_s
        return [StopTimer(runner), Admit(ticket, runner)]

    def _finish(self, runner: Runner, ticket: Ticket) -> list[Effect]:
        effects: list[Effect] = []
        runner.held_by.discard(ticket)
        if ticket in runner.busy:
            runner.busy.remove(ticket)
            if runner.slot_queue:
                following = runner.slot_queue.popleft()
                runner.busy.add(following)
                effects.append(Start(following))
        elif ticket in runner.slot_queue:
            runner.slot_queue.remove(ticket)
        if not runner.held_by and self.runners.get(runner.model.digest) is runner:
            if runner.expire_when_idle or runner.keep_alive_s <= 0:
                effects += self._expire(runner)
            else:
                effects.append(SetTimer(runner))
        return effects

    def _expire(self, runner: Runner) -> list[Effect]:
        runner.keep_alive_s = 0.0
        if runner.held_by:
            runner.expire_when_idle = True
            return [StopTimer(runner)]
        del self.runners[runner.model.digest]
        return [StopTimer(runner), Unload(runner)]

    def _parallel(self, model: SimulatedModel) -> int:
        return self.parallel if model.can("completion") else 1

    def _fits(self, ticket: Ticket) -> bool:
        if ticket.options.num_gpu == 0:
            return True
        tokens = ticket.options.num_ctx * self._parallel(ticket.model)
        predicted = ticket.model.size_bytes + ticket.model.kv_bytes_per_token * tokens
        if ticket.options.num_batch >= 2048:
            predicted += 2048 * MIB
        elif ticket.options.num_batch >= 1024:
            predicted += 768 * MIB
        return predicted <= FIT_FRACTION * self.gpu.free_bytes

    def _place(self, ticket: Ticket) -> Runner:
        model, options = ticket.model, ticket.options
        parallel = self._parallel(model)
        total = model.size_bytes + model.kv_bytes_per_token * options.num_ctx * parallel + model.overhead_bytes
        per_layer = max(1, math.ceil(total / model.num_layers))
        layers = max(0, self.gpu.free_bytes - self.reserve_bytes) // per_layer
        layers = min(model.num_layers, layers, options.num_gpu if options.num_gpu >= 0 else model.num_layers)
        return Runner(
            model=model,
            options=options,
            keep_alive_s=self.keep_alive_s if ticket.keep_alive_s is None else ticket.keep_alive_s,
            parallel=parallel,
            total_bytes=total,
            vram_bytes=min(total, layers * per_layer),
        )


def choose_victim(runners: list[Runner]) -> Runner:
    """Return the runner that has to go (5); `runners` is not empty."""
    ordered = sorted(runners, key=lambda runner: (runner.keep_alive_s, runner.model.digest))
    return next((runner for runner in ordered if not runner.held_by), ordered[0])
