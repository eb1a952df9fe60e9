"""What does each layer cost, in process? `python -m benchmarks.layers [--quick] [--rounds N] [--out FOLDER]`.

`alone` is a layer as a user would mount it by itself: it also reads the body, watches for the client leaving and gives
a request id. `inside` is what it adds within the stack, where the outermost layer has done that already. The inner app
answers at once after having suspended once, as every real one does; its own cost is taken off. Times are CPU time of
the thread, which neighbours on a shared machine disturb less than they disturb a clock on the wall.

Beside them: 0 to 8 layers that do nothing, Starlette's `BaseHTTPMiddleware`, and the whole stack with layers left out.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Any

from . import layer_report
from .child import new_loop
from .depth_cases import STACK, depth_cases, stack_cases
from .figures import assemble, commit, figure
from .layer_cases import Call, layer_cases
from .operations import operations
from .processes import cores, pinned
from .progress import Progress
from .question import Options, Question, ask


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


Times = dict[Any, list[float]]


async def measure_all(rounds: int, seconds: float) -> dict[str, Any]:
    """Measure everything, interleaved over the rounds."""
    layers, closers = await layer_cases()
    stacks, gate = await stack_cases()
    calls: list[tuple[dict[Any, Call], Times]] = [(layers, {}), (depth_cases(), {}), (stacks, {})]
    operation_us: Times = {}
    progress = Progress(QUESTION.name, rounds * sum(len(cases) for cases, _ in calls))
    for cases, _ in calls:
        for call in cases.values():
            await time_calls(call, seconds / 5)
    for number in range(rounds):
        for cases, found in calls:
            for name, call in cases.items():
                progress.step(f"round {number + 1} of {rounds}")
                found.setdefault(name, []).append(await time_calls(call, seconds))
        for name, operation in operations().items():
            operation_us.setdefault(name, []).append(time_operation(operation, seconds / 4))
        gc.collect()
    progress.end()
    for close in (*closers, gate.aclose):
        await close()
    (_, layer_us), (_, depth_us), (_, stack_us) = calls
    return {
        "layers": _layer_rows(layer_us),
        "depth": [{"kind": kind, "layers": n, **figure(us, "us")} for (kind, n), us in depth_us.items()],
        "stack": _stack_rows(stack_us),
        "operations": [{"name": name, **figure(values, "us")} for name, values in operation_us.items()],
    }


def _layer_rows(layer_us: Times) -> list[dict[str, Any]]:
    """Take off each case what its base costs, round by round. A name reads `<layer> <mode> - <base>`."""
    rows = []
    for name, values in layer_us.items():
        label, _, base = name.partition(" - ")
        floor = next((us for other, us in layer_us.items() if other.partition(" - ")[0] == base), None)
        own = values if floor is None else [v - f for v, f in zip(values, floor, strict=True)]
        rows.append({"name": label, "minus": base or None, **figure(own, "us")})
    return rows


def _stack_rows(stack_us: Times) -> list[dict[str, Any]]:
    """Say what the stack costs with layers left out, and what that saves, round by round."""
    whole, rows = stack_us[()], []
    for off, values in stack_us.items():
        name = f"without {', '.join(off)}" if off else "all layers"
        saved = [w - v for w, v in zip(whole, values, strict=True)]
        on = [layer for layer in STACK if layer not in off]
        labels = {"name": name, "on": on, "off": list(off)}
        rows.append({**labels, **figure(values, "us"), "saved": figure(saved, "us")})
    return rows


def measure(options: Options) -> dict[str, Any]:
    """Measure and return the result."""
    rounds, seconds, revision = options.rounds_or(5, quick=2), 0.01 if options.quick else 0.15, commit()
    with pinned(cores()[0]), asyncio.Runner(loop_factory=new_loop) as runner:
        content = runner.run(measure_all(rounds, seconds))
    method = {"rounds": rounds, "seconds_per_case": seconds, "quick": options.quick}
    return assemble(QUESTION.name, revision, method, {}, **content)


QUESTION = Question(
    name="layers",
    asks="what each layer costs, in process",
    takes_s=35,
    measure=measure,
    render=layer_report.layers,
)

if __name__ == "__main__":
    ask(QUESTION)
