"""What do faults cost? `python -m benchmarks.resilience [--quick] [--rounds N] [--out FOLDER]`.

Routers under uvicorn over a mock engine with faults, and the parts of resilience in process. The run fails when a
retry storm outgrows its budget, or when an engine behind an open breaker is asked. See README.md for the method.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import resilience_report
from .child import new_loop
from .faults import (
    FIRST_TOKEN_S,
    FULL,
    QUICK,
    RATIO,
    RESERVE,
    Size,
    measure_hedging,
    measure_leaving,
    measure_refusals,
    measure_storm,
)
from .figures import RESULTS, assemble, commit, figure, save
from .layers import time_calls, time_operation
from .processes import cores, module, pinned
from .resilience_cases import PERMIT, calls, operations

REFUSAL_AIM_US = 5_000
PERMIT_AIM_US = 3
LEAVING_AIM_MS = 100


def measure_operations(size: Size) -> list[dict[str, Any]]:
    """Measure the parts of resilience in this process, interleaved over the rounds."""

    async def body() -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        synchronous, suspending = operations(), calls()
        for _ in range(2 * size.rounds + 1):
            for name, operation in synchronous.items():
                found.setdefault(name, []).append(time_operation(operation, size.operation_s))
            for name, call in suspending.items():
                found.setdefault(name, []).append(await time_calls(call, size.operation_s))
            gc.collect()
        return found

    with pinned(cores()[0]), asyncio.Runner(loop_factory=new_loop) as runner:
        times_us = runner.run(body())
    rows = []
    for name, values in times_us.items():
        label, _, base = name.partition(" - ")
        own = [v - b for v, b in zip(values, times_us[base], strict=True)] if base else values
        rows.append({"name": label, "minus": base or None, **figure(own, "us")})
    return rows


def aims(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Hold the figures to what was set out to be reached."""
    refusals = [r for r in content["refusals"] if r["state"] == "breaker open" and r["connections"] == 1]
    permits = [r for r in content["operations"] if r["name"].startswith(PERMIT)]
    return [
        *[_aim("503 breaker_open, one connection, p95", row["latency_p95"], REFUSAL_AIM_US) for row in refusals],
        *[_aim(row["name"], row, PERMIT_AIM_US) for row in permits],
        *[
            _aim(f"client gone to upstream closed, {r['when']}, p95", r["p95"], LEAVING_AIM_MS)
            for r in content["leaving"]
        ],
    ]


def _aim(name: str, measured: dict[str, Any], aim: float) -> dict[str, Any]:
    figures = {key: measured[key] for key in ("unit", "median", "low", "high", "n")}
    return {"name": name, **figures, "aim": aim, "met": measured["median"] <= aim}


def measure(size: Size, quick: bool) -> dict[str, Any]:
    """Measure everything and return the result."""
    revision, others = commit(), cores()[1]
    content: dict[str, Any] = {"operations": measure_operations(size)}
    with contextlib.ExitStack() as stack:
        load = stack.enter_context(module("load", core=others, serves=False))
        first, second = (stack.enter_context(module("faulty", core=others)) for _ in range(2))
        content["refusals"] = measure_refusals(load, first, second, size)
        content["storm"] = measure_storm(load, first, size)
        content["leaving"] = measure_leaving(first, size)
        content["hedging"] = measure_hedging(load, first, second, size)
    method = {
        "rounds": size.rounds,
        "pinned": cores()[0] is not None,
        "quick": quick,
        "budget": {"ratio": RATIO, "reserve": RESERVE},
        "first_token_ms": FIRST_TOKEN_S * 1000,
    }
    return assemble("resilience", revision, method, {}, aims=aims(content), **content)


def main() -> None:
    parser = argparse.ArgumentParser(description="what faults cost")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: shows that it runs")
    parser.add_argument("--rounds", type=int, default=0, help="how often all but the storm is measured (1 to 20)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through the `finally`s that stop the processes
    size = QUICK if arguments.quick else FULL
    if arguments.rounds:
        size = replace(size, rounds=min(max(arguments.rounds, 1), 20))
    result = measure(size, arguments.quick)
    save(result, arguments.out)
    print(resilience_report.resilience(result))
    if not all(row["holds"] for row in result["storm"]):
        sys.exit("the storm has outgrown its retry budget")


if __name__ == "__main__":
    main()
