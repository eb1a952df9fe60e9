"""The simulator of scheduling policies: its own laws, the rivals' rules, and aims that hold on a quick subset."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from benchmarks.gate_sim.aims import judge
from benchmarks.gate_sim.fcfs_lru import FirstComeFirstServed
from benchmarks.gate_sim.llama_swap import LlamaSwap
from benchmarks.gate_sim.machine import Machine, Policy
from benchmarks.gate_sim.measures import utilisation
from benchmarks.gate_sim.ollama import Ollama
from benchmarks.gate_sim.ours import Ours
from benchmarks.gate_sim.patterns import PATTERNS, alternating, hog, overload
from benchmarks.gate_sim.runner import Experiment, contenders, experiments, play
from benchmarks.gate_sim.values import GIB, Model, Pattern, Request

ROOT = Path(__file__).parents[2]
POLICIES = contenders((0.0, 15.0, float("inf")))
MAKERS = [FirstComeFirstServed, Ollama, LlamaSwap, Ours]


def pattern_of(*requests: tuple[float, str, float], sizes: dict[str, int], devices: Sequence[int] = (24,)) -> Pattern:
    """Return a pattern of (arrival, model, service time)."""
    return Pattern(
        name="made",
        title="made by hand",
        devices=tuple(gib * GIB for gib in devices),
        models=tuple(Model(name=name, size_bytes=gib * GIB) for name, gib in sizes.items()),
        requests=tuple(
            Request(ticket=ticket, at=at, model=model, service_s=service_s)
            for ticket, (at, model, service_s) in enumerate(requests, start=1)
        ),
    )


def served(pattern: Pattern, make: Callable[[Machine], Policy]) -> tuple[Machine, list[int]]:
    """Run a pattern; return the machine and the tickets in the order in which they got a slot."""
    machine = Machine(pattern)
    machine.run(make(machine))
    return machine, sorted(machine.records, key=lambda ticket: (machine.records[ticket].started_at, ticket))


class Scripted:
    """A policy that does what it is told on the first arrival, and admits whenever it can."""

    def __init__(self, machine: Machine, on_first: Callable[[Machine], None]) -> None:
        self.machine, self.on_first, self.kept = machine, on_first, []

    def arrived(self, request: Request) -> None:
        self.kept.append(request)
        if request.ticket == 1:
            self.on_first(self.machine)

    def loaded(self, model: str) -> None:
        for request in [request for request in self.kept if request.model == model]:
            self.kept.remove(request)
            self.machine.admit(request)

    def finished(self, request: Request) -> None: ...

    def unloaded(self, model: str) -> None: ...


TWO = pattern_of((0.0, "A", 5.0), (1.0, "B", 5.0), sizes={"A": 16, "B": 16})


def test_memory_is_never_overcommitted():
    def both(machine: Machine) -> None:
        machine.load("A", 0)
        machine.load("B", 0)

    machine = Machine(TWO)
    with pytest.raises(AssertionError, match="B does not fit"):
        machine.run(Scripted(machine, both))


def test_a_model_that_works_is_never_unloaded():
    def load_then_unload(machine: Machine) -> None:
        machine.load("A", 0)
        machine.call_at(8.0, lambda: machine.unload("A"))

    machine = Machine(TWO)
    with pytest.raises(AssertionError, match="A is in use"):
        machine.run(Scripted(machine, load_then_unload))


def test_a_request_without_an_end_is_noticed():
    machine = Machine(TWO)
    with pytest.raises(AssertionError, match="has not one end"):
        machine.run(Scripted(machine, lambda machine: machine.load("A", 0)))


def test_a_request_ends_once():
    machine = Machine(pattern_of((0.0, "A", 5.0), sizes={"A": 16}))
    policy = Scripted(machine, lambda machine: machine.load("A", 0))
    policy.finished = machine.reject
    with pytest.raises(AssertionError, match="was admitted before"):
        machine.run(policy)


def test_an_engine_serves_as_many_at_once_as_it_has_slots():
    machine, order = served(pattern_of(*[(0.0, "A", 5.0)] * 6, sizes={"A": 16}), FirstComeFirstServed)
    starts = [machine.records[ticket].started_at for ticket in order]
    load_s = machine.models["A"].load_s
    assert starts == pytest.approx([load_s] * 4 + [load_s + 5.0] * 2)


@pytest.mark.parametrize("make", PATTERNS, ids=lambda make: make.__name__)
def test_every_request_ends_once_under_every_policy_and_a_seed_tells_all(make):
    pattern = make(3, 0.05)
    for policy in POLICIES:
        first = play(pattern, policy)  # the machine asserts its laws meanwhile
        assert first.served + first.rejected == len(pattern.requests)
        assert play(make(3, 0.05), policy) == first


def test_seeds_differ():
    assert hog(1, 0.1).requests != hog(2, 0.1).requests


def test_utilisation_counts_service_and_swaps():
    busy = pattern_of(*[(float(at), "AB"[at % 2], 2.0) for at in range(121)], sizes={"A": 16, "B": 16})
    served_only = 121 * 2.0 / 4 / 120
    swaps = 2 * Model(name="A", size_bytes=16 * GIB).swap_s / 60
    assert utilisation(busy, round_s=60.0) == pytest.approx(served_only + swaps)
    roomy = replace(busy, devices=(32 * GIB,))
    assert utilisation(roomy, round_s=60.0) == pytest.approx(served_only / 2)


# -- the rivals


def test_first_come_first_served_lets_nobody_pass_the_head():
    _, order = served(
        pattern_of((0.0, "A", 20.0), (8.0, "B", 1.0), (9.0, "A", 1.0), sizes={"A": 16, "B": 16}), FirstComeFirstServed
    )
    assert order == [1, 2, 3]


@pytest.mark.parametrize("make", [Ollama, LlamaSwap, Ours])
def test_the_others_let_requests_for_a_resident_pass(make):
    _, order = served(pattern_of((0.0, "A", 20.0), (8.0, "B", 1.0), (9.0, "A", 1.0), sizes={"A": 16, "B": 16}), make)
    assert order == [1, 3, 2]


def test_first_come_first_served_evicts_the_least_recently_used():
    sizes = {"A": 8, "B": 8, "C": 8, "D": 8}
    asked = [(0.0, "A", 1.0), (20.0, "B", 1.0), (40.0, "C", 1.0), (60.0, "A", 1.0), (80.0, "D", 1.0)]
    machine, _ = served(pattern_of(*asked, sizes=sizes), FirstComeFirstServed)
    assert set(machine.engines) == {"A", "C", "D"}


def test_ollama_evicts_by_name_and_holds_back_a_fifth():
    sizes = {"A": 8, "B": 7, "C": 8}
    asked = [(0.0, "A", 1.0), (20.0, "B", 1.0), (40.0, "A", 1.0), (60.0, "C", 1.0)]
    machine, _ = served(pattern_of(*asked, sizes=sizes), Ollama)
    assert set(machine.engines) == {"B", "C"}, "8 GiB do not fit into 9 less a fifth, and A comes first"


def test_ollama_lets_a_load_wait_behind_the_head():
    """C would fit beside A at once, but B, before it, waits for A."""
    sizes = {"A": 12, "B": 20, "C": 6}
    asked = [(0.0, "A", 30.0), (10.0, "B", 1.0), (11.0, "C", 1.0)]
    assert served(pattern_of(*asked, sizes=sizes), Ollama)[1] == [1, 2, 3]
    assert served(pattern_of(*asked, sizes=sizes), LlamaSwap)[1] == [1, 3, 2]


def test_ollama_unloads_what_was_idle_for_five_minutes():
    machine, _ = served(pattern_of((0.0, "A", 1.0), (400.0, "B", 1.0), sizes={"A": 4, "B": 4}), Ollama)
    assert set(machine.engines) == {"B"}


def test_llama_swap_serves_by_model():
    asked = [(0.1 * at, "ABCABC"[at], 1.0) for at in range(6)]
    _, order = served(pattern_of(*asked, sizes={"A": 16, "B": 16, "C": 16}), LlamaSwap)
    assert order == [1, 4, 2, 5, 3, 6]


def test_llama_swap_starves_and_the_gate_does_not():
    asked = [*[(1.0 * at, "A", 3.0) for at in range(100)], (30.5, "B", 1.0)]
    pattern = pattern_of(*sorted(asked), sizes={"A": 16, "B": 16})
    waits = {make: max(play_waits(pattern, make)["B"]) for make in (LlamaSwap, Ours)}
    assert waits[LlamaSwap] > 60
    assert waits[Ours] < 40


def play_waits(pattern: Pattern, make: Callable[[Machine], Policy]) -> dict[str, list[float]]:
    machine, _ = served(pattern, make)
    waits: dict[str, list[float]] = {}
    for record in machine.records.values():
        waits.setdefault(record.request.model, []).append(record.started_at - record.request.at)
    return waits


# -- the aims


@pytest.fixture(scope="module")
def verdicts():
    policies = contenders((15.0, float("inf")))
    return [verdict for run in experiments([0], 0.3, policies) for verdict in judge(run, policies)]


HOLD = {
    "fewer_swaps": {"alternating", "overload"},
    "shorter_wait": {"alternating", "zipf", "overload", "heavy_tail", "two_gpus"},
    "bounded_wait": {"alternating", "zipf", "bursts", "hog", "hog_beside", "steady", "heavy_tail", "two_gpus"},
    "surplus_rejected": {"overload"},
    "not_dominated": {"hog"},
}


@pytest.mark.parametrize("aim", HOLD)
def test_the_aim_holds(verdicts, aim):
    judged = [verdict for verdict in verdicts if verdict.aim == aim and verdict.pattern in HOLD[aim]]
    assert judged
    assert not [verdict for verdict in judged if not verdict.met]


def test_the_checker_sees_what_is_not_met():
    """A gate that closes for nobody breaks the bound of one that closes after 15 s."""
    policies = contenders((15.0, float("inf")))
    never_fair = replace(policies[3], make=policies[4].make)
    pattern_policies = (*policies[:3], never_fair, *policies[4:])
    pattern = hog(0, 0.3)
    run = Experiment(
        pattern=pattern, seed=0, outcomes={policy.name: play(pattern, policy) for policy in pattern_policies}
    )
    found = {verdict.aim: verdict for verdict in judge(run, pattern_policies)}
    assert not found["bounded_wait"].met


def test_the_run_writes_its_result_its_plots_and_its_table(tmp_path: Path):
    def run(module: str, *arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", f"benchmarks.{module}", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=50,
            check=True,
        ).stdout

    printed = run("gate_simulation", "--quick", "--out", str(tmp_path))
    assert "not met: " in printed or "| 9 of 9 |" in printed
    found = json.loads((tmp_path / "gate_simulation.json").read_text())
    assert {row["pattern"] for row in found["figures"]} == {make.__name__ for make in PATTERNS}
    for plot in ("gate_tradeoff", "gate_waits"):
        ElementTree.parse(tmp_path / f"{plot}.svg")
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results: begin --><!-- results: end -->")
    run("report", "--results", str(tmp_path), "--readme", str(readme))
    assert "### Sharing GPU memory" in readme.read_text()
    assert str(Path.home()) not in json.dumps(found)


def test_overload_and_alternating_are_what_they_are_called():
    assert utilisation(overload(0, 1.0), round_s=60.0) > 1
    assert [request.model for request in alternating(0, 0.05).requests[:4]] == ["A", "B", "A", "B"]
