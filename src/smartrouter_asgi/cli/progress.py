"""How far a long command is: a bar on a terminal where rich is installed, a line now and then anywhere else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TextIO

from .output import Screen

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    import rich.progress

    from ..bench.plan import Plan

STEPS = 10
"""Lines that a whole run prints where there is no bar."""


class Progress:
    """Shows rounds as they are done. It draws between them alone: a thread would disturb what is measured."""

    def __init__(self, stream: TextIO, plan: Plan) -> None:
        self._screen = Screen(stream)
        self._plan = plan
        self._told = 0
        self._bar = _bar(stream)
        self._task = self._bar.add_task("warm-up", total=plan.warmup + plan.rounds) if self._bar is not None else None

    def __enter__(self) -> Self:
        """Show the bar."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take it away."""
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, every: int) -> None:
        """Show how many rounds are done."""
        counted, rounds = done - self._plan.warmup, self._plan.rounds
        if self._bar is not None and self._task is not None:
            name = "warm-up" if counted < 0 else "measuring"
            self._bar.update(self._task, completed=done, description=name, refresh=True)
        elif done == 0:
            self._screen.line(f"warming up: {self._plan.warmup} rounds that are not counted")
        elif counted > 0 and counted * STEPS // rounds > self._told:
            self._told = counted * STEPS // rounds
            self._screen.line(f"{counted} of {rounds} rounds")


def _bar(stream: TextIO) -> rich.progress.Progress | None:
    if not stream.isatty() or os.environ.get("NO_COLOR"):
        return None
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar
    except ImportError:
        return None
    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rounds"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(file=stream, emoji=False),
        auto_refresh=False,
        transient=True,
    )
