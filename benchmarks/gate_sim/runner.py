"""Every pattern and seed under every policy, each run by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from smartrouter_asgi.vram.policy import GatePolicy

from .fcfs_lru import FirstComeFirstServed
from .llama_swap import LlamaSwap
from .machine import Machine, Policy
from .measures import Outcome, outcome_of
from .ollama import Ollama
from .ours import Ours
from .patterns import PATTERNS
from .values import Pattern

MAX_WAIT_S = GatePolicy().max_wait_s
DEFAULT_S = GatePolicy().fair_after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A policy with its name. `fair_after_s` is None for rivals, infinity where it is off."""

    name: str
    make: Callable[[Machine], Policy]
    fair_after_s: float | None = None
    max_wait_s: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One pattern and seed with what every contender made of it, by name."""

    pattern: Pattern
    seed: int
    outcomes: Mapping[str, Outcome]


RIVALS = (
    Contender(name="fcfs+lru", make=FirstComeFirstServed),
    Contender(name="ollama", make=Ollama),
    Contender(name="llama-swap", make=LlamaSwap),
)


def ours(fair_after_s: float, *, max_wait_s: float = math.inf) -> Contender:
    """Return the gate with one fairness setting."""
    name = "ours, off" if math.isinf(fair_after_s) else f"ours, {fair_after_s:g} s"
    if not math.isinf(max_wait_s):
        name += f", max_wait {max_wait_s:g} s"
    make = partial(Ours, fair_after_s=fair_after_s, max_wait_s=max_wait_s)
    return Contender(name=name, make=make, fair_after_s=fair_after_s, max_wait_s=max_wait_s)


DEFAULT = ours(DEFAULT_S)
OFF = ours(math.inf)
BOUNDED = ours(DEFAULT_S, max_wait_s=MAX_WAIT_S)


def contenders(fair_after_s: Sequence[float]) -> tuple[Contender, ...]:
    """Return the rivals, the gate at each of these settings, and the gate as it ships."""
    return (*RIVALS, *(ours(seconds) for seconds in fair_after_s), BOUNDED)


def play(pattern: Pattern, contender: Contender) -> Outcome:
    """Run one pattern under one policy."""
    machine = Machine(pattern)
    machine.run(contender.make(machine))
    fair_after_s = DEFAULT_S if contender.fair_after_s is None else contender.fair_after_s
    return outcome_of(machine, pattern, fair_after_s=fair_after_s)


def experiments(seeds: Sequence[int], size: float, policies: Sequence[Contender]) -> Iterator[Experiment]:
    """Run everything, pattern by pattern."""
    for make in PATTERNS:
        for seed in seeds:
            pattern = make(seed, size)
            outcomes = {contender.name: play(pattern, contender) for contender in policies}
            yield Experiment(pattern=pattern, seed=seed, outcomes=outcomes)
