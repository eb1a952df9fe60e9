"""What the scheduler works with: tickets and runners, and the effects it asks for."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from .errors import APIError
    from .models import SimulatedModel
    from .options import LoadOptions


@dataclass(slots=True, eq=False)
class Ticket:
    """One request that needs a runner."""

    model: SimulatedModel
    options: LoadOptions
    keep_alive_s: float | None = None
    runner: Runner | None = None
    gone: bool = False
    retried: bool = False


@dataclass(slots=True, eq=False)
class Runner:
    """One loaded, or loading, model process. `held_by` is its reference count, `busy` those in a slot."""

    model: SimulatedModel
    options: LoadOptions
    keep_alive_s: float
    parallel: int
    total_bytes: int
    vram_bytes: int
    held_by: set[Ticket] = field(default_factory=set)
    busy: set[Ticket] = field(default_factory=set)
    slot_queue: deque[Ticket] = field(default_factory=deque)
    expire_when_idle: bool = False
    dead: bool = False

    def serves(self, ticket: Ticket) -> bool:
        """Tell whether the ticket can use this runner as it is."""
        return not self.dead and ticket.options.satisfied_by(self.options)


@dataclass(frozen=True, slots=True)
class Admit:
    """The ticket holds its runner."""

    ticket: Ticket
    runner: Runner


@dataclass(frozen=True, slots=True)
class Start:
    """The ticket has a slot of its runner."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Refuse:
    """The ticket gets an error."""

    ticket: Ticket
    error: APIError


@dataclass(frozen=True, slots=True)
class Load:
    """Start this runner for that ticket."""

    runner: Runner
    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Abort:
    """Stop loading this runner."""

    runner: Runner


@dataclass(frozen=True, slots=True)
class Unload:
    """Stop this runner; `unloaded` is due when its memory is back."""

    runner: Runner


@dataclass(frozen=True, slots=True)
class SetTimer:
    """The runner is idle from now on; `timer_fired` is due after its keep-alive."""

    runner: Runner


@dataclass(frozen=True, slots=True)
class StopTimer:
    """The runner is in use again, or goes."""

    runner: Runner


Effect: TypeAlias = Admit | Start | Refuse | Load | Abort | Unload | SetTimer | StopTimer
