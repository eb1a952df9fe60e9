"""Who has to go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartrouter_asgi.vram.eviction import Candidate, choose_closing, choose_victims
from smartrouter_asgi.vram.names import ModelKey


def candidate(name: str, size: int, used: float, *, idle=True, pinned=False, reload_s=1.0) -> Candidate:
    return Candidate(
        key=ModelKey("b", name), size_bytes=size, last_used=used, idle=idle, pinned=pinned, reload_s=reload_s
    )


def names(keys):
    return None if keys is None else "".join(sorted(key.model for key in keys))


def frees(candidates, need):
    """Tell whether so many bytes come free."""
    sizes = {item.key: item.size_bytes for item in candidates}
    return lambda gone: sum(sizes[key] for key in gone) >= need


A, B, C = candidate("a", 4, 1), candidate("b", 10, 2), candidate("c", 6, 3)


@pytest.mark.parametrize(
    ("candidates", "need", "strategy", "victims"),
    [
        pytest.param([A, B, C], 0, "lru", "", id="nothing is needed: nobody goes"),
        pytest.param([A, B, C], -5, "lru", "", id="more than enough is free: nobody goes"),
        pytest.param([], 1, "lru", None, id="nobody there: impossible"),
        pytest.param([A, B, C], 21, "lru", None, id="all together are too small"),
        pytest.param([A, B, C], 20, "lru", "abc", id="all of them, just enough"),
        pytest.param([A, B, C], 4, "lru", "a", id="the longest unused goes first"),
        pytest.param([A, B, C], 8, "lru", "b", id="the oldest is spared where it does not help"),
        pytest.param([A, B, C], 14, "lru", "ab", id="oldest first, until it is enough"),
        pytest.param([A, B, C], 3, "largest", "b", id="the biggest goes first"),
        pytest.param([A, B, C], 11, "largest", "bc", id="the biggest ones go first"),
        pytest.param([candidate("a", 4, 1, idle=False), B, C], 4, "lru", "b", id="a busy one stays"),
        pytest.param([candidate("a", 4, 1, pinned=True), B, C], 4, "lru", "b", id="a pinned one stays"),
        pytest.param([candidate("a", 9, 1, idle=False), candidate("b", 9, 2, pinned=True)], 1, "cost", None, id="none"),
        pytest.param([candidate("a", 0, 1), B], 4, "lru", "b", id="one that holds nothing frees nothing"),
        pytest.param(
            [candidate("a", 8, 1, reload_s=9), candidate("b", 4, 2, reload_s=2), candidate("c", 4, 3, reload_s=2)],
            8,
            "cost",
            "bc",
            id="the set that is quickest to load again",
        ),
        pytest.param(
            [candidate("a", 8, 1, reload_s=3), candidate("b", 4, 2, reload_s=2), candidate("c", 4, 3, reload_s=2)],
            8,
            "cost",
            "a",
            id="one that costs less than two",
        ),
    ],
)
def test_victims_are_chosen_by_strategy(candidates, need, strategy, victims):
    assert names(choose_victims(candidates, frees(candidates, need), strategy=strategy)) == victims


def test_a_model_nobody_has_used_for_long_is_worth_less_than_its_load():
    """What was used just now is likely to be asked for again, even where it would be quicker to load."""
    stale, hot = candidate("a", 8, 0.0, reload_s=4.0), candidate("b", 8, 3600.0, reload_s=2.0)
    assert names(choose_victims([stale, hot], frees([stale, hot], 8), strategy="cost", now=3600.0)) == "a"
    fresh = candidate("a", 8, 3590.0, reload_s=4.0)
    assert names(choose_victims([fresh, hot], frees([fresh, hot], 8), strategy="cost", now=3600.0)) == "b"


def test_cost_falls_back_to_cost_by_byte_among_very_many():
    many = [candidate(f"m{index:02}", 2, index, reload_s=20 - index) for index in range(20)]
    assert choose_victims(many, frees(many, 4), strategy="cost") == (ModelKey("b", "m19"), ModelKey("b", "m18"))


@pytest.mark.parametrize(
    ("candidates", "need", "already", "closed"),
    [
        pytest.param(
            [candidate("a", 5, 9, idle=False), candidate("b", 5, 1, idle=False)], 5, "", "b", id="by last use"
        ),
        pytest.param([candidate("a", 5, 9, idle=False), candidate("b", 5, 1, idle=False)], 5, "a", "a", id="it stands"),
        pytest.param([candidate("a", 5, 9), candidate("b", 5, 1, idle=False)], 5, "", "a", id="idle ones first"),
        pytest.param(
            [candidate("a", 5, 9, pinned=True), candidate("b", 5, 1, idle=False)], 5, "", "b", id="not pinned"
        ),
        pytest.param([candidate("a", 5, 9, idle=False)], 50, "", None, id="nobody, when all are too small"),
    ],
)
def test_residents_in_the_way_are_closed(candidates, need, already, closed):
    enough = frees(candidates, need)
    assert names(choose_closing(candidates, enough, already={ModelKey("b", name) for name in already})) == closed


@given(
    sizes=st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 5), st.booleans(), st.booleans(), st.integers(0, 9)), max_size=8
    ),
    need=st.integers(-5, 80),
    strategy=st.sampled_from(["lru", "largest", "cost"]),
)
def test_victims_are_idle_unpinned_sufficient_and_none_is_superfluous(sizes, need, strategy):
    candidates = [
        candidate(f"m{index}", size, used, idle=idle, pinned=pinned, reload_s=cost)
        for index, (size, used, idle, pinned, cost) in enumerate(sizes)
    ]
    by_key = {item.key: item for item in candidates}
    able = sum(item.size_bytes for item in candidates if item.idle and not item.pinned)
    victims = choose_victims(candidates, frees(candidates, need), strategy=strategy)
    if victims is None:
        assert able < need
        return
    chosen = [by_key[key] for key in victims]
    freed = sum(item.size_bytes for item in chosen)
    assert all(item.idle and not item.pinned for item in chosen)
    assert freed >= need
    assert need > 0 or not chosen
    if strategy != "cost":
        assert all(freed - item.size_bytes < need for item in chosen)
