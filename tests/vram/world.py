"""A scheduler with the engines it believes in, for tests that tell it what happens and when; sizes are small integers.

Engines of the backends `box` and `big` are asked; each model of theirs is named by one letter.
"""

from __future__ import annotations

import math

from smartrouter_asgi.deployment import LoadedModel
from smartrouter_asgi.vram.devices import Device, Devices
from smartrouter_asgi.vram.effects import Grant, Reject, StartReconcile
from smartrouter_asgi.vram.ledger import VRAMLedger
from smartrouter_asgi.vram.names import ModelKey
from smartrouter_asgi.vram.policy import GatePolicy
from smartrouter_asgi.vram.scheduler import Scheduler

A, B, C, D = (ModelKey("box", name) for name in "ABCD")
BACKENDS = ("box", "big", "one")


def devices(*limits, cap=None, totals=None):
    """Return devices named `0`, `1`, ... of these limits."""
    totals = totals or [None] * len(limits)
    return Devices(
        [
            Device(id=str(index), limit_bytes=limit, total_bytes=total)
            for index, (limit, total) in enumerate(zip(limits, totals, strict=True))
        ],
        max_total_bytes=cap,
    )


class World:
    """Questions are answered at once, unless `answering` is off; `used` is what the devices read, where they do."""

    def __init__(self, budget=10, sizes=None, rules=None, **policy):
        self.policy = GatePolicy(**{"default_estimate_bytes": 4, **policy})
        self.ledger = VRAMLedger(
            budget,
            default_estimate_bytes=self.policy.default_estimate_bytes,
            pinned=self.policy.pinned,
            rules=rules,
        )
        self.scheduler = Scheduler(self.ledger, self.policy)
        self.sizes = {"A": 4, "B": 4, "C": 4, "D": 4, **(sizes or {})}
        self.loaded = {}
        self.used = {}
        self.now = 100.0
        self.answering = True
        self.seen = []
        self.tickets = 0

    def do(self, effects):
        """Carry out questions, keep the rest."""
        kept = []
        for effect in effects:
            if isinstance(effect, StartReconcile) and self.answering:
                kept += self.answer()
            else:
                kept.append(effect)
        self.ledger.check()
        self.seen += kept
        return kept

    def answer(self, asked_at=None):
        """Answer the open question, or one put now."""
        self.scheduler.refresh()
        answers = {
            backend: tuple(
                LoadedModel(id=key.model, vram_bytes=size)
                for key, size in self.held_by_engines().items()
                if key.backend == backend
            )
            for backend in BACKENDS
        }
        asked_at = self.now if asked_at is None else asked_at
        return self.do(self.scheduler.reconciled(answers, asked_at=asked_at, now=self.now, readings=self.used))

    def held_by_engines(self):
        """What is loaded: a bare name is a model of `box`."""
        return {ModelKey("box", key) if isinstance(key, str) else key: size for key, size in self.loaded.items()}

    def request(self, key, *, deadline=math.inf, size=None, priority=0):
        self.tickets += 1
        declared = self.sizes.get(key.model) if size is None else size
        return self.do(
            self.scheduler.request(
                key,
                ticket=self.tickets,
                now=self.now,
                deadline=deadline,
                priority=priority,
                declared_bytes=declared,
            )
        )

    def load(self, key, load_s=1.0):
        """Finish a load."""
        self.loaded[key.model if key.backend == "box" else key] = self.sizes.get(key.model)
        return self.do(self.scheduler.load_finished(key, now=self.now, load_s=load_s))

    def gone(self, key):
        """Finish an unload."""
        self.loaded.pop(key.model if key.backend == "box" else key, None)
        return self.do(self.scheduler.unload_finished(key, now=self.now))

    def release(self, key, **how):
        return self.do(self.scheduler.released(key, now=self.now, **how))

    def tick(self, seconds=0.0):
        self.now += seconds
        return self.do(self.scheduler.tick(now=self.now))

    def cancel(self, ticket):
        return self.do(self.scheduler.cancel(ticket, now=self.now))

    def resident(self, *keys, busy=()):
        """Bring models in, oldest use first; those in `busy` keep a lease."""
        for key in keys:
            self.now += 1
            assert key in loads(self.request(key))
            self.now += 1
            self.load(key)
            if key not in busy:
                self.release(key)
        self.now += 1
        self.seen.clear()
        return self


def kinds(effects):
    return [type(effect).__name__ for effect in effects]


def loads(effects):
    return [effect.key for effect in effects if type(effect).__name__ == "StartLoad"]


def unloads(effects):
    return [effect.key for effect in effects if type(effect).__name__ == "StartUnload"]


def errors(effects):
    return [effect.error for effect in effects if isinstance(effect, Reject)]


def grants(effects):
    return [effect.ticket for effect in effects if isinstance(effect, Grant)]
