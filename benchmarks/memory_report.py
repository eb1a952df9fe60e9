"""The tables of `memory` and `startup`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .tables import measured_on, number, spread, table

_STARTS = {
    "first_answer_hello": "uvicorn hello-world: command to first answer",
    "first_answer_router": "the router under uvicorn: command to first answer",
    "first_answer_serve": "`smartrouter-asgi serve`: command to first answer",
    "first_answer_litellm": "the LiteLLM proxy: command to first answer",
    "python": "bare Python: start to end",
    "import_package": "`import smartrouter_asgi`, on top of bare Python",
    "import_router": "`from smartrouter_asgi import SmartRouter, Settings`, on top of bare Python",
}


def memory(result: Mapping[str, Any]) -> str:
    """Return the tables of `memory`."""
    found = {(row["variant"], row["metric"]): row for row in result["figures"]}
    rows = []
    for variant in result["method"]["variants"]:
        streams = found.get((variant, "per_stream"))
        per_stream = (spread(streams), f"{streams['streams_open']:,}") if streams else ("-", "-")
        rows.append([variant, spread(found[variant, "idle"]), *per_stream])
    growth = [
        [
            f"{row['variant']}, {row['points'][-1]['count']:,} {row['kind']}",
            *[f"{row['points'][at]['rss_mb']:.1f}" for at in (0, len(row["points"]) // 2, -1)],
            number(row["rise_kb_per_thousand"]),
        ]
        for row in result["series"]
    ]
    return "\n\n".join(
        [
            measured_on(result),
            table(("variant", "idle MB", "KB per open slow stream", "streams opened"), rows),
            table(("over", "MB at first", "half way", "at the end", "KB per 1,000 in the second half"), growth),
            *[f"Not measured: {label}: {why}." for label, why in result["method"]["left_out"].items()],
        ]
    )


def startup(result: Mapping[str, Any]) -> str:
    """Return the table of `startup`."""
    rows = [[_STARTS[row["what"]], spread(row)] for row in result["figures"]]
    return "\n\n".join([measured_on(result), table(("start", "ms"), rows)])
