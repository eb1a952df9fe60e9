"""The measurement itself: round after round, each side in its turn; what is slow happens outside of the clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..exceptions import AttemptError
from .client import CutOffError, Line, Target
from .plan import SIDES, Plan, Round, Side, request_body, schedule
from .reading import Sample, failed, read


class WarmUpError(Exception):
    """A side failed before anything was counted: nothing would come of going on."""


@dataclass(slots=True)
class Turn:
    """What one side gave in one round."""

    round: int
    side: Side
    is_first: bool
    """Whether it had its turn before the other side."""
    took_s: float
    samples: tuple[Sample, ...]
    """One for each connection."""


@dataclass(slots=True)
class Measured:
    """What has been measured so far; it grows while the benchmark runs, so that it is there when it is cut short."""

    turns: list[Turn] = field(default_factory=list)

    def samples(self, side: Side) -> list[Sample]:
        """Return a side's requests."""
        return [sample for turn in self.turns if turn.side == side for sample in turn.samples]

    def pairs(self) -> list[list[tuple[Sample, Sample]]]:
        """Return round by round the direct and routed requests of one connection that both succeeded."""
        found: list[list[tuple[Sample, Sample]]] = []
        by_round: dict[int, dict[Side, Turn]] = {}
        for turn in self.turns:
            by_round.setdefault(turn.round, {})[turn.side] = turn
        for sides in by_round.values():
            if len(sides) == len(SIDES):
                both = zip(sides["direct"].samples, sides["routed"].samples, strict=True)
                found.append([(direct, routed) for direct, routed in both if not direct.failure and not routed.failure])
        return [pairs for pairs in found if pairs]


async def measure(
    plan: Plan, targets: Mapping[Side, Target], into: Measured, *, progress: Callable[[int, int], None]
) -> None:
    """Run the plan; `progress` gets the rounds done and their number, warm-ups included. Raises `WarmUpError`."""
    lines = {side: [Line(targets[side]) for _ in range(plan.concurrency)] for side in SIDES}
    every = plan.warmup + plan.rounds
    try:
        for done, turn in enumerate(schedule(plan)):
            progress(done, every)
            for place, side in enumerate(turn.order):
                found = await _turn(plan, turn, place, targets[side], lines[side])
                if turn.number >= 0:
                    into.turns.append(found)
                elif reasons := [sample.failure for sample in found.samples if sample.failure]:
                    raise WarmUpError(f"{side}: {reasons[0]}")
        progress(every, every)
    finally:
        for line in (*lines["direct"], *lines["routed"]):
            line.close()


async def _turn(plan: Plan, turn: Round, place: int, target: Target, lines: Sequence[Line]) -> Turn:
    bodies = [request_body(plan, target.model, mark, target.dialect) for mark in turn.marks[place]]
    began = time.perf_counter()
    samples = await asyncio.gather(
        *(_one(line, body, target, plan.timeout_s) for line, body in zip(lines, bodies, strict=True))
    )
    return Turn(
        round=turn.number,
        side=turn.order[place],
        is_first=place == 0,
        took_s=time.perf_counter() - began,
        samples=tuple(samples),
    )


async def _one(line: Line, body: bytes, target: Target, timeout_s: float) -> Sample:
    try:
        return read(await line.ask(body, timeout_s=timeout_s), target)
    except TimeoutError:
        return failed(f"no end within {timeout_s:g} s")
    except (CutOffError, AttemptError) as exc:
        return failed(str(exc), target.secret)
