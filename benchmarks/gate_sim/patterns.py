"""Who asks for what, and when: every pattern is a function of its seed.

Service times are lognormal around a mean, cut at six times it; `heavy_tail` has a wider spread and cuts at thirty.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence

from .values import GIB, Model, Pattern, Request

Arrival = tuple[float, str, float]
"""Moment, model, service time."""


def alternating(seed: int, size: float) -> Pattern:
    """Two models on room for one, asked for in turn every second."""
    rng = random.Random(seed)
    models = _models([16, 16])
    arrivals = [(_jitter(rng, 1.0 * i), "AB"[i % 2], _service(rng, 2.0)) for i in range(int(600 * size))]
    return _pattern("alternating", "A and B in turn, room for one", (24,), models, arrivals)


def zipf(seed: int, size: float) -> Pattern:
    """Ten models on room for three, popular by Zipf's law."""
    rng = random.Random(seed)
    models = _models([7] * 10)
    arrivals = _poisson(rng, 4.0, int(2400 * size), _zipf_choice(rng, [m.name for m in models], 1.0), 1.5)
    return _pattern("zipf", "Zipf over 10 models, room for 3", (24,), models, arrivals)


def bursts(seed: int, size: float) -> Pattern:
    """Four models on room for two; each burst is twenty requests for one of them within two seconds."""
    rng = random.Random(seed)
    models = _models([10] * 4)
    arrivals: list[Arrival] = []
    at = 0.0
    for _ in range(int(50 * size)):
        at += rng.expovariate(1 / 12.0)
        name = rng.choice(models).name
        arrivals += [(at + rng.uniform(0, 2.0), name, _service(rng, 2.0)) for _ in range(20)]
    return _pattern("bursts", "bursts of 20 for one of 4 models, room for 2", (24,), models, arrivals)


def hog(seed: int, size: float) -> Pattern:
    """One model is hardly ever idle; a second one, on the same memory, is asked for now and then."""
    rng = random.Random(seed)
    models = _models([16, 16], parallel=10)
    span_s = 1200 * size
    arrivals = _poisson_until(rng, 1.0, span_s, lambda: "A", 5.0) + _poisson_until(
        rng, 1 / 40, span_s, lambda: "B", 5.0
    )
    return _pattern("hog", "A never idle, B now and then, room for one", (24,), models, arrivals)


def hog_beside(seed: int, size: float) -> Pattern:
    """One model is hardly ever idle beside room for one of three others, one of which needs the hog's room too."""
    rng = random.Random(seed)
    models = (
        *_models([12], parallel=10),
        *(Model(name=name, size_bytes=gib * GIB) for name, gib in (("B", 10), ("C", 10), ("D", 18))),
    )
    span_s = 1200 * size
    arrivals = _poisson_until(rng, 1.0, span_s, lambda: "A", 5.0)
    arrivals += _poisson_until(rng, 1 / 10, span_s, lambda: rng.choice("BC"), 3.0)
    arrivals += _poisson_until(rng, 1 / 60, span_s, lambda: "D", 3.0)
    return _pattern("hog_beside", "A never idle, B or C beside it, D instead", (24,), models, arrivals)


def steady(seed: int, size: float) -> Pattern:
    """Five models of mixed sizes, together twice the memory, asked for at leisure."""
    rng = random.Random(seed)
    models = _models([4, 6, 8, 12, 14])
    arrivals = _poisson(rng, 0.12, int(200 * size), lambda: rng.choice(models).name, 3.0)
    return _pattern("steady", "5 models of mixed sizes, low load", (24,), models, arrivals)


def overload(seed: int, size: float) -> Pattern:
    """Three models on room for one, twice as much work as the device can do."""
    rng = random.Random(seed)
    models = _models([16] * 3)
    arrivals = _poisson(rng, 3.0, int(900 * size), lambda: rng.choice(models).name, 3.0)
    return _pattern("overload", "3 models, room for one, twice the work it can do", (24,), models, arrivals)


def heavy_tail(seed: int, size: float) -> Pattern:
    """Models from small to nearly the whole device; some requests take thirty times the mean."""
    rng = random.Random(seed)
    models = _models([3, 3, 4, 5, 8, 13, 20])
    choose = _zipf_choice(rng, [m.name for m in models], 0.8)
    arrivals = _poisson(rng, 1.0, int(900 * size), choose, 2.0, sigma=1.4, cut=30.0)
    return _pattern("heavy_tail", "7 models of 3 to 20 GiB, heavy-tailed service", (24,), models, arrivals)


def two_gpus(seed: int, size: float) -> Pattern:
    """Eight models of one size on two devices with room for two each."""
    rng = random.Random(seed)
    models = _models([10] * 8)
    arrivals = _poisson(rng, 4.0, int(1800 * size), _zipf_choice(rng, [m.name for m in models], 0.7), 1.5)
    return _pattern("two_gpus", "8 models, two GPUs with room for 2 each", (24, 24), models, arrivals)


PATTERNS: tuple[Callable[[int, float], Pattern], ...] = (
    alternating,
    zipf,
    bursts,
    hog,
    hog_beside,
    steady,
    overload,
    heavy_tail,
    two_gpus,
)


def _models(sizes_gib: Sequence[int], parallel: int = 4) -> tuple[Model, ...]:
    return tuple(
        Model(name=chr(ord("A") + i), size_bytes=gib * GIB, parallel=parallel) for i, gib in enumerate(sizes_gib)
    )


def _pattern(
    name: str,
    title: str,
    devices_gib: tuple[int, ...],
    models: tuple[Model, ...],
    arrivals: Iterable[Arrival],
) -> Pattern:
    requests = tuple(
        Request(ticket=ticket, at=at, model=model, service_s=service_s)
        for ticket, (at, model, service_s) in enumerate(sorted(arrivals), start=1)
    )
    devices = tuple(gib * GIB for gib in devices_gib)
    return Pattern(name=name, title=title, devices=devices, models=models, requests=requests)


def _jitter(rng: random.Random, at: float) -> float:
    return at + rng.uniform(0, 0.2)


def _service(rng: random.Random, mean_s: float, *, sigma: float = 0.6, cut: float = 6.0) -> float:
    return min(cut * mean_s, rng.lognormvariate(math.log(mean_s) - sigma * sigma / 2, sigma))


def _poisson(
    rng: random.Random,
    rate: float,
    count: int,
    choose: Callable[[], str],
    mean_s: float,
    *,
    sigma: float = 0.6,
    cut: float = 6.0,
) -> list[Arrival]:
    arrivals: list[Arrival] = []
    at = 0.0
    for _ in range(count):
        at += rng.expovariate(rate)
        arrivals.append((at, choose(), _service(rng, mean_s, sigma=sigma, cut=cut)))
    return arrivals


def _poisson_until(
    rng: random.Random, rate: float, until: float, choose: Callable[[], str], mean_s: float
) -> list[Arrival]:
    arrivals: list[Arrival] = []
    at = rng.expovariate(rate)
    while at < until:
        arrivals.append((at, choose(), _service(rng, mean_s)))
        at += rng.expovariate(rate)
    return arrivals


def _zipf_choice(rng: random.Random, names: Sequence[str], exponent: float) -> Callable[[], str]:
    weights = [1 / (rank**exponent) for rank in range(1, len(names) + 1)]
    return lambda: rng.choices(names, weights)[0]
