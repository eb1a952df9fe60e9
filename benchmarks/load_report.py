"""The tables of the questions that are asked with load."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .tables import measured_on, spread, table

Columns = Sequence[tuple[str, str, str]]
"""Title, scenario, metric."""

OVERHEAD: Columns = (
    ("1 conn p50 us", "plain_1", "latency_p50"),
    ("1 conn added p50 us", "plain_1", "added_latency_p50"),
    ("32 conn CPU us/request", "plain_32", "cpu"),
    ("32 conn requests/s", "plain_32", "rate"),
    ("32 conn p95 us", "plain_32", "latency_p95"),
    ("engine and load, cores", "plain_32", "rig_busy"),
)
STREAMING: Columns = (
    ("first token p50 us", "first_token", "first_token_p50"),
    ("added p50 us", "first_token", "added_first_token_p50"),
    ("burst CPU us/chunk", "burst", "cpu"),
    ("20 ms pace CPU us/chunk", "paced", "cpu"),
    ("20 ms pace delay p50 us", "paced", "delay_p50"),
    ("20 ms pace delay p95 us", "paced", "delay_p95"),
    ("jitter p95 us", "paced", "jitter_p95"),
)


def overhead(result: Mapping[str, Any]) -> str:
    """Return the tables of `overhead`."""
    return _by_scenario(result, OVERHEAD)


def streaming(result: Mapping[str, Any]) -> str:
    """Return the tables of `streaming`."""
    return _by_scenario(result, STREAMING)


def scale(result: Mapping[str, Any]) -> str:
    """Return the tables of `scale`: requests a second and times over connections, then over workers."""
    parts = [measured_on(result), result["method"]["note"]]
    for title, scenario, metric in (
        ("Requests/s", "plain", "rate"),
        ("p50 ms", "plain", "latency_p50"),
        ("First token p50 ms", "first_token", "first_token_p50"),
    ):
        found = {
            (r["variant"], r["connections"]): r
            for r in result["figures"]
            if r["scenario"] == scenario and r["metric"] == metric and r["variant"] != "serve"
        }
        shown = sorted({at for _, at in found})
        rows = [
            [variant, *[_cell(found.get((variant, n)), metric) for n in shown]]
            for variant in dict.fromkeys(variant for variant, _ in found)
        ]
        parts.append(table((f"{title}, connections:", *map(str, shown)), rows))
    workers = [r for r in result["figures"] if r["variant"] == "serve"]
    by_metric = {(r["workers"], r["metric"]): r for r in workers}
    rows = [
        [str(n), *[spread(by_metric[n, metric]) for metric in ("rate", "cpu", "busy", "latency_p50")]]
        for n in sorted({r["workers"] for r in workers})
    ]
    if rows:
        parts.append(table(("`serve --workers`", "requests/s", "CPU us/request", "cores used", "p50 us"), rows))
    return "\n\n".join(parts + _not_measured(result))


def _cell(row: Mapping[str, Any] | None, metric: str) -> str:
    if row is None:
        return "-"
    if metric == "rate":
        return spread(row)
    return spread({**row, **{key: row[key] / 1000 for key in ("median", "low", "high")}})


def open_loop(result: Mapping[str, Any]) -> str:
    """Return the table of `open_loop`."""
    rows = [
        [
            point["variant"],
            f"{point['rate']:,}",
            spread(point["done"]) + (", does not keep up" if point["saturated"] else ""),
            *[spread(point[name]) for name in ("latency_p50", "latency_p95", "latency_p99", "cpu", "lateness_p99")],
        ]
        for point in result["points"]
    ]
    head = (
        "variant",
        "asked/s",
        "answered/s",
        "p50 us",
        "p95 us",
        "p99 us",
        "CPU us/request",
        "p99 us of the generator itself",
    )
    return "\n\n".join([measured_on(result), table(head, rows), *_not_measured(result)])


def body_size(result: Mapping[str, Any]) -> str:
    """Return the table of `body_size`."""
    found = {(r["variant"], r["body_bytes"], r["metric"]): r for r in result["figures"]}
    rows = [
        [
            variant,
            f"{size // 1000:,}",
            *[
                spread(row) if (row := found.get((variant, size, metric))) else "-"
                for metric in ("cpu", "added_cpu", "latency_p50", "added_latency_p50")
            ],
        ]
        for variant, size in dict.fromkeys((variant, size) for variant, size, _ in found)
    ]
    head = ("variant", "body KB", "CPU us/request", "over 1 KB", "p50 us", "over 1 KB ")
    return "\n\n".join([measured_on(result), table(head, rows), *_not_measured(result)])


def _by_scenario(result: Mapping[str, Any], columns: Columns) -> str:
    figures = {(f["variant"], f["scenario"], f["metric"]): f for f in result["figures"]}
    rows = []
    for variant, text in result["method"]["variants"].items():
        cells = [figures.get((variant, scenario, metric)) for _, scenario, metric in columns]
        rows.append([f"{variant}: {text}", *["-" if cell is None else spread(cell) for cell in cells]])
    parts = [
        measured_on(result),
        table(("variant", *[title for title, _, _ in columns]), rows),
        "Ratios, made inside each round:",
        ratio_table(result["ratios"], rounds=result["method"]["rounds"]),
    ]
    return "\n\n".join(parts + _not_measured(result))


def ratio_table(ratios: Iterable[Mapping[str, Any]], *, rounds: int) -> str:
    """Return ratios as a table. A round in which one of both added nothing has none, which is said."""
    return table(
        ("ratio", "scenario", "x"),
        [
            [
                row["name"],
                row["scenario"],
                spread(row) + (f", in {row['n']} of {rounds} rounds" if row["n"] < rounds else ""),
            ]
            for row in ratios
        ],
    )


def _not_measured(result: Mapping[str, Any]) -> list[str]:
    """Say what was left out, and how many windows were void."""
    method, voided = result["method"], result["voided"]
    why = [f"{name}: {text}" for name, text in {**method["skipped"], **method["left_out"]}.items()]
    parts = ["Not measured: " + "; ".join(why) + "."] if why else []
    if voided["windows"]:
        parts.append(f"Void and measured again: {voided['windows']} of {voided['of']} windows.")
    return parts
