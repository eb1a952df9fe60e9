"""What does the router add to a stream? `python -m benchmarks.streaming [--quick] [--rounds N] [--peers] [--out PATH]`.

To its first token, to each chunk where all come at once, to each chunk that comes at a pace. `hello` makes the chunks
of its own under uvicorn: what a server in Python pays for a stream without any engine behind it.
"""

from __future__ import annotations

from typing import Any

from . import load_report
from .question import Options, Question, ask, loaded_result
from .ratios import Asked, added, cpu_per, median_of, ratios
from .scenarios import Scenario, described, interleave, rows_of
from .variants import VARIANTS, rig
from .windows import Windows

STREAMED = ("delay", "jitter")
SCENARIOS = (
    Scenario(name="first_token", connections=1, chunks=8, seconds=0.8, series=("first_token",)),
    Scenario(name="burst", connections=8, chunks=200, seconds=1.2, per="chunks", series=("first_token",)),
    Scenario(
        name="paced", connections=32, chunks=2000, pace_ms=20, hold=True, seconds=1.6, per="chunks", series=STREAMED
    ),
)
QUICK = (
    Scenario(name="first_token", connections=1, chunks=4, seconds=0.15, series=("first_token",)),
    Scenario(name="burst", connections=2, chunks=20, seconds=0.2, per="chunks", series=("first_token",)),
    Scenario(
        name="paced", connections=4, chunks=500, pace_ms=20, hold=True, seconds=0.3, per="chunks", series=STREAMED
    ),
)
COMPARED = ("router", "router_direct", "router_httpx")
BASES = ("nginx", "hello", "proxy", "openai_endpoint", "litellm")
ASKED: list[Asked] = [
    ("first_token", "added", "added time to first token p50", added("first_token"), BASES),
    ("burst", "cpu", "CPU per chunk in a burst", cpu_per("chunks"), BASES),
    ("paced", "cpu", "CPU per chunk at a pace", cpu_per("chunks"), BASES),
    ("paced", "delay", "chunk delay p50", median_of("delay"), ("nginx", "proxy", "openai_endpoint", "litellm")),
]


def measure(options: Options) -> dict[str, Any]:
    """Measure and return the result."""
    scenarios, rounds = QUICK if options.quick else SCENARIOS, options.rounds_or(3)
    names = [name for name in VARIANTS if name != "router_log"]
    with rig(names, peers=options.peers, quick=options.quick) as running:
        windows = Windows(running.load)
        seen = interleave(QUESTION.name, scenarios, running, windows, rounds=rounds)
        return loaded_result(
            QUESTION.name,
            options,
            running,
            windows,
            rounds=rounds,
            method={"scenarios": described(scenarios)},
            **rows_of(scenarios, seen),
            ratios=ratios(seen, ASKED, COMPARED),
        )


QUESTION = Question(
    name="streaming",
    asks="what the router adds to a stream",
    takes_s=90,
    measure=measure,
    render=load_report.streaming,
    peers=True,
)

if __name__ == "__main__":
    ask(QUESTION)
