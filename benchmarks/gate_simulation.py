"""Does the gate swap less and wait less than others? `python -m benchmarks.gate_simulation [--quick] [--seeds N]`.

Policies for GPU memory side by side in virtual time: the same requests, models and devices under first come first
served with LRU, Ollama's scheduler, llama-swap's, and the gate's own. Deterministic: a seed gives the same figures on
every machine. What is judged is in `gate_sim/aims.py`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .figures import RESULTS, assemble, commit, figure, save
from .gate_report import gate_simulation
from .gate_sim.aims import AIMS, ROUND_S, Verdict, judge
from .gate_sim.curves import bars, fronts
from .gate_sim.measures import swap_pressure, utilisation
from .gate_sim.runner import BOUNDED, DEFAULT, DEFAULT_S, OFF, RIVALS, Contender, Experiment, contenders, experiments

FAIR_AFTER_S = (0.0, 5.0, 10.0, DEFAULT_S, 30.0, 60.0, 120.0, math.inf)
QUICK_FAIR_AFTER_S = (5.0, DEFAULT_S, math.inf)
METRICS = {
    "swaps": "swaps",
    "mean_wait_s": "s",
    "p95_wait_s": "s",
    "max_wait_s": "s",
    "mean_queued_s": "s",
    "max_queued_s": "s",
    "makespan_s": "s",
    "rejected": "requests",
}


def measure(seeds: Sequence[int], size: float, policies: Sequence[Contender]) -> tuple[list[Experiment], list[Verdict]]:
    """Run everything and judge it."""
    found: list[Experiment] = []
    verdicts: list[Verdict] = []
    for experiment in experiments(seeds, size, policies):
        found.append(experiment)
        verdicts.extend(judge(experiment, policies))
    return found, verdicts


def patterns_of(found: Sequence[Experiment]) -> dict[str, dict[str, Any]]:
    """Describe each pattern; loads are medians over the seeds."""
    described: dict[str, dict[str, Any]] = {}
    for name, runs in _by_pattern(found).items():
        first = runs[0].pattern
        described[name] = {
            "title": first.title,
            "requests": figure([len(run.pattern.requests) for run in runs], "requests"),
            "span_s": figure([run.pattern.span_s for run in runs], "s"),
            "utilisation": figure([utilisation(run.pattern, round_s=ROUND_S) for run in runs], "share"),
            "utilisation_at_default": figure([utilisation(run.pattern, round_s=DEFAULT_S) for run in runs], "share"),
            "swap_pressure": figure(
                [swap_pressure(run.pattern, run.outcomes[RIVALS[0].name]) for run in runs], "share"
            ),
        }
    return described


def figures_of(found: Sequence[Experiment], policies: Sequence[Contender]) -> list[dict[str, Any]]:
    """Return each metric of each pattern and policy, with its spread over the seeds."""
    return [
        {
            "pattern": name,
            "policy": policy.name,
            **{
                metric: figure([getattr(run.outcomes[policy.name], metric) for run in runs], unit)
                for metric, unit in METRICS.items()
            },
        }
        for name, runs in _by_pattern(found).items()
        for policy in policies
    ]


def aims_of(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Return, for each aim, how many runs meet it, and every run that does not."""
    return [
        {
            "aim": aim,
            "runs": sum(verdict.aim == aim for verdict in verdicts),
            "met": sum(verdict.aim == aim and verdict.met for verdict in verdicts),
            "counterexamples": [asdict(v) for v in verdicts if v.aim == aim and not v.met],
        }
        for aim in AIMS
    ]


def _by_pattern(found: Sequence[Experiment]) -> dict[str, list[Experiment]]:
    grouped: dict[str, list[Experiment]] = {}
    for experiment in found:
        grouped.setdefault(experiment.pattern.name, []).append(experiment)
    return grouped


def main() -> None:
    """Run it, write the result and the plots, print the tables and every counterexample."""
    parser = argparse.ArgumentParser(description="policies for GPU memory, in virtual time")
    parser.add_argument("--quick", action="store_true", help="short patterns, one seed, few settings")
    parser.add_argument("--seeds", type=int, default=10, help="how many seeds")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result")
    arguments = parser.parse_args()
    seeds = range(1 if arguments.quick else arguments.seeds)
    fair_after_s = QUICK_FAIR_AFTER_S if arguments.quick else FAIR_AFTER_S
    policies = contenders(fair_after_s)
    revision = commit()
    found, verdicts = measure(seeds, 0.2 if arguments.quick else 1.0, policies)
    method = {
        "seeds": len(seeds),
        "size": 0.2 if arguments.quick else 1.0,
        "patterns": patterns_of(found),
        "shown": [*(rival.name for rival in RIVALS), DEFAULT.name, OFF.name, BOUNDED.name],
        "curve": [policy.name for policy in policies if policy.name.startswith("ours") and policy != BOUNDED],
        "rivals": [rival.name for rival in RIVALS],
    }
    result = assemble(
        "gate_simulation", revision, method, {}, figures=figures_of(found, policies), aims=aims_of(verdicts)
    )
    save(result, arguments.out)
    (arguments.out / "gate_tradeoff.svg").write_text(fronts(result))
    (arguments.out / "gate_waits.svg").write_text(bars(result))
    print(gate_simulation(result))
    for verdict in verdicts:
        if not verdict.met:
            print(f"not met: {verdict.aim}, {verdict.pattern}, seed {verdict.seed}: {verdict.told}")


if __name__ == "__main__":
    main()
