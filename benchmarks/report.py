"""Results as Markdown: `python -m benchmarks.report` puts the tables into README.md, between its markers."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .figures import RESULTS
from .gate_report import gate_simulation
from .resilience_report import resilience
from .tables import measured_on, spread, table

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"

COLUMNS = (
    ("1 conn p50 us", "plain_1", "latency_p50"),
    ("1 conn added p50 us", "plain_1", "added_latency_p50"),
    ("32 conn CPU us/request", "plain_32", "cpu"),
    ("32 conn requests/s", "plain_32", "rate"),
    ("32 conn p95 us", "plain_32", "latency_p95"),
    ("first token p50 us", "first_token", "first_token_p50"),
    ("burst CPU us/chunk", "burst", "cpu"),
    ("20 ms pace CPU us/chunk", "paced", "cpu"),
    ("20 ms pace delay p50 us", "paced", "delay_p50"),
    ("20 ms pace delay p95 us", "paced", "delay_p95"),
)


def overhead(result: Mapping[str, Any]) -> str:
    """Return the tables of `overhead`."""
    parts = [measured_on(result), _variants(result), "Ratios, made inside each round:", _ratios(result)]
    parts += ["Memory and start:", _memory(result), _startup(result)]
    skipped = [f"{name}: {why}" for name, why in result["method"]["skipped"].items()]
    if skipped:
        parts.append("Not measured: " + "; ".join(skipped) + ".")
    return "\n\n".join(parts)


def layers(result: Mapping[str, Any]) -> str:
    """Return the tables of `layers`."""
    layer_rows = [[row["name"], spread(row), row["minus"] or ""] for row in result["layers"]]
    operation_rows = [[row["name"], spread(row)] for row in result["operations"]]
    return "\n\n".join(
        [
            measured_on(result),
            table(("layer", "us per request", "without the cost of"), layer_rows),
            table(("operation", "us"), operation_rows),
        ]
    )


def translation(result: Mapping[str, Any]) -> str:
    """Return the table of `translation`."""
    rows = [[row["name"], *[spread(row[way]) for way in ("ollama", "openai", "added")]] for row in result["operations"]]
    head = ("operation", "Ollama, translated: us", "passed through: us", "translation adds: us")
    return "\n\n".join([measured_on(result), table(head, rows)])


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


def _variants(result: Mapping[str, Any]) -> str:
    figures = {(f["variant"], f["scenario"], f["metric"]): f for f in result["figures"]}
    rows = []
    for variant, text in result["method"]["variants"].items():
        cells = [figures.get((variant, scenario, metric)) for _, scenario, metric in COLUMNS]
        rows.append([f"{variant}: {text}", *["-" if cell is None else spread(cell) for cell in cells]])
    return table(("variant", *[title for title, _, _ in COLUMNS]), rows)


def _ratios(result: Mapping[str, Any]) -> str:
    rows = []
    for row in result["ratios"]:
        aim = row.get("aim")
        verdict = "" if aim is None else f"<= {aim:g}: {'met' if row['met'] else 'not yet met'}"
        rows.append([row["name"], row["scenario"], spread(row), verdict])
    return table(("ratio", "scenario", "x", "aim (performance issue)"), rows)


def _memory(result: Mapping[str, Any]) -> str:
    rows = [
        [
            variant,
            spread(found["idle_mb"]),
            spread(found["per_stream_kb"]),
            f"{found['streams_open']} of {found['streams_asked']}",
        ]
        for variant, found in result["memory"].items()
    ]
    return table(("variant", "idle MB", "KB per open slow stream", "streams opened"), rows)


def _startup(result: Mapping[str, Any]) -> str:
    titles = {
        "first_answer_hello": "uvicorn hello-world: command to first answer",
        "first_answer_router": "router: command to first answer",
        "python": "bare Python: start to end",
        "import_package": "`import smartrouter_asgi`, on top of bare Python",
        "import_router": "`from smartrouter_asgi import SmartRouter, Settings`, on top of bare Python",
    }
    return table(("start", "ms"), [[titles[name], spread(found)] for name, found in result["startup"].items()])


SECTIONS = (
    ("overhead", "What the router adds", overhead),
    ("layers", "In process", layers),
    ("translation", "Translation", translation),
    ("resilience", "What faults cost", resilience),
    ("ollama_gate", "What the gate saves", ollama_gate),
    ("gate_simulation", "Sharing GPU memory", gate_simulation),
)


def main() -> None:
    """Put the tables of every result there is into the README."""
    parser = argparse.ArgumentParser(description="tables from the results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument("--readme", type=Path, default=README, help="file that has the markers")
    arguments = parser.parse_args()
    sections = []
    for name, title, render in SECTIONS:
        path = arguments.results / f"{name}.json"
        if path.exists():
            sections.append(f"### {title}\n\n{render(json.loads(path.read_text()))}")
    before, _, rest = arguments.readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    arguments.readme.write_text(before + BEGIN + "\n" + "\n\n".join(sections) + "\n" + END + after)
    print(f"{arguments.readme.name}: {len(sections)} sections")


if __name__ == "__main__":
    main()
