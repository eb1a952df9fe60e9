"""What the gate shall reach, and whether it did, for each pattern and seed.

Rivals are compared with the gate without `max_wait`, for they turn nobody away. Two figures within 1 % count as equal.

1. `fewer_swaps`: at most a tenth of the swaps of first come first served, where that one is asked for more swaps than
   it has time for (`swap_pressure` above 1).
2. `shorter_wait`: at most a tenth of its mean wait, in the same runs.
3. `bounded_wait`: at a utilisation below 1 nobody waits in the gate's queue for longer than
   `fair_after + (distinct models ahead + 1) x (longest drain + longest load and unload)`, for each `fair_after`.
   A drain is what lies between the last request let into a model and the end of the last one there, as it was seen.
4. `surplus_rejected`: with `max_wait`, nobody is sent away earlier, and nobody is let in later than that and one load
   (whose model is being loaded already, waits for the load), at a utilisation above 1; and somebody is sent away.

The next three are asked at a utilisation below 1: above it, without `max_wait`, waits only tell how long requests kept
coming.

5. `not_dominated`: no rival is better in one of mean and maximum wait and at least equal in the other, at the default
   `fair_after`.
6. `curve_covers`: for each rival some `fair_after` has no higher maximum and no higher mean.
7. `off_costs_nothing`: with `fair_after` off the mean is at most 5 % above the best rival's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from .measures import Outcome, swap_pressure, utilisation
from .runner import BOUNDED, DEFAULT, MAX_WAIT_S, OFF, RIVALS, Contender, Experiment

FACTOR = 10.0
EQUAL = 1.01
OFF_FACTOR = 1.05
ROUNDING_S = 1e-6
ROUND_S = 60.0
"""How often each model is visited, at least, in the utilisation that the aims speak of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether one aim is met by one run; `told` has the figures it was judged by."""

    aim: str
    pattern: str
    seed: int
    met: bool
    told: str


def judge(experiment: Experiment, policies: Sequence[Contender]) -> Iterator[Verdict]:
    """Return a verdict for each aim that applies to an experiment."""
    curve = [policy for policy in policies if policy.fair_after_s is not None and policy.name != BOUNDED.name]
    for aim, find in AIMS.items():
        for met, told in find(experiment, curve):
            yield Verdict(aim=aim, pattern=experiment.pattern.name, seed=experiment.seed, met=met, told=told)


Finding = tuple[bool, str]


def _fewer_swaps(experiment: Experiment, _: Sequence[Contender]) -> Iterator[Finding]:
    naive, ours = experiment.outcomes[RIVALS[0].name], experiment.outcomes[DEFAULT.name]
    if swap_pressure(experiment.pattern, naive) > 1:
        told = f"{naive.swaps} against {ours.swaps}: {naive.swaps / max(1, ours.swaps):.1f} times fewer"
        yield naive.swaps >= FACTOR * ours.swaps, told


def _shorter_wait(experiment: Experiment, _: Sequence[Contender]) -> Iterator[Finding]:
    naive, ours = experiment.outcomes[RIVALS[0].name], experiment.outcomes[DEFAULT.name]
    if swap_pressure(experiment.pattern, naive) > 1:
        told = f"{naive.mean_wait_s:.1f} s against {ours.mean_wait_s:.1f} s"
        yield naive.mean_wait_s >= FACTOR * ours.mean_wait_s, told


def _bounded_wait(experiment: Experiment, curve: Sequence[Contender]) -> Iterator[Finding]:
    if utilisation(experiment.pattern, round_s=ROUND_S) < 1:
        shares = [(experiment.outcomes[policy.name].worst_bound_ratio, policy.name) for policy in curve]
        worst, name = max(shares)
        yield worst <= 1, f"{name}: at most {worst:.2f} of what is allowed"


def _surplus_rejected(experiment: Experiment, _: Sequence[Contender]) -> Iterator[Finding]:
    if utilisation(experiment.pattern, round_s=ROUND_S) > 1:
        found = experiment.outcomes[BOUNDED.name]
        latest_s = MAX_WAIT_S + max(model.load_s for model in experiment.pattern.models)
        met = (
            found.rejected > 0
            and found.earliest_rejection_s >= MAX_WAIT_S - ROUNDING_S
            and found.max_queued_s <= latest_s
        )
        told = (
            f"{found.rejected} of {found.requests} sent away, the first after {found.earliest_rejection_s:.1f} s; "
            f"let in after {found.max_queued_s:.1f} s at most"
        )
        yield met, told


def _not_dominated(experiment: Experiment, _: Sequence[Contender]) -> Iterator[Finding]:
    if utilisation(experiment.pattern, round_s=ROUND_S) >= 1:
        return
    ours = experiment.outcomes[DEFAULT.name]
    better = [rival.name for rival in RIVALS if dominates(experiment.outcomes[rival.name], ours)]
    told = f"ours {_pair(ours)}" + "".join(f"; {name} {_pair(experiment.outcomes[name])}" for name in better)
    yield not better, told


def _curve_covers(experiment: Experiment, curve: Sequence[Contender]) -> Iterator[Finding]:
    if utilisation(experiment.pattern, round_s=ROUND_S) >= 1:
        return
    points = [experiment.outcomes[policy.name] for policy in curve]
    missed = [
        rival.name for rival in RIVALS if not any(covers(point, experiment.outcomes[rival.name]) for point in points)
    ]
    told = "; ".join(
        f"{name} {_pair(experiment.outcomes[name])}, ours with that maximum "
        f"{_best_within(points, experiment.outcomes[name])}"
        for name in missed
    )
    yield not missed, told or "each rival is covered"


def _off_costs_nothing(experiment: Experiment, _: Sequence[Contender]) -> Iterator[Finding]:
    if utilisation(experiment.pattern, round_s=ROUND_S) >= 1:
        return
    ours_s = experiment.outcomes[OFF.name].mean_wait_s
    best_s, name = min((experiment.outcomes[rival.name].mean_wait_s, rival.name) for rival in RIVALS)
    yield ours_s <= OFF_FACTOR * best_s, f"{ours_s:.2f} s against {best_s:.2f} s of {name}: {ours_s / best_s:.2f}"


AIMS: dict[str, Callable[[Experiment, Sequence[Contender]], Iterator[Finding]]] = {
    "fewer_swaps": _fewer_swaps,
    "shorter_wait": _shorter_wait,
    "bounded_wait": _bounded_wait,
    "surplus_rejected": _surplus_rejected,
    "not_dominated": _not_dominated,
    "curve_covers": _curve_covers,
    "off_costs_nothing": _off_costs_nothing,
}


def dominates(rival: Outcome, ours: Outcome) -> bool:
    """Whether a rival is better in mean or maximum wait and at least equal in the other."""
    mean, maximum = rival.mean_wait_s / ours.mean_wait_s, rival.max_wait_s / ours.max_wait_s
    return (mean * EQUAL < 1 and maximum < EQUAL) or (maximum * EQUAL < 1 and mean < EQUAL)


def covers(ours: Outcome, rival: Outcome) -> bool:
    """Whether ours is at least equal in both."""
    return ours.mean_wait_s <= EQUAL * rival.mean_wait_s and ours.max_wait_s <= EQUAL * rival.max_wait_s


def _best_within(points: Iterable[Outcome], rival: Outcome) -> str:
    means = [point.mean_wait_s for point in points if point.max_wait_s <= EQUAL * rival.max_wait_s]
    return f"{min(means):.2f} s" if means else "none"


def _pair(found: Outcome) -> str:
    return f"{found.mean_wait_s:.2f} s mean, {found.max_wait_s:.1f} s at most"
