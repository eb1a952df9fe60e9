"""Kinds of load, and how they are measured: every variant once, then every variant again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .processes import Child
from .progress import Progress
from .rows import figure_rows, quantile_rows
from .variants import MAY_FAIL, Rig
from .windows import Window, Windows

Seen = dict[str, dict[str, list[Window]]]
"""Windows by scenario and variant, a window a round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One kind of load."""

    name: str
    connections: int
    chunks: int = 0
    pace_ms: int = 0
    hold: bool = False
    seconds: float
    per: str = "requests"
    """What CPU time is divided by."""
    series: tuple[str, ...] = ("latency",)
    """What distributions it gives."""

    def job(self, child: Child, engine: Child) -> dict[str, Any]:
        """Return what the load generator is told."""
        return {
            "port": child.port,
            "pid": child.pid,
            "engine_pid": engine.pid,
            "connections": self.connections,
            "chunks": self.chunks,
            "pace_ms": self.pace_ms,
            "hold": self.hold,
            "seconds": self.seconds,
            "warmup_s": min(0.3, self.seconds / 3),
        }


def interleave(question: str, scenarios: Sequence[Scenario], rig: Rig, windows: Windows, *, rounds: int) -> Seen:
    """Measure every variant under every load, round by round."""
    seen: Seen = {scenario.name: {} for scenario in scenarios}
    progress = Progress(question, rounds * len(scenarios) * len(rig.servers))
    for number in range(rounds):
        for scenario in scenarios:
            for variant, child in rig.servers.items():
                progress.step(f"round {number + 1} of {rounds}, {scenario.name}, {variant}")
                label, job = f"{variant}, {scenario.name}", scenario.job(child, rig.engine)
                measure = windows.measure_peer if variant in MAY_FAIL else windows.measure
                found = measure(label, job)
                if found is None:
                    seen[scenario.name].pop(variant, None)
                else:
                    seen[scenario.name].setdefault(variant, []).append(found)
    progress.end()
    return seen


def rows_of(scenarios: Sequence[Scenario], seen: Seen) -> dict[str, list[dict[str, Any]]]:
    """Return the figures and quantiles of everything seen."""
    figures: list[dict[str, Any]] = []
    distributions: list[dict[str, Any]] = []
    for scenario, labels, windows, floor in _each(scenarios, seen):
        figures += figure_rows(labels, windows, per=scenario.per, series=scenario.series, floor=floor)
        distributions += quantile_rows(labels, windows, series=scenario.series, floor=floor)
    return {"figures": figures, "quantiles": distributions}


def _each(
    scenarios: Sequence[Scenario], seen: Seen
) -> Iterator[tuple[Scenario, Mapping[str, Any], list[Window], list[Window]]]:
    for scenario in scenarios:
        direct = seen[scenario.name].get("direct", [])
        for variant, windows in seen[scenario.name].items():
            labels = {"scenario": scenario.name, "variant": variant}
            yield scenario, labels, windows, direct if variant != "direct" else []


def described(scenarios: Sequence[Scenario]) -> dict[str, dict[str, Any]]:
    """Say for a result what the scenarios are."""
    return {
        s.name: {key: getattr(s, key) for key in ("connections", "chunks", "pace_ms", "seconds")} for s in scenarios
    }
