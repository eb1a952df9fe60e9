"""Laws of our own delays."""

from __future__ import annotations

import math
import random as global_random

from hypothesis import example, given
from hypothesis import strategies as st

from smartrouter_asgi.resilience import compute_delay_s

ALMOST_ONE = math.nextafter(1.0, 0.0)


def ceiling(attempt: int, base: float = 0.5, top: float = 8.0) -> float:
    return compute_delay_s(attempt, base_delay_s=base, max_delay_s=top, random=lambda: ALMOST_ONE)


def test_ceiling_doubles_up_to_the_maximum() -> None:
    assert [round(ceiling(n), 6) for n in range(1, 8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_jitter_is_full_and_ours() -> None:
    global_random.seed(1)
    state = global_random.getstate()
    assert compute_delay_s(3, base_delay_s=0.5, max_delay_s=8.0, random=lambda: 0.25) == 0.5
    assert compute_delay_s(3, base_delay_s=0.5, max_delay_s=8.0, random=lambda: 0.0) == 0.0
    assert global_random.getstate() == state


@given(
    attempt=st.integers(-5, 10**9),
    base=st.floats(0, 1e300),
    top=st.floats(0, 1e300),
    chance=st.floats(0, 1, exclude_max=True),
)
@example(attempt=10**9, base=0.0, top=8.0, chance=0.5)
@example(attempt=10**9, base=1e300, top=1e300, chance=0.5)
def test_delay_is_never_negative_never_over_the_maximum_and_survives_overflow(
    attempt: int, base: float, top: float, chance: float
) -> None:
    assert 0.0 <= compute_delay_s(attempt, base_delay_s=base, max_delay_s=top, random=lambda: chance) <= top
