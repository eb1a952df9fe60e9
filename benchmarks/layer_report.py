"""The tables of what is measured in process: `layers`, `gate_operations`, `translation`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .tables import measured_on, spread, table


def layers(result: Mapping[str, Any]) -> str:
    """Return the tables of `layers`."""
    layer_rows = [[row["name"], spread(row), row["minus"] or ""] for row in result["layers"]]
    stack = [[row["name"], spread(row), spread(row["saved"]) if row["off"] else ""] for row in result["stack"]]
    return "\n\n".join(
        [
            measured_on(result),
            table(("layer", "us per request", "without the cost of"), layer_rows),
            "The layers around a stub backend, a lease for each request:",
            table(("stack", "us per request", "that saves"), stack),
            "Layers that do nothing, around an app that answers at once:",
            _depth(result),
            table(("operation", "us"), [[row["name"], spread(row)] for row in result["operations"]]),
        ]
    )


def _depth(result: Mapping[str, Any]) -> str:
    found = {(row["kind"], row["layers"]): row for row in result["depth"]}
    counts = sorted({n for _, n in found})
    kinds = list(dict.fromkeys(kind for kind, _ in found))
    rows = [[kind, *[spread(found[kind, n]) if (kind, n) in found else "-" for n in counts]] for kind in kinds]
    return table(("us per request, layers:", *map(str, counts)), rows)


def gate_operations(result: Mapping[str, Any]) -> str:
    """Return the table of `gate_operations`."""
    rows = [[row["name"], spread(row)] for row in result["operations"]]
    return "\n\n".join([measured_on(result), table(("operation", "us"), rows)])


def translation(result: Mapping[str, Any]) -> str:
    """Return the table of `translation`."""
    rows = [[row["name"], *[spread(row[way]) for way in ("ollama", "openai", "added")]] for row in result["operations"]]
    head = ("operation", "Ollama, translated: us", "passed through: us", "translation adds: us")
    return "\n\n".join([measured_on(result), table(head, rows)])
