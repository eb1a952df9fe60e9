"""What does a large request cost? `python -m benchmarks.body_size [--quick] [--rounds N] [--peers] [--out FOLDER]`.

Images and long contexts make requests of a megabyte. What a body adds is counted from the smallest one, so that it
includes what the server takes to read it.
"""

from __future__ import annotations

from typing import Any

from . import load_report
from .figures import figure
from .progress import Progress
from .question import Options, Question, ask, loaded_result
from .ratios import Asked, cpu_per, ratios
from .rows import figure_rows
from .variants import MAY_FAIL, rig
from .windows import Window, Windows

NAMES = ["direct", "nginx", "hello", "openai_endpoint", "litellm", "router", "router_direct", "router_httpx"]
SIZES = (1_000, 100_000, 1_000_000)


def measure(options: Options) -> dict[str, Any]:
    """Measure and return the result."""
    rounds, seconds = options.rounds_or(2), 0.15 if options.quick else 0.7
    with rig(NAMES, peers=options.peers, quick=options.quick) as running:
        windows = Windows(running.load)
        seen: dict[str, dict[str, list[Window]]] = {str(size): {} for size in SIZES}
        progress = Progress(QUESTION.name, rounds * len(SIZES) * len(running.servers))
        for number in range(rounds):
            for size in SIZES:
                for name, child in running.servers.items():
                    progress.step(f"round {number + 1} of {rounds}, {size // 1000} KB, {name}")
                    job = {
                        "port": child.port,
                        "pid": child.pid,
                        "engine_pid": running.engine.pid,
                        "connections": 1,
                        "body_bytes": size,
                        "seconds": seconds,
                        "warmup_s": 0.1,
                    }
                    take = windows.measure_peer if name in MAY_FAIL else windows.measure
                    found = take(f"{name}, {size // 1000} KB", job)
                    if found is None:
                        seen[str(size)].pop(name, None)
                    else:
                        seen[str(size)].setdefault(name, []).append(found)
        progress.end()
        largest, bases = str(SIZES[-1]), ("nginx", "hello", "openai_endpoint", "litellm")
        asked: list[Asked] = [(largest, "cpu", "CPU of a request of 1 MB", cpu_per("requests"), bases)]
        return loaded_result(
            QUESTION.name,
            options,
            running,
            windows,
            rounds=rounds,
            method={"sizes_bytes": SIZES, "connections": 1, "seconds": seconds},
            figures=_figures(seen),
            ratios=ratios(seen, asked, ("router",)),
        )


def _figures(seen: dict[str, dict[str, list[Window]]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    least = seen[str(SIZES[0])]
    for size, variants in seen.items():
        for variant, windows in variants.items():
            labels = {"variant": variant, "body_bytes": int(size)}
            rows += figure_rows(labels, windows, series=("latency",))
            if int(size) == SIZES[0] or variant not in least:
                continue
            pairs = list(zip(windows, least[variant], strict=False))
            cpu = [_cpu_us(w) - _cpu_us(b) for w, b in pairs]
            p50 = [w["latency_us"][50] - b["latency_us"][50] for w, b in pairs]
            rows.append({**labels, "metric": "added_cpu", **figure(cpu, "us/request")})
            rows.append({**labels, "metric": "added_latency_p50", **figure(p50, "us")})
    return rows


def _cpu_us(window: Window) -> float:
    return float(window["cpu_s"] * 1e6 / max(1, window["requests"]))


QUESTION = Question(
    name="body_size",
    asks="what a large request costs",
    takes_s=45,
    measure=measure,
    render=load_report.body_size,
    peers=True,
)

if __name__ == "__main__":
    ask(QUESTION)
