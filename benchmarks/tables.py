"""Figures as Markdown: tables, numbers with their spread, what was measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .figures import is_quick


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float) -> str:
    """Write a number with no more digits than it deserves."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2g}"


def spread(found: Mapping[str, Any]) -> str:
    """Write a median with its range, when there are several windows."""
    text = number(found["median"])
    return text if found["n"] == 1 else f"{text} ({number(found['low'])} to {number(found['high'])})"


def measured_on(result: Mapping[str, Any]) -> str:
    """Say when, where and with what."""
    machine, versions = result["machine"], dict(result["versions"])
    python = versions.pop("python")
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    quick = " **A quick run: the figures mean nothing.**" if is_quick(result) else ""
    noise = f" Others kept {spread(result['noise'])} cores busy meanwhile." if "noise" in result else ""
    return (
        f"{result['measured_at'][:10]}, commit {result['commit']}, {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['kernel']}, {machine['implementation']} {python}; {listed}. "
        f"Medians of {result['method']['rounds']} round(s) (lowest to highest).{noise}{quick}"
    )
