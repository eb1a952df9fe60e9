"""Results as one HTML page with plots: `python -m benchmarks.html_report` writes results/report.html."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from smartrouter_asgi.bench.page import bullets, facts, grid, heading, page, paragraph

from . import html_inside, html_load
from .figures import RESULTS, is_quick, results_in
from .html_drawn import Result
from .tables import spread

SECTIONS = (
    ("overhead", "What the router adds to a request", html_load.overhead),
    ("streaming", "What it adds to a stream", html_load.streaming),
    ("scale", "More connections, more workers", html_load.scale),
    ("open_loop", "At a rate that does not wait", html_load.open_loop),
    ("layers", "Layer by layer, in process", html_inside.layers),
    ("gate_operations", "The gate, in process", html_inside.gate_operations),
    ("memory", "Memory", html_inside.memory),
    ("startup", "Start", html_inside.startup),
    ("body_size", "Large bodies", html_load.body_size),
    ("translation", "Translation", html_inside.translation),
    ("ollama_gate", "What the gate saves", html_inside.ollama_gate),
)

METHOD = (
    "Trust the ratios and the order, not the microseconds: all variants of a round run one right after the other on "
    "the same machine, and a ratio is made of two windows of one round.",
    "A mock engine and the load generator share one core, the process under test has another one to itself.",
    "Figures are medians over the rounds; thin lines and brackets go from the lowest to the highest round. Where two "
    "such ranges overlap, no difference was shown.",
    "A window in which a request failed is void and measured again. CPU time is the kernel's own count, of the process "
    "tree under test.",
    "The whole method, and what was not measured, is in benchmarks/README.md.",
)


def render(results: Mapping[str, Result]) -> str:
    """Return the page of all results there are."""
    return page("smartrouter-asgi: what the gateway costs", _parts(results))


def _parts(results: Mapping[str, Result]) -> Iterator[str]:
    newest = max((str(result["measured_at"]) for result in results.values()), default="")
    yield paragraph(f"Measured up to {newest[:10]}." if newest else "Nothing has been measured.", "soft")
    if any(is_quick(result) for result in results.values()):
        yield paragraph("Some of this comes from quick runs, which show that all runs and no more.", "lead warn")
    told = html_inside.aims(results)
    if told:
        yield heading("Aims")
        yield told
    variants = {name: what for result in results.values() for name, what in _variants(result).items()}
    if variants:
        yield heading("What is compared")
        yield facts(variants.items())
    for name, title, draw in SECTIONS:
        if name in results:
            try:
                drawn = grid(draw(results[name]))
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                print(f"{name}.json is left out, it has another shape: measure it anew ({error!r})", file=sys.stderr)
                continue
            if drawn:
                yield heading(title)
                yield drawn
                yield paragraph(_line(results[name]), "note")
    yield heading("Method, in short")
    yield bullets(METHOD)
    yield heading("Machine and versions")
    yield facts(_circumstances(results))


def _method(result: Result) -> Mapping[str, Any]:
    """Return how a result came about; the aims, which are made of other results, do not say."""
    found: Mapping[str, Any] = result.get("method", {})
    return found


def _variants(result: Result) -> dict[str, str]:
    found = _method(result).get("variants", {})
    return dict(found) if isinstance(found, dict) else {}


def _line(result: Result) -> str:
    """Say under a section when it was measured, how often and how quietly."""
    rounds = _method(result).get("rounds")
    told = [f"{str(result['measured_at'])[:10]}, commit {result['commit']}"]
    if rounds:
        told.append(f"{rounds} round{'s' if rounds != 1 else ''}")
    if "noise" in result:
        told.append(f"strangers kept {spread(result['noise'])} cores busy meanwhile")
    voided = result.get("voided")
    if voided and voided["windows"]:
        told.append(f"{voided['windows']} of {voided['of']} windows were void: {'; '.join(voided['reasons'])}")
    out = [f"{name}: {why}" for name, why in _method(result).get("left_out", {}).items()]
    if out:
        told.append("without " + "; ".join(out))
    skipped = _method(result).get("skipped", {})
    if skipped:
        told.append("not measured: " + ", ".join(skipped))
    return "; ".join(told) + "."


def _circumstances(results: Mapping[str, Result]) -> Iterator[tuple[str, str]]:
    """Yield machines and versions once each, with the questions that they hold for where they differ."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, result in results.items():
        if "machine" in result:
            machine, versions = result["machine"], dict(result["versions"])
            python = f"{machine['implementation']} {versions.pop('python', '')}"
            where = f"{machine['cpu']}, {machine['cores']} cores, {machine['kernel']}"
            listed = ", ".join([python, *(f"{key} {version}" for key, version in versions.items())])
            groups.setdefault((where, listed), []).append(name)
    for (where, listed), names in groups.items():
        yield ", ".join(names), f"{where}; {listed}"


def main() -> None:
    """Write the page of every result there is."""
    parser = argparse.ArgumentParser(description="one page with plots from the results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument("--out", type=Path, help="file to write (default: report.html in that folder)")
    arguments = parser.parse_args()
    names = ("aims", *(name for name, _, _ in SECTIONS))
    results = {name: result for name, result in results_in(arguments.results).items() if name in names}
    out = arguments.out or arguments.results / "report.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(render(results), encoding="utf-8")
    print(f"{out.name}: {len(results)} results")


if __name__ == "__main__":
    main()
