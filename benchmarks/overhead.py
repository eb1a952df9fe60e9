"""What does the router add? `python -m benchmarks.overhead [--quick] [--rounds N] [--out FOLDER]`.

Windows of load are interleaved (every variant once, then every variant again), so that what else the machine does hits
all of them; figures are medians over the rounds, ratios are made inside a round. See README.md for the method.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import report
from .figures import RESULTS, assemble, commit, figure, save
from .processes import Child, cores, first_answer, module, nginx, nginx_binary, versions_of
from .ratios import ratios
from .startup import measure_memory, measure_startup


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One kind of load."""

    name: str
    connections: int
    chunks: int = 0
    pace_ms: int = 0
    hold: bool = False
    seconds: float
    per: str = "requests"
    """What CPU time is divided by."""

    def job(self, child: Child, engine: Child) -> dict[str, Any]:
        return {
            "port": child.port,
            "pid": child.pid,
            "engine_pid": engine.pid,
            "connections": self.connections,
            "chunks": self.chunks,
            "pace_ms": self.pace_ms,
            "hold": self.hold,
            "seconds": self.seconds,
            "warmup_s": min(0.3, self.seconds / 3),
        }


SCENARIOS = (
    Scenario(name="plain_1", connections=1, seconds=1.0),
    Scenario(name="plain_32", connections=32, seconds=1.5),
    Scenario(name="first_token", connections=1, chunks=8, seconds=0.8),
    Scenario(name="burst", connections=8, chunks=200, seconds=1.2, per="chunks"),
    Scenario(name="paced", connections=32, chunks=2000, pace_ms=20, hold=True, seconds=2.0, per="chunks"),
)
QUICK = (
    Scenario(name="plain_1", connections=1, seconds=0.15),
    Scenario(name="plain_32", connections=8, seconds=0.2),
    Scenario(name="first_token", connections=1, chunks=4, seconds=0.15),
    Scenario(name="burst", connections=2, chunks=20, seconds=0.2, per="chunks"),
    Scenario(name="paced", connections=4, chunks=500, pace_ms=20, hold=True, seconds=0.3, per="chunks"),
)
VARIANTS = {
    "direct": "straight to the engine",
    "nginx": "nginx as reverse proxy, one worker, unbuffered",
    "hello": "uvicorn, an app that answers by itself",
    "proxy": "uvicorn, the smallest proxy over httpx",
    "router": "the router, all defaults",
    "router_log": "the router with one log line per request",
}


@contextlib.contextmanager
def under_test(quick: bool) -> Iterator[tuple[dict[str, Child], Child, dict[str, str]]]:
    """Start engine, load generator and every variant; yield the variants, the load and why some were left out."""
    tested, others = cores()
    skipped: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(module("engine", core=others))
        load = stack.enter_context(module("load", core=others, serves=False))
        children = {"direct": engine}
        if quick:
            skipped = dict.fromkeys(("nginx", "proxy", "router_log"), "left out of quick runs")
        elif nginx_binary() is None:
            skipped["nginx"] = "no nginx on this machine"
        for name in VARIANTS:
            if name == "nginx" and name not in skipped:
                children[name] = stack.enter_context(nginx(engine.port, core=tested))
            elif name not in children and name not in skipped:
                children[name] = stack.enter_context(module("serve", name, str(engine.port), core=tested))
        for child in children.values():
            first_answer(child.port)
        yield {name: children[name] for name in VARIANTS if name in children}, load, skipped


def run_window(load: Child, scenario: Scenario, child: Child, engine: Child) -> dict[str, Any]:
    """Have one window of load made. Raises `RuntimeError` when an answer was wrong."""
    load.tell(scenario.job(child, engine))
    found = load.hear(scenario.seconds + 40)
    if found["errors"]:
        raise RuntimeError(f"{scenario.name}: {found['errors']}")
    return found


def measure(rounds: int, scenarios: tuple[Scenario, ...], quick: bool) -> dict[str, Any]:
    """Measure everything and return the result."""
    revision = commit()
    with under_test(quick) as (children, load, skipped):
        memory = measure_memory(children, load, streams=8 if quick else 200, seconds=0.1 if quick else 0.5)
        windows: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for number in range(rounds):
            for scenario in scenarios:
                for variant, child in children.items():
                    found = run_window(load, scenario, child, children["direct"])
                    windows.setdefault(scenario.name, {}).setdefault(variant, []).append(found)
            print(f"round {number + 1} of {rounds} done", flush=True)
        startup = measure_startup(children["direct"].port, times=1 if quick else 5)
    nginx_version = versions_of(nginx_binary() or "nginx") if "nginx" in children else {}
    return assemble(
        "overhead",
        revision,
        {
            "rounds": rounds,
            "pinned": cores()[0] is not None,
            "quick": quick,
            "scenarios": {
                s.name: {k: getattr(s, k) for k in ("connections", "chunks", "pace_ms", "seconds")} for s in scenarios
            },
            "variants": {name: text for name, text in VARIANTS.items() if name in children},
            "skipped": skipped,
        },
        nginx_version,
        figures=[f for s in scenarios for v in children for f in _figures(s, v, windows[s.name])],
        ratios=ratios(windows),
        memory=memory,
        startup=startup,
        noise=_noise(windows),
    )


def _figures(scenario: Scenario, variant: str, variants: dict[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Turn the windows of one scenario and variant into figures."""
    windows = variants[variant]
    label = {"scenario": scenario.name, "variant": variant}
    events = [w[scenario.per] for w in windows]
    unit = scenario.per.removesuffix("s")
    yield {
        **label,
        "metric": "cpu",
        **figure([w["cpu_s"] * 1e6 / max(1, w[scenario.per]) for w in windows], f"us/{unit}", samples=sum(events)),
    }
    yield {**label, "metric": "rate", **figure([w[scenario.per] / w["seconds"] for w in windows], f"{unit}s/s")}
    yield {**label, "metric": "busy", **figure([w["cpu_s"] / w["seconds"] for w in windows], "cores")}
    for metric, field in (("latency", "latency_us"), ("first_token", "first_token_us"), ("delay", "chunk_delay_us")):
        if all(w[field] for w in windows):
            for p in ("p50", "p95", "p99"):
                yield {**label, "metric": f"{metric}_{p}", **figure([w[field][p] for w in windows], "us")}
            if variant != "direct" and metric != "delay":
                added = [w[field]["p50"] - d[field]["p50"] for w, d in zip(windows, variants["direct"], strict=True)]
                yield {**label, "metric": f"added_{metric}_p50", **figure(added, "us")}


def _noise(windows: dict[str, dict[str, list[dict[str, Any]]]]) -> dict[str, Any]:
    """Say how many cores were kept busy in the windows by what does not belong to the benchmark."""
    seen = [
        (w["machine_busy_s"] - w["cpu_s"] - w["load_cpu_s"] - w["engine_cpu_s"]) / w["seconds"]
        for variants in windows.values()
        for per_variant in variants.values()
        for w in per_variant
    ]
    return figure([max(0.0, value) for value in seen], "cores")


def main() -> None:
    parser = argparse.ArgumentParser(description="what the router adds")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: shows that it runs")
    parser.add_argument("--rounds", type=int, default=0, help="how often each variant is measured (1 to 20)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through the `finally`s that stop the processes
    rounds = min(max(arguments.rounds or (1 if arguments.quick else 3), 1), 20)
    result = measure(rounds, QUICK if arguments.quick else SCENARIOS, arguments.quick)
    save(result, arguments.out)
    print(report.overhead(result))


if __name__ == "__main__":
    main()
