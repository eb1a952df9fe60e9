"""Results as Markdown: `python -m benchmarks.report` puts tables into this folder's README.md and the one above.

Both have markers for it; `aims.json` is written beside the results.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .aims import aims_table, save_verdicts
from .figures import RESULTS, ROOT, results_in
from .gate_report import gate_simulation, ollama_gate
from .questions import QUESTIONS
from .resilience_report import resilience
from .summary import summary

README, TOP_README = Path(__file__).parent / "README.md", ROOT / "README.md"
RESULTS_MARKERS = ("<!-- results: begin -->", "<!-- results: end -->")
BENCH_MARKERS = ("<!-- bench: begin -->", "<!-- bench: end -->")


TITLES = {
    "overhead": "What the router adds to a request",
    "streaming": "What the router adds to a stream",
    "layers": "In process",
    "scale": "Connections, streams, workers",
    "open_loop": "At a rate of the clients' own",
    "memory": "Memory",
    "startup": "Start",
    "body_size": "Large requests",
    "translation": "Translation",
    "gate_operations": "Gate and scheduler",
}
SECTIONS: tuple[tuple[str, str, Callable[[dict[str, Any]], str]], ...] = (
    *((question.name, TITLES[question.name], question.render) for question in QUESTIONS),
    ("resilience", "What faults cost", resilience),
    ("ollama_gate", "What the gate saves", ollama_gate),
    ("gate_simulation", "Sharing GPU memory", gate_simulation),
)


def readable(results: Mapping[str, dict[str, Any]]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return the results that have the shape of today, and their tables; what has another one is left out and named."""
    found, rendered = dict(results), {}
    for name, _, render in SECTIONS:
        if name in results:
            try:
                rendered[name] = render(results[name])
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                del found[name]
                print(f"{name}.json is left out, it has another shape: measure it anew ({error!r})", file=sys.stderr)
    return found, rendered


def between(text: str, markers: tuple[str, str], content: str) -> str:
    """Put content between two markers of a text. Raises `ValueError` when it has not exactly one of each."""
    begin, end = markers
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{begin} and {end} are not there exactly once")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n{content}\n{end}{rest.partition(end)[2]}"


def main() -> None:
    """Put the tables of every result there is into both files."""
    parser = argparse.ArgumentParser(description="tables from the results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument("--readme", type=Path, default=README, help="file that has the markers for all tables")
    parser.add_argument("--top-readme", type=Path, help="file that has those for the short one, if there is one")
    arguments = parser.parse_args()
    results, rendered = readable(results_in(arguments.results))
    verdicts = save_verdicts(results, arguments.results)
    sections = [f"### {title}\n\n{rendered[name]}" for name, title, _ in SECTIONS if name in rendered]
    sections.insert(0, f"### What was to be reached\n\n{aims_table(verdicts)}")
    short = summary(results)
    top = TOP_README if arguments.readme == README else None  # tables for elsewhere leave this folder's alone
    for path, markers, content in (
        (arguments.readme, RESULTS_MARKERS, "\n\n".join(sections)),
        (arguments.top_readme or top, BENCH_MARKERS, short),
    ):
        if path is not None:
            path.write_text(between(path.read_text(), markers, content))
    print(f"{len(sections)} sections in {arguments.readme.name}, {len(short.splitlines())} lines in the one above")


if __name__ == "__main__":
    main()
