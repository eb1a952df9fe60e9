"""Sections of the HTML report on what is inside: aims, layers, memory, start, translation, the gate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from smartrouter_asgi.bench.page import table
from smartrouter_asgi.bench.plots import Axis, Plot, Series, figure

from .html_drawn import Result, bars, by_variant, colour, lines
from .tables import number, spread

KINDS = {"met": "good", "at worst met": "fair", "not met": "bad"}
STARTS = {
    "first_answer_hello": "uvicorn hello-world: command to first answer",
    "first_answer_router": "router: command to first answer",
    "first_answer_serve": "smartrouter-asgi serve: command to first answer",
    "first_answer_litellm": "LiteLLM proxy: command to first answer",
    "python": "bare Python: start to end",
    "import_package": "import smartrouter_asgi, on top of bare Python",
    "import_router": "import of SmartRouter and Settings, on top of bare Python",
}
MOST_ROWS = 24


def aims(results: Mapping[str, Result]) -> str:
    """Return the table of aims; an older file has them beside the ratios."""
    rows: list[tuple[str, str, str, tuple[str, str]]] = []
    for row in results.get("aims", {}).get("aims", []):
        verdict = row["verdict"]
        worst = "" if row.get("worst") is None else f", at worst {_bound(row['worst'])}"
        measured = f"{spread(row)} {_unit(row)}".strip() if "median" in row else "-"
        rows.append(
            (
                row["name"].replace("`", ""),
                f"{row['way']} {_bound(row['aim'])}{worst}",
                measured,
                (verdict, KINDS.get(verdict, "")),
            )
        )
    if not rows:
        for row in results.get("overhead", {}).get("ratios", []):
            if row.get("aim") is not None:
                verdict = "met" if row["met"] else "not met"
                rows.append((row["name"], f"<= {row['aim']:g}", f"{spread(row)} x", (verdict, KINDS[verdict])))
    if not rows:
        return ""
    return table(("measure", "aim", "measured: median (lowest to highest)", ""), rows, texts=4)


def layers(result: Result) -> Iterator[str]:
    """Draw what each layer costs by itself, in the stack, and many of them."""
    alone = [
        (f"{row['name']} (without {row['minus']})" if row["minus"] else row["name"], row, 1 if row["minus"] else 8)
        for row in result["layers"]
    ]
    yield bars("Layer by layer", alone[:MOST_ROWS], note="CPU time of a request in process, without sockets.")
    saved = [(f"without {', '.join(row['off'])}", row["saved"], 3) for row in result.get("stack", []) if row["off"]]
    yield bars("The whole stack, less some layers", saved, note="What is saved by leaving them out.")
    depth = result.get("depth", [])
    yield lines(
        depth,
        "More and more layers around an app",
        by="kind",
        over="layers",
        x=Axis(label="layers"),
        y="us a request",
    )
    yield bars(
        "Operations of the hot path", [(row["name"], row, 4) for row in result.get("operations", [])][:MOST_ROWS]
    )


def gate_operations(result: Result) -> Iterator[str]:
    """Draw what the gate's own operations cost."""
    yield bars("Operations of the gate", [(row["name"], row, 4) for row in result["operations"]][:MOST_ROWS])


def memory(result: Result) -> Iterator[str]:
    """Draw memory over the number of requests and disconnects, and what it starts from."""
    for kind, label in (("requests", "requests"), ("disconnects", "clients that left")):
        rows = [row for row in result.get("series", []) if row["kind"] == kind]
        rises = ", ".join(f"{row['variant']} {number(row['rise_kb_per_thousand'])}" for row in rows)
        yield figure(
            Plot(
                title=f"Memory over {label}",
                x=Axis(label=label, zero=True),
                y=Axis(label="MB resident", zero=True),
                series=[
                    Series(
                        name=row["variant"],
                        points=[(point["count"], point["rss_mb"]) for point in row["points"]],
                        colour=colour(row["variant"]),
                    )
                    for row in rows
                ],
                note=f"Rise over the second half, KB per thousand: {rises}." if rises else "",
            )
        )
    yield by_variant(result, "Memory when idle", metric="idle")
    yield by_variant(result, "Memory of an open slow stream", metric="per_stream")


def startup(result: Result) -> Iterator[str]:
    """Draw how long a start takes."""
    rows = [(STARTS.get(row["what"], row["what"]), row, 1) for row in result["figures"]]
    yield bars("Cold start", rows, note="Bytecode is cached.")


def translation(result: Result) -> Iterator[str]:
    """Draw what translating for Ollama adds."""
    rows = [(row["name"], row["added"], 1) for row in result["operations"]]
    yield bars("What translating for Ollama adds", rows, note="Against passing the same bytes on.")


def ollama_gate(result: Result) -> Iterator[str]:
    """Draw what the gate saves."""
    for metric, title in (("wait_mean", "Mean wait"), ("loads", "Loads of models")):
        rows = [
            (f"{row['models']} models, {row['way']}", row[metric], 8 if "straight" in row["way"] else 1)
            for row in result["runs"]
        ]
        yield bars(f"{title}, more models than fit", rows)


def _bound(value: float) -> str:
    return f"1/{1 / value:.0f}" if 0 < value < 0.1 else f"{value:,g}"


def _unit(row: Mapping[str, object]) -> str:
    return str(row.get("unit", ""))
