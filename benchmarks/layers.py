"""What does each layer cost, in process? `python -m benchmarks.layers [--quick] [--out FOLDER]`.

`alone` is a layer as a user would mount it by itself: it also reads the body, watches for the client leaving and gives
a request id. `inside` is what it adds within the stack, where the outermost layer has done that already. The inner app
answers at once after having suspended once, as every real one does; its own cost is taken off. Times are CPU time of
the thread, which neighbours on a shared machine disturb less than they disturb a clock on the wall.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import report
from .child import new_loop
from .figures import RESULTS, assemble, commit, figure, save
from .layer_cases import Call, layer_cases
from .operations import operations
from .processes import cores, pinned


async def time_calls(call: Call, seconds: float) -> float:
    """Return the microseconds of one call: each in a task of its own, as a server runs it."""
    loop, count, spent = asyncio.get_running_loop(), 0, 0.0
    while spent < seconds:
        began = time.thread_time()
        for _ in range(50):
            await loop.create_task(call())
        spent += time.thread_time() - began
        count += 50
    return spent / count * 1e6


def time_operation(operation: Callable[[], object], seconds: float) -> float:
    """Return the microseconds of one synchronous operation, the loop around it included (about 0.03)."""
    number, clock = 1, time.thread_time
    while True:
        began = clock()
        for _ in range(number):
            operation()
        spent = clock() - began
        if spent >= seconds:
            return spent / number * 1e6
        number = max(number * 2, int(number * seconds / max(spent, 1e-9) * 1.05))


async def measure(rounds: int, seconds: float) -> dict[str, Any]:
    """Measure every layer and operation, interleaved over the rounds."""
    cases, closers = await layer_cases()
    operation_cases = operations()
    layer_us: dict[str, list[float]] = {name: [] for name in cases}
    operation_us: dict[str, list[float]] = {name: [] for name in operation_cases}
    for call in cases.values():
        await time_calls(call, seconds / 5)
    for _ in range(rounds):
        for name, call in cases.items():
            layer_us[name].append(await time_calls(call, seconds))
        for name, operation in operation_cases.items():
            operation_us[name].append(time_operation(operation, seconds / 4))
        gc.collect()
    for close in closers:
        await close()
    return {"layers": _layer_rows(layer_us), "operations": _operation_rows(operation_us)}


def _layer_rows(layer_us: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Take off each case what its base costs, round by round. A name reads `<layer> <mode> - <base>`."""
    rows = []
    for name, values in layer_us.items():
        label, _, base = name.partition(" - ")
        floor = next((us for other, us in layer_us.items() if other.partition(" - ")[0] == base), None)
        own = values if floor is None else [v - f for v, f in zip(values, floor, strict=True)]
        rows.append({"name": label, "minus": base or None, **figure(own, "us")})
    return rows


def _operation_rows(operation_us: dict[str, list[float]]) -> list[dict[str, Any]]:
    return [{"name": name, **figure(values, "us")} for name, values in operation_us.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description="what each layer costs, in process")
    parser.add_argument("--quick", action="store_true", help="seconds instead of a minute: shows that it runs")
    parser.add_argument("--rounds", type=int, default=0, help="how often each case is measured (1 to 50)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON")
    arguments = parser.parse_args()
    rounds = min(max(arguments.rounds or (2 if arguments.quick else 7), 1), 50)
    seconds = 0.01 if arguments.quick else 0.25
    revision = commit()
    with pinned(cores()[0]), asyncio.Runner(loop_factory=new_loop) as runner:
        content = runner.run(measure(rounds, seconds))
    method = {"rounds": rounds, "seconds_per_case": seconds, "quick": arguments.quick}
    result = assemble("layers", revision, method, {}, **content)
    save(result, arguments.out)
    print(report.layers(result))


if __name__ == "__main__":
    main()
