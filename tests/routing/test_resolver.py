"""Laws of resolution."""

from __future__ import annotations

import random
from collections import Counter
from types import MappingProxyType

import pytest

from smartrouter_asgi.deployment import Deployment
from smartrouter_asgi.routing.catalog import Catalog, ModelGroup
from smartrouter_asgi.routing.resolver import not_found, resolve


def group(name: str, *deployments: Deployment, **fields) -> ModelGroup:
    return ModelGroup(name=name, deployments=deployments or (Deployment(backend="b", model=name),), **fields)


def catalog(*groups: ModelGroup, **aliases: str) -> Catalog:
    return Catalog(models=MappingProxyType({g.name: g for g in groups}), aliases=MappingProxyType(aliases))


def test_a_configured_model_goes_before_an_alias_and_an_alias_before_a_discovered_id():
    """The contract's order of names."""
    configured, discovered = group("a"), group("c", discovered=True)
    known = catalog(configured, group("b"), discovered, a="b", c="b")
    assert resolve("a", known, random=random.random).model == "a"
    assert resolve("c", known, random=random.random).model == "b"


def test_a_bare_id_means_latest():
    """As Ollama has it."""
    known = catalog(group("llama3:latest", discovered=True))
    assert resolve("llama3", known, random=random.random).model == "llama3:latest"


@pytest.mark.parametrize("name", ["", " ", "a b", "x" * 5000, "a\n", "é", "../x?", "http://x?y"])
def test_a_name_means_what_the_catalog_says_and_nothing_else(name: str):
    """Odd ones too, when an engine lists them."""
    assert resolve(name, catalog(group("x")), random=random.random) is None
    assert resolve(name, catalog(group(name)), random=random.random).model == name


def test_tiers_are_tried_in_order_and_weights_share_within_one():
    """Order first; a weight of three draws three times as often."""
    light = Deployment(backend="b", model="light", weight=1)
    heavy = Deployment(backend="b", model="heavy", weight=3)
    last = Deployment(backend="b", model="last", order=2, weight=100)
    known = catalog(group("m", last, light, heavy))
    rng = random.Random(7)
    firsts: Counter[str] = Counter()
    for _ in range(4000):
        candidates = resolve("m", known, random=rng.random).candidates
        assert candidates[-1] is last
        firsts[candidates[0].model] += 1
    assert 2.5 < firsts["heavy"] / firsts["light"] < 3.6


def test_least_busy_goes_first_within_its_tier():
    """The load comes in as an argument."""
    one, two = Deployment(backend="b", model="one"), Deployment(backend="b", model="two")
    known = catalog(group("m", one, two, balance="least_busy"))
    load = {"one": 3.0, "two": 1.0}
    plan = resolve("m", known, random=random.random, load=lambda balance, d: load[d.model])
    assert [d.model for d in plan.candidates] == ["two", "one"]


def test_fallback_models_follow_and_none_is_asked_twice():
    """The own deployments, then those of each fallback in turn; unknown fallbacks are passed over."""
    shared = Deployment(backend="b", model="shared")
    known = catalog(
        group("big", Deployment(backend="b", model="big"), fallbacks=("mid", "nope", "small")),
        group("mid", shared),
        group("small", shared, Deployment(backend="b", model="small", order=2)),
    )
    plan = resolve("big", known, random=random.random)
    assert [d.model for d in plan.candidates] == ["big", "shared", "small"]


def test_refusals_have_fallbacks_of_their_own():
    """Context-window and content-policy errors each lead to their list."""
    known = catalog(
        group("m", context_window_fallbacks=("long",), content_policy_fallbacks=("lenient",)),
        group("long"),
        group("lenient"),
    )
    plan = resolve("m", known, random=random.random)
    assert [d.model for d in plan.alternatives["context_length_exceeded"]] == ["long"]
    assert [d.model for d in plan.alternatives["content_filter"]] == ["lenient"]
    assert [d.model for d in plan.candidates] == ["m"]


def test_a_name_that_is_not_there_is_told_what_is_near():
    """Near names, else where to look; the name itself is cut and quoted when it is odd."""
    known = catalog(group("llama3.1:8b"))
    assert "'llama3.1:8b'" in not_found("llama3:8b", known).message
    assert "GET /v1/models" in not_found("zzz", known).message
    assert len(not_found("\x1b" * 5000, known).message) < 400
    assert "\x1b" not in not_found("\x1b[31m", known).message
    assert "no model is configured" in not_found("zzz", catalog()).message
