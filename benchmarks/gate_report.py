"""The tables of `gate_simulation` and `ollama_gate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .tables import measured_on, number, spread, table

COLUMNS = {
    "swaps": "swaps",
    "mean_wait_s": "mean wait s",
    "p95_wait_s": "p95 wait s",
    "max_wait_s": "max wait s",
    "makespan_s": "makespan s",
    "rejected": "rejected",
}
AIMS = {
    "fewer_swaps": "under load: at most a tenth of the swaps of first come first served",
    "shorter_wait": "under load: at most a tenth of its mean wait",
    "bounded_wait": "utilisation below 1: no wait beyond `fair_after` + (models ahead + 1) x (longest drain + load)",
    "surplus_rejected": "utilisation above 1: the surplus is rejected at `max_wait`",
    "not_dominated": "default `fair_after`: no rival is better in mean or maximum wait and equal in the other",
    "curve_covers": "for each rival some `fair_after` has no higher maximum and no higher mean",
    "off_costs_nothing": "`fair_after` off: mean at most 5 % above the best rival's",
}


def gate_simulation(result: Mapping[str, Any]) -> str:
    """Return the tables and plots of `gate_simulation`."""
    method = result["method"]
    head = (
        f"{result['measured_at'][:10]}, commit {result['commit']}; virtual time, the same on every machine. "
        f"Medians of {method['seeds']} seed(s) (lowest to highest)."
    )
    plots = "\n\n".join(
        f"![{title}](results/{name}.svg)"
        for name, title in (
            ("gate_tradeoff", "mean against maximum wait over fair_after"),
            ("gate_waits", "waits and swaps of each policy"),
        )
    )
    return "\n\n".join([head, _patterns(method), _policies(result), _aims(result), plots])


def _patterns(method: Mapping[str, Any]) -> str:
    keys = ("requests", "span_s", "utilisation", "utilisation_at_default", "swap_pressure")
    rows = [
        [f"{name}: {found['title']}", *[number(found[key]["median"]) for key in keys]]
        for name, found in method["patterns"].items()
    ]
    head = (
        "pattern",
        "requests",
        "span s",
        "utilisation, rounds of 60 s",
        "rounds of `fair_after`",
        "swap pressure",
    )
    return table(head, rows)


def _policies(result: Mapping[str, Any]) -> str:
    figures = {(row["pattern"], row["policy"]): row for row in result["figures"]}
    rows = []
    for pattern in result["method"]["patterns"]:
        for policy in result["method"]["shown"]:
            row = figures[pattern, policy]
            rows.append([pattern, policy, *[spread(row[metric]) for metric in COLUMNS]])
    return table(("pattern", "policy", *COLUMNS.values()), rows)


def _aims(result: Mapping[str, Any]) -> str:
    rows = []
    for row in result["aims"]:
        missed: dict[str, int] = {}
        for found in row["counterexamples"]:
            missed[found["pattern"]] = missed.get(found["pattern"], 0) + 1
        where = ", ".join(f"{pattern} ({count})" for pattern, count in missed.items())
        rows.append([AIMS[row["aim"]], f"{row['met']} of {row['runs']}", where])
    return table(("aim", "met in runs", "not in (seeds)"), rows)


def ollama_gate(result: Mapping[str, Any]) -> str:
    """Return the table of `ollama_gate`."""
    columns = ("wait_mean", "wait_p95", "wait_max", "wall")
    rows = [
        [
            str(row["models"]),
            row["way"],
            str(row["requests"]),
            f"{row['loads']['median']:g}",
            *[spread(row[name]) for name in columns],
        ]
        for row in result["runs"]
    ]
    head = ("models", "requests go", "requests", "loads", "mean wait s", "p95 s", "longest s", "wall s")
    return "\n\n".join([measured_on(result), table(head, rows)])
