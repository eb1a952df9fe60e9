"""Measurements that were never made."""

from __future__ import annotations

from random import Random
from typing import Any

from smartrouter_asgi.bench.client import Target
from smartrouter_asgi.bench.engine import Engine
from smartrouter_asgi.bench.plan import SIDES, Plan, Side
from smartrouter_asgi.bench.reading import Sample, failed
from smartrouter_asgi.bench.result import assemble
from smartrouter_asgi.bench.run import Measured, Turn
from smartrouter_asgi.types import JSONObject

KEY = "sk-canary-0123456789"


def engine(model: str = "tiny", type: str = "llama.cpp") -> Engine:
    url = "http://127.0.0.1:8080"
    headers = [(b"authorization", b"Bearer " + KEY.encode())]
    return Engine(
        type=type,
        url=url,
        model=model,
        chosen="the only one",
        direct=Target(url=f"{url}/v1/chat/completions", headers=headers, model=model, secret=KEY),
    )


def measured(
    *,
    pairs: int = 30,
    at_a_time: int = 1,
    added_s: float = 0.001,
    shared_s: float = 0.0002,
    failing: tuple[str, ...] = (),
    tokens: bool = True,
) -> Measured:
    """Pairs of which routed takes so much longer; each reason of `failing` is one more routed request.

    What runs at the same time is slow or fast together: by about `shared_s`.
    """
    random = Random(5)
    found = Measured()

    def turn(number: int, side: Side, *samples: Sample) -> None:
        is_first = (number % 2 == 0) == (side == "direct")
        took_s = max(sample.total_s for sample in samples)
        found.turns.append(Turn(round=number, side=side, is_first=is_first, took_s=took_s, samples=samples))

    def sample(first: float) -> Sample:
        gaps = tuple(random.expovariate(100) for _ in range(20))
        told = 24 if tokens else None
        return Sample(ttft_s=first, total_s=first + sum(gaps), gaps_s=gaps, events=21, tokens=told)

    for number in range(pairs // at_a_time):
        base = 0.05 + random.uniform(0, 0.01)
        for side in SIDES:
            first = base + random.gauss(0, shared_s) + (added_s if side == "routed" else 0)
            turn(number, side, *(sample(first + place * 1e-6) for place in range(at_a_time)))
    for number, reason in enumerate(failing, start=pairs):
        turn(number, "direct", Sample(ttft_s=0.05, total_s=0.1, gaps_s=(0.05,), events=2, tokens=2))
        turn(number, "routed", failed(reason, KEY))
    return found


def result(
    found: Measured | None = None, *, complete: bool = True, own: bool = True, plan: Plan | None = None, **told: Any
) -> JSONObject:
    router = {
        "own": own,
        "url": None if own else "http://127.0.0.1:11436",
        "transport": "auto (direct)" if own else None,
    }
    return assemble(plan or Plan(), engine(**told), router, found or measured(), complete=complete)
