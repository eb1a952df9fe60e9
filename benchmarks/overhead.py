"""What does the router add to a request? `python -m benchmarks.overhead [--quick] [--rounds N] [--peers] [--out PATH]`.

Windows of load are interleaved (every variant once, then every variant again), so that what else the machine does hits
all of them; figures are medians over the rounds, ratios are made inside a round. See README.md for the method.
"""

from __future__ import annotations

from typing import Any

from . import load_report
from .question import Options, Question, ask, loaded_result
from .ratios import Asked, added, cpu_per, rate_of, ratios
from .scenarios import Scenario, described, interleave, rows_of
from .variants import VARIANTS, rig
from .windows import Windows

SCENARIOS = (
    Scenario(name="plain_1", connections=1, seconds=1.0),
    Scenario(name="plain_32", connections=32, seconds=1.5),
)
QUICK = (
    Scenario(name="plain_1", connections=1, seconds=0.15),
    Scenario(name="plain_32", connections=8, seconds=0.2),
)
COMPARED = ("router", "router_direct", "router_httpx")
CPU, RATE, ADDED = "CPU per request", "requests/s on one core", "added latency p50"
ASKED: list[Asked] = [
    ("plain_32", "cpu", CPU, cpu_per("requests"), ("hello", "nginx", "proxy", "openai_endpoint", "litellm")),
    ("plain_32", "rate", RATE, rate_of("requests"), ("hello",)),
    ("plain_1", "added", ADDED, added("latency"), ("nginx", "hello", "proxy", "openai_endpoint", "litellm")),
]


def measure(options: Options) -> dict[str, Any]:
    """Measure and return the result."""
    scenarios, rounds = QUICK if options.quick else SCENARIOS, options.rounds_or(3)
    with rig(list(VARIANTS), peers=options.peers, quick=options.quick) as running:
        windows = Windows(running.load)
        seen = interleave(QUESTION.name, scenarios, running, windows, rounds=rounds)
        logging: list[Asked] = [("plain_32", "cpu", CPU, cpu_per("requests"), ("router",))]
        return loaded_result(
            QUESTION.name,
            options,
            running,
            windows,
            rounds=rounds,
            method={"scenarios": described(scenarios)},
            **rows_of(scenarios, seen),
            ratios=[*ratios(seen, ASKED, COMPARED), *ratios(seen, logging, ("router_log",))],
        )


QUESTION = Question(
    name="overhead",
    asks="what the router adds to a request",
    takes_s=70,
    measure=measure,
    render=load_report.overhead,
    peers=True,
)

if __name__ == "__main__":
    ask(QUESTION)
