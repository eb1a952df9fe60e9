"""What do clients wait when they come at a rate of their own? `python -m benchmarks.open_loop [--quick] [--peers] ...`.

An open loop: requests are sent at fixed moments, however slow the answers are, and each one's time counts from the
moment it was meant to be sent. A variant that does not keep up with two rates in a row is not asked for higher ones.
"""

from __future__ import annotations

import statistics
from typing import Any

from . import load_report
from .figures import figure, median_quantiles
from .progress import Progress
from .question import Options, Question, ask, loaded_result
from .variants import MAY_FAIL, rig
from .windows import Window, Windows

NAMES = ["direct", "nginx", "hello", "openai_endpoint", "litellm", "router", "router_httpx"]
RATES: tuple[int, ...] = (50, 200, 500, 1000, 2000, 4000, 8000, 16000)
CONNECTIONS = 128
BEHIND_ALLOWED = 3
BEHIND_SHARE = 0.03
"""Who owes more answers than this and that share of all when the last request was sent does not keep up."""
GIVEN_UP = 2
"""Who does not keep up with so many rates in a row is asked for no higher one: one may be the neighbours' doing."""


def measure(options: Options) -> dict[str, Any]:
    """Measure and return the result."""
    rounds, rates, seconds = options.rounds_or(2), RATES, 0.8
    connections = CONNECTIONS
    if options.quick:
        rates, seconds, connections = (50, 500), 0.2, 8
    with rig(NAMES, peers=options.peers, quick=options.quick) as running:
        windows, points = Windows(running.load), []
        progress = Progress(QUESTION.name, rounds * len(rates) * len(running.servers))
        fell_behind = dict.fromkeys(running.servers, 0)
        for rate in rates:
            asked = [name for name in running.servers if fell_behind[name] < GIVEN_UP]
            seen: dict[str, list[Window]] = {name: [] for name in asked}
            for number in range(rounds):
                for name in asked:
                    progress.step(f"{rate}/s, round {number + 1} of {rounds}, {name}")
                    child = running.servers[name]
                    job = {
                        "port": child.port,
                        "pid": child.pid,
                        "engine_pid": running.engine.pid,
                        "connections": connections,
                        "rate": rate,
                        "seconds": seconds,
                        "warmup_s": 0.3,
                    }
                    take = windows.measure_peer if name in MAY_FAIL else windows.measure
                    found = take(f"{name}, {rate}/s", job)
                    if found is None:
                        fell_behind[name] = GIVEN_UP
                    else:
                        seen[name].append(found)
            for name, found_there in seen.items():
                if len(found_there) == rounds:
                    points.append(_point(name, rate, found_there, seconds))
                    fell_behind[name] = fell_behind[name] + 1 if points[-1]["saturated"] else 0
        progress.end()
        return loaded_result(
            QUESTION.name,
            options,
            running,
            windows,
            rounds=rounds,
            method={"rates": rates, "connections": connections, "seconds": seconds},
            points=points,
            quantiles=[point.pop("quantiles") for point in points],
        )


def _point(variant: str, rate: int, windows: list[Window], seconds: float) -> dict[str, Any]:
    done = figure([w["answered_in_time"] / w["seconds"] for w in windows], "requests/s")
    times = {f"latency_p{p}": figure([w["latency_us"][p] for w in windows], "us") for p in (50, 95, 99)}
    labels = {"variant": variant, "rate": rate}
    return {
        **labels,
        "done": done,
        **times,
        "cpu": figure([w["cpu_s"] * 1e6 / max(1, w["answered_in_time"]) for w in windows], "us/request"),
        "lateness_p99": figure([w["lateness_us"][99] if w["lateness_us"] else 0.0 for w in windows], "us"),
        "saturated": statistics.median(w["behind"] for w in windows) > BEHIND_ALLOWED + BEHIND_SHARE * rate * seconds,
        "unfinished": sum(w["unfinished"] for w in windows),
        "quantiles": {
            **labels,
            "metric": "latency",
            "unit": "us",
            "values": median_quantiles([w["latency_us"] for w in windows]),
        },
    }


QUESTION = Question(
    name="open_loop",
    asks="what clients wait when they come at a rate of their own",
    takes_s=90,
    measure=measure,
    render=load_report.open_loop,
    peers=True,
)

if __name__ == "__main__":
    ask(QUESTION)
