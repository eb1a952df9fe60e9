"""What the gateway is to reach, in one place, and whether the results say it does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .figures import figure, is_quick
from .tables import number, spread, table

Result = Mapping[str, Any]
Figure = Mapping[str, Any]
Read = Callable[[Result], Figure | None]

ROUTER = "router"
FIGURE = ("unit", "median", "low", "high", "n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """A bound on one figure of one result."""

    id: str
    name: str
    result: str
    read: Read
    aim: float
    way: Literal["<=", ">="] = "<="
    worst: float | None = None
    """What is still tolerable; None: nothing else."""

    def verdict(self, value: float) -> str:
        """Say what a value comes to."""
        if self._reaches(value, self.aim):
            return "met"
        if self.worst is not None and self._reaches(value, self.worst):
            return "at worst met"
        return "not met"

    def _reaches(self, value: float, bound: float) -> bool:
        return value <= bound if self.way == "<=" else value >= bound


def _ratio(name: str) -> Read:
    return lambda result: _first(result["ratios"], id=name)


def _figure(**labels: Any) -> Read:
    return lambda result: _first(result["figures"], **labels)


def _grown(kind: str) -> Read:
    """How much memory grew over the second half of a series: the first half warms up. Half a series says nothing."""

    def read(result: Result) -> Figure | None:
        series = _first(result["series"], variant=ROUTER, kind=kind)
        if series is None or series["points"][-1]["count"] < series.get("asked", 0):
            return None
        half = series["points"][len(series["points"]) // 2 :]
        grown_mb = series["rise_kb_per_thousand"] * (half[-1]["count"] - half[0]["count"]) / 1e6
        return {**figure([grown_mb], "MB"), "count": series["points"][-1]["count"]}

    return read


def _first(rows: Any, **labels: Any) -> Figure | None:
    return next((row for row in rows if all(row.get(key) == value for key, value in labels.items())), None)


AIMS = (
    Aim(
        id="cpu_hello",
        name="CPU per request, 32 connections, against uvicorn hello-world",
        result="overhead",
        read=_ratio("cpu_plain_32_router_hello"),
        aim=2.5,
        worst=3,
    ),
    Aim(
        id="cpu_nginx",
        name="CPU per request, 32 connections, against nginx",
        result="overhead",
        read=_ratio("cpu_plain_32_router_nginx"),
        aim=6,
    ),
    Aim(
        id="cpu_litellm",
        name="CPU per request, 32 connections, against LiteLLM",
        result="overhead",
        read=_ratio("cpu_plain_32_router_litellm"),
        aim=1 / 65,
    ),
    Aim(
        id="added_latency",
        name="added latency p50, one connection, against nginx",
        result="overhead",
        read=_ratio("added_plain_1_router_nginx"),
        aim=1.25,
        worst=1.4,
    ),
    Aim(
        id="rate",
        name="requests/s, one core, against uvicorn hello-world",
        result="overhead",
        read=_ratio("rate_plain_32_router_hello"),
        way=">=",
        aim=0.7,
    ),
    Aim(
        id="cpu_paced",
        name="CPU per streamed chunk, 20 ms pace, against uvicorn's own",
        result="streaming",
        read=_ratio("cpu_paced_router_hello"),
        aim=2,
        worst=2.5,
    ),
    Aim(
        id="cpu_burst",
        name="CPU per streamed chunk, burst",
        result="streaming",
        read=_figure(scenario="burst", variant=ROUTER, metric="cpu"),
        aim=5,
    ),
    Aim(
        id="first_token",
        name="added time to first token p50, against nginx",
        result="streaming",
        read=_ratio("added_first_token_router_nginx"),
        aim=1.25,
    ),
    Aim(
        id="chunk_delay",
        name="per-chunk latency p50, against nginx",
        result="streaming",
        read=_ratio("delay_paced_router_nginx"),
        aim=1.2,
    ),
    Aim(
        id="idle",
        name="memory, idle with server",
        result="memory",
        read=_figure(variant=ROUTER, metric="idle"),
        aim=70,
    ),
    Aim(
        id="per_stream",
        name="memory per open slow stream",
        result="memory",
        read=_figure(variant=ROUTER, metric="per_stream"),
        aim=20,
    ),
    Aim(
        id="flat_requests",
        name="memory grown over the second half of the requests",
        result="memory",
        read=_grown("requests"),
        aim=1,
    ),
    Aim(
        id="flat_disconnects",
        name="memory grown over the second half of the disconnects",
        result="memory",
        read=_grown("disconnects"),
        aim=1,
    ),
    Aim(
        id="import",
        name="import of the router and its settings",
        result="startup",
        read=_figure(what="import_router"),
        aim=300,
    ),
    Aim(
        id="first_answer",
        name="`serve`: command to first answer",
        result="startup",
        read=_figure(what="first_answer_serve"),
        aim=1000,
    ),
    Aim(
        id="body",
        name="CPU added by a body of 1 MB",
        result="body_size",
        read=_figure(variant=ROUTER, body_bytes=1_000_000, metric="added_cpu"),
        aim=3000,
    ),
)


def verdicts(results: Mapping[str, Result]) -> list[dict[str, Any]]:
    """Hold the results to every aim; a quick run measures none."""
    rows = []
    for aim in AIMS:
        row = {"id": aim.id, "name": aim.name, "result": aim.result, "way": aim.way, "aim": aim.aim, "worst": aim.worst}
        result = results.get(aim.result)
        found = None if result is None or is_quick(result) else aim.read(result)
        if found is None or result is None:
            rows.append({**row, "verdict": "not measured"})
            continue
        said = {key: found[key] for key in (*FIGURE, "count") if key in found}
        measured = {"commit": result["commit"], "measured_at": result["measured_at"]}
        rows.append({**row, **said, **measured, "verdict": aim.verdict(found["median"])})
    return rows


def save_verdicts(results: Mapping[str, Result], folder: Path) -> list[dict[str, Any]]:
    """Write `aims.json` beside the results and return its rows."""
    rows = verdicts(results)
    newest = max((row["measured_at"] for row in rows if "measured_at" in row), default=None)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "aims.json").write_text(
        json.dumps({"name": "aims", "measured_at": newest, "aims": rows}, indent=1) + "\n"
    )
    return rows


def aims_table(rows: list[dict[str, Any]]) -> str:
    """Return the verdicts as a table; what is from an older run than the newest says so."""
    shown = []
    newest = max(((row["measured_at"], row["commit"]) for row in rows if "median" in row), default=("", ""))
    for row in rows:
        unit = row.get("unit", "")
        value = "-" if "median" not in row else f"{spread(row)}{' x' if unit == 'x' else f' {unit}'}"
        if "count" in row:
            value += f", {row['count']:,} in all"
        old = "median" in row and row["commit"] != newest[1]
        when = f" ({row['measured_at'][:10]}, commit {row['commit']})" if old else ""
        shown.append([row["name"], value, f"{row['way']} {_bound(row)}", row["verdict"] + when])
    return table(("measure", "measured", "aim", ""), shown)


def _bound(row: Mapping[str, Any]) -> str:
    aim = "1/65" if row["id"] == "cpu_litellm" else f"{row['aim']:,g}"
    return aim if row["worst"] is None else f"{aim}, at worst {number(row['worst'])}"
