"""How does it scale? `python -m benchmarks.scale [--quick] [--rounds N] [--peers] [--out FOLDER]`.

Requests a second and times over the number of connections, times to the first token over the number of streams, and
what more workers of `smartrouter-asgi serve` give.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from . import load_report
from .progress import Progress
from .question import Options, Question, ask, loaded_result
from .rows import figure_rows, quantile_rows
from .served import served
from .variants import MAY_FAIL, Rig, rig
from .windows import Window, Windows

NAMES = ["direct", "nginx", "hello", "openai_endpoint", "litellm", "router", "router_httpx"]
CONNECTIONS, STREAMS, WORKERS = (1, 8, 32, 128, 512, 1000), (1, 8, 32, 128, 512), (1, 2, 4)
WORKER_CONNECTIONS = 128
MOST = {"router_httpx": 128}
"""Beyond it httpx takes tens of seconds to answer each connection once: it looks at all it has on each request."""
Case = tuple[str, str, int, int]
"""Scenario, variant, workers, connections."""


def measure(options: Options) -> dict[str, Any]:
    """Measure and return the result."""
    quick = options.quick
    rounds, seconds = options.rounds_or(2), 0.15 if quick else 0.5
    connections, streams, workers = ((1, 32), (1, 8), (1, 2)) if quick else (CONNECTIONS, STREAMS, WORKERS)
    with rig(NAMES, peers=options.peers, quick=quick) as running, contextlib.ExitStack() as stack:
        windows, seen = Windows(running.load), dict[Case, list[Window]]()
        served_by = {n: stack.enter_context(served(running.engine, workers=n)) for n in workers}
        jobs = dict(_jobs(running, connections, streams, seconds))
        for n, child in served_by.items():
            job = {"port": child.port, "pid": child.pid, "connections": 8 if quick else WORKER_CONNECTIONS}
            jobs["plain", "serve", n, job["connections"]] = job | _times(running, seconds)
        progress = Progress(QUESTION.name, rounds * len(jobs))
        for number in range(rounds):
            for case, job in jobs.items():
                scenario, variant, n, at = case
                progress.step(f"round {number + 1} of {rounds}, {scenario}, {variant}, {at} connections")
                take = windows.measure_peer if variant in MAY_FAIL else windows.measure
                found = take(f"{variant}, {scenario}, {at} connections, {n} worker(s)", job)
                if found is None:
                    seen.pop(case, None)
                else:
                    seen.setdefault(case, []).append(found)
        progress.end()
        method = {"connections": connections, "streams": streams, "workers": workers, "note": _note()}
        return loaded_result(QUESTION.name, options, running, windows, rounds=rounds, method=method, **_rows(seen))


def _jobs(
    running: Rig, connections: tuple[int, ...], streams: tuple[int, ...], seconds: float
) -> Iterator[tuple[Case, dict[str, Any]]]:
    for scenario, counts, chunks in (("plain", connections, 0), ("first_token", streams, 8)):
        for at in counts:
            for variant, child in running.servers.items():
                if at > MOST.get(variant, at):
                    continue
                job = {"port": child.port, "pid": child.pid, "connections": at, "chunks": chunks}
                yield (scenario, variant, 1, at), job | _times(running, seconds)


def _times(running: Rig, seconds: float) -> dict[str, Any]:
    return {"engine_pid": running.engine.pid, "seconds": seconds, "warmup_s": seconds / 2}


def _rows(seen: dict[Case, list[Window]]) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {"figures": [], "quantiles": []}
    for (scenario, variant, workers, connections), windows in seen.items():
        labels = {"scenario": scenario, "variant": variant, "workers": workers, "connections": connections}
        series = ("latency",) if scenario == "plain" else ("first_token",)
        rows["figures"] += figure_rows(labels, windows, series=series)
        rows["quantiles"] += quantile_rows(labels, windows, series=series)
    return rows


def _note() -> str:
    """Say what the machine allows to conclude."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    text = f"{cores} core(s): one worker has one to itself, engine and load generator share another"
    if cores < 4:
        return f"{text}. Several workers compete with them for it: what more of them give cannot be seen here."
    return f"{text}; several workers take what is free of the rest."


QUESTION = Question(
    name="scale",
    asks="how it scales with connections, streams and workers",
    takes_s=105,
    measure=measure,
    render=load_report.scale,
    peers=True,
)

if __name__ == "__main__":
    ask(QUESTION)
