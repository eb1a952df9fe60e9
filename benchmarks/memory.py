"""What does it hold in memory? `python -m benchmarks.memory [--quick] [--rounds N] [--peers] [--out FOLDER]`.

Idle; with a thousand slow streams open; over 200,000 requests and 20,000 clients that leave in the middle of a stream,
as a series. Each variant is a process of its own that has just been started.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import memory_report
from .figures import assemble, commit, compile_package, figure
from .peers import peer_versions
from .processes import Child, cores
from .progress import Progress
from .question import Options, Question, ask
from .usage import rss_bytes, tree
from .variants import MAY_FAIL, VARIANTS, chosen, engine_and_load, started
from .windows import VoidError, Windows

NAMES = ["nginx", "hello", "proxy", "openai_endpoint", "litellm", "router", "router_direct", "router_httpx"]
SERIES = ("router",)
"""Of these the growth is followed."""
PACE_MS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much of everything is done."""

    streams: int = 1000
    requests: int = 200_000
    disconnects: int = 20_000
    """What grows after the first 10,000 is looked at: until then the cycle collector may not have come by."""
    points: int = 40
    series_s: float = 240.0
    """A series ends after so long, however far it has come."""


QUICK = Size(streams=8, requests=400, disconnects=40, points=4, series_s=5.0)


def measure(options: Options) -> dict[str, Any]:
    """Measure and return the result."""
    size, rounds, revision = QUICK if options.quick else Size(), options.rounds_or(1), commit()
    measured, skipped = chosen(NAMES, peers=options.peers, quick=options.quick)
    compile_package()  # a process that compiles has more resident than one that does not
    idle: dict[str, list[float]] = {}
    streams: dict[str, list[tuple[float, int]]] = {}
    series: list[dict[str, Any]] = []
    with engine_and_load() as (engine, load):
        windows = Windows(load, engine_pid=engine.pid)
        progress = Progress(QUESTION.name, rounds * len(measured) + 2 * len(SERIES) * size.points)
        for _ in range(rounds):
            for name in measured:
                progress.step(f"{name}, {size.streams} streams")
                with started(name, engine) as child:
                    at_rest = _served_a_while(child, windows, quick=options.quick)
                    idle.setdefault(name, []).append(at_rest / 1e6)
                    streams.setdefault(name, []).append(_with_streams(name, child, windows, at_rest, size.streams))
        for name in SERIES:
            with started(name, engine) as child:
                series.append(_growth(name, "requests", child, windows, progress, size, size.requests))
                series.append(_growth(name, "disconnects", child, windows, progress, size, size.disconnects))
        progress.end()
    method = {
        "rounds": rounds,
        "quick": options.quick,
        "pinned": cores()[0] is not None,
        "variants": {name: VARIANTS[name] for name in measured},
        "skipped": skipped,
        "left_out": windows.left_out,
    }
    return assemble(
        QUESTION.name,
        revision,
        method,
        peer_versions(measured),
        voided=windows.account(),
        noise=windows.noise(),
        figures=[*_idle_rows(idle), *_stream_rows(streams, size.streams)],
        series=series,
    )


def _served_a_while(child: Child, windows: Windows, *, quick: bool) -> int:
    """Serve plain requests for a moment and return what is resident then."""
    job = {"port": child.port, "pid": child.pid, "connections": 1, "warmup_s": 0, "seconds": 0.1 if quick else 0.5}
    windows.measure("plain requests before the memory is read", job)
    return rss_bytes(tree(child.pid))


def _with_streams(name: str, child: Child, windows: Windows, idle: int, asked: int) -> tuple[float, int]:
    """Hold streams open and return the KB that each takes, and how many were."""
    job = {
        "port": child.port,
        "pid": child.pid,
        "connections": asked,
        "chunks": 100,
        "pace_ms": PACE_MS,
        "hold": True,
        "warmup_s": 0,
        "seconds": 1.0 if asked > 100 else 0.1,
        "least": 1,
    }
    label = f"{name}, {asked} streams"
    found = windows.measure_peer(label, job) if name in MAY_FAIL else windows.measure(label, job)
    return (0.0, 0) if found is None else (max(0.0, found["rss_bytes"] - idle) / asked / 1e3, found["streams"])


def _growth(
    name: str, kind: str, child: Child, windows: Windows, progress: Progress, size: Size, total: int
) -> dict[str, Any]:
    """Do the same thing over and over, and note what is resident after each part of it."""
    part, began, count = max(1, total // size.points), time.monotonic(), 0
    job: dict[str, Any] = {"port": child.port, "pid": child.pid, "connections": 32, "warmup_s": 0, "seconds": 60.0}
    job |= {"requests": part} if kind == "requests" else {"leave": part, "chunks": 200, "pace_ms": 20}
    points = []
    while count < total and time.monotonic() - began < size.series_s:
        progress.step(f"{name}, {count:,} of {total:,} {kind}")
        found = windows.measure(f"{name}, {kind}", job)
        count += found["requests"] if kind == "requests" else part
        seconds = time.monotonic() - began
        points.append({"count": count, "seconds": round(seconds, 2), "rss_mb": round(found["rss_bytes"] / 1e6, 2)})
    if not points:
        raise VoidError(f"{name}: not one part of the {kind} was done")
    return {"variant": name, "kind": kind, "asked": total, "points": points, "rise_kb_per_thousand": rise(points)}


def rise(points: Sequence[dict[str, Any]]) -> float:
    """Return by how many KB the memory grows for a thousand more; fitted over the second half, when all is warm."""
    half = points[len(points) // 2 :]
    if len(half) < 2:
        return 0.0
    slope, _ = statistics.linear_regression([p["count"] for p in half], [p["rss_mb"] for p in half])
    return float(f"{slope * 1e6:.4g}")


def _idle_rows(idle: dict[str, list[float]]) -> list[dict[str, Any]]:
    return [{"variant": name, "metric": "idle", **figure(values, "MB")} for name, values in idle.items()]


def _stream_rows(streams: dict[str, list[tuple[float, int]]], asked: int) -> list[dict[str, Any]]:
    rows = []
    for name, found in streams.items():
        opened = [(kb, n) for kb, n in found if n]
        if opened:
            row = {"variant": name, "metric": "per_stream", **figure([kb for kb, _ in opened], "KB")}
            rows.append({**row, "streams_open": min(n for _, n in opened), "streams_asked": asked})
    return rows


QUESTION = Question(
    name="memory",
    asks="what it holds in memory",
    takes_s=100,
    measure=measure,
    render=memory_report.memory,
    peers=True,
)

if __name__ == "__main__":
    ask(QUESTION)
