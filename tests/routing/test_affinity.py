"""Laws of affinity: what belongs together, and where it goes."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartrouter_asgi.deployment import Deployment
from smartrouter_asgi.routing.affinity import INSTRUCTIONS, MESSAGE_BYTES, PROMPT_BYTES, affinity_key, by_key
from smartrouter_asgi.routing.resolver import resolve
from smartrouter_asgi.types import Operation
from smartrouter_asgi.wire.call import Call, parse_call

from .test_resolver import catalog, group

HELLO = [{"role": "user", "content": "hello"}]


def places(count: int, **fields: Any) -> list[Deployment]:
    return [Deployment(backend=f"b{number}", model="m", **fields) for number in range(count)]


def call(operation: Operation = "chat", **fields: Any) -> Call:
    required = {"chat": {"messages": HELLO}, "completions": {"prompt": "once"}, "embeddings": {"input": "x"}}
    return parse_call(operation, json.dumps({"model": "m", **required[operation], **fields}).encode())


def said(*messages: tuple[str, Any]) -> Call:
    return call(messages=[{"role": role, "content": content} for role, content in messages])


def prefix(of: Call) -> bytes | None:
    return affinity_key("prefix", of, session=None)


keys = st.binary(min_size=8, max_size=8)
weights = st.lists(st.floats(min_value=0.1, max_value=50.0), min_size=2, max_size=8)


def weighted(shares: list[float]) -> list[Deployment]:
    return [Deployment(backend=f"b{n}", model="m", weight=share) for n, share in enumerate(shares)]


@given(key=keys, shares=weights, data=st.data())
def test_everybody_finds_the_same_order_and_one_that_goes_moves_nobody_elses(key, shares, data):
    """However the deployments are listed; the order of those that stay is as it was."""
    tier = weighted(shares)
    order = by_key(tier, key)
    assert sorted(order, key=tier.index) == tier
    assert by_key(data.draw(st.permutations(tier)), key) == order
    gone = data.draw(st.sampled_from(tier))
    assert by_key([d for d in tier if d is not gone], key) == [d for d in order if d is not gone]


def test_shares_are_in_proportion_to_weights():
    """Also what one with another weight takes over: raising it moves sessions to it and between no others."""
    rng = random.Random(5)
    sessions = [rng.randbytes(8) for _ in range(6000)]
    before = [by_key(weighted([1.0, 2.0, 3.0]), key)[0].backend for key in sessions]
    after = [by_key(weighted([1.0, 2.0, 6.0]), key)[0].backend for key in sessions]
    for backend, share in (("b0", 1 / 6), ("b1", 2 / 6), ("b2", 3 / 6)):
        assert abs(Counter(before)[backend] / 6000 - share) < 0.03
    assert abs(Counter(after)["b2"] / 6000 - 6 / 9) < 0.03
    assert {pair[1] for pair in zip(before, after, strict=True) if pair[0] != pair[1]} == {"b2"}


def test_no_weight_is_last():
    assert by_key([Deployment(backend="b", model="never", weight=0), *places(1)], b"12345678")[0].backend == "b0"


loads = st.lists(st.tuples(st.floats(0.1, 50.0), st.integers(0, 200)), min_size=2, max_size=8)


@given(key=keys, numbers=loads)
def test_the_first_is_never_overloaded_and_the_rest_keep_their_order(key, numbers):
    """More than twice its share of what the others have in flight, and two: then it is not the first."""
    tier = weighted([weight for weight, _ in numbers])
    inflight = {d: float(load) for d, (_, load) in zip(tier, numbers, strict=True)}
    first, *rest = by_key(tier, key, inflight.__getitem__)
    per_weight = (sum(inflight.values()) - inflight[first]) / (sum(d.weight for d in tier) - first.weight)
    assert inflight[first] <= 2 * first.weight * per_weight + 2 + 1e-6
    assert rest == [d for d in by_key(tier, key) if d is not first]


@pytest.mark.parametrize("count", [2, 3, 8])
def test_one_session_alone_does_not_drown_its_deployment(count: int):
    """A hundred requests of one session at once: the next ones by the hash take their part."""
    tier, inflight = places(count), Counter[Deployment]()
    for _ in range(100):
        inflight[by_key(tier, b"sessions", lambda d: inflight[d])[0]] += 1
    most = max(inflight.values())
    assert most <= 2 * (100 - most) / (count - 1) + 3


def test_a_few_requests_at_once_stay_together():
    """Being passed over takes more than the two or three that a client sends at once."""
    tier = places(3)
    first = by_key(tier, b"sessions")[0]
    assert by_key(tier, b"sessions", lambda d: 2.0 if d is first else 0.0)[0] is first
    assert by_key(tier, b"sessions", lambda d: 3.0 if d is first else 0.0)[0] is not first


# -- keys


@pytest.mark.parametrize("affinity", ["session", "prefix"])
def test_the_header_goes_before_the_body_and_a_name_means_the_same_in_both(affinity):
    fields = {"litellm_session_id": "one", "prompt_cache_key": "two", "user": "three"}
    header = affinity_key(affinity, call(**fields), session=b"zero")
    assert header == affinity_key(affinity, call(prompt_cache_key="zero"), session=None)
    litellm = affinity_key(affinity, call(**fields), session=None)
    assert litellm == affinity_key(affinity, call(), session=b"one")
    del fields["litellm_session_id"]
    assert affinity_key(affinity, call(**fields), session=None) == affinity_key(affinity, call(), session=b"two")
    assert len({header, litellm}) == 2


def test_a_user_names_a_session_only_where_the_prompt_does_not_count():
    """One service's constant `user` would send all its conversations to one engine."""
    assert affinity_key("session", call(user="me"), session=None) == affinity_key("session", call(), session=b"me")
    assert prefix(call(user="me")) == prefix(call())


@pytest.mark.parametrize("value", [None, "", 7, ["x"], {"x": "y"}, True])
def test_what_is_no_name_is_no_key(value: Any):
    named = call(litellm_session_id=value, prompt_cache_key=value, user=value)
    assert affinity_key("session", named, session=None) is None
    assert prefix(named) == prefix(call())


def test_a_key_is_eight_bytes_that_do_not_show_the_name():
    key = affinity_key("session", call(), session=b"secret-session")
    assert key is not None
    assert len(key) == 8
    assert b"secret" not in key


def test_without_affinity_and_for_embeddings_there_is_no_key():
    assert affinity_key("none", call(user="me"), session=b"s") is None
    for affinity in ("session", "prefix"):
        assert affinity_key(affinity, call("embeddings", user="me"), session=b"s") is None


def test_a_conversation_keeps_its_prefix_while_it_goes_on():
    """Whatever follows the first message of the user; a changed beginning is another conversation."""
    begin = [("system", "be kind"), ("user", "hello")]
    key = prefix(said(*begin))
    assert key == prefix(said(*begin, ("assistant", "hi"), ("user", "and now?")))
    assert key == prefix(call(messages=[{"role": r, "content": c} for r, c in begin], temperature=1, stream=True))
    others = [
        said(("system", "be rude"), ("user", "hello")),
        said(("system", "be kind"), ("user", "hello you")),
        said(("user", "hello")),
        said(("system", "be kind"), ("developer", "x"), ("user", "hello")),
    ]
    assert len({key, *map(prefix, others)}) == 5


def test_long_instructions_do_not_hide_the_first_question():
    """Only the beginning of each message counts, and of the instructions only the first few."""
    book = "x" * 100_000
    assert prefix(said(("system", book), ("user", "a"))) != prefix(said(("system", book), ("user", "b")))
    many = [("system", str(n)) for n in range(50)]
    assert prefix(said(*many, ("user", "a"))) != prefix(said(*many, ("user", "b")))
    assert prefix(said(*many, ("user", "a"))) == prefix(said(*many[:INSTRUCTIONS], ("user", "a")))
    assert prefix(said(*many, ("user", "a"))) != prefix(said(*many[: INSTRUCTIONS - 1], ("user", "a")))
    question = "q" * MESSAGE_BYTES
    assert prefix(said(("user", question + "a"))) == prefix(said(("user", question + "b")))


def test_a_completion_goes_by_the_beginning_of_its_prompt():
    begin = "o" * PROMPT_BYTES
    assert prefix(call("completions", prompt=begin + "a")) == prefix(call("completions", prompt=begin + "b"))
    assert prefix(call("completions", prompt="a")) != prefix(call("completions", prompt="b"))
    assert prefix(call("completions", prompt=[1, 2, 3])) != prefix(call("completions", prompt=[1, 2, 4]))


@pytest.mark.parametrize("messages", ['["x", 7, null]', '[{"role": 7}]', '[{"role": null}, {"role": "user"}]'])
def test_odd_messages_have_a_key_all_the_same(messages: str):
    """What is wrong with them is the engine's to say."""
    assert prefix(parse_call("chat", f'{{"model": "m", "messages": {messages}}}'.encode())) is not None


def test_no_messages_have_no_prefix():
    assert prefix(call(messages=[])) is None


# -- in resolution


def plan_of(known, affinity=lambda kind: b"12345678", **fields: Any) -> list[Deployment]:
    return list(resolve("m", known, random=random.random, affinity=affinity, **fields).candidates)


@pytest.mark.parametrize("balance", ["weighted", "least_busy", "latency"])
def test_affinity_goes_before_balance_and_tiers_before_affinity(balance: str):
    first, second = places(3, order=1), [Deployment(backend=f"c{n}", model="m", order=2) for n in range(3)]
    known = catalog(group("m", *second, *first, balance=balance, affinity="session"))
    plan = plan_of(known, load=lambda balance, d: 0.0)
    assert plan == by_key(first, b"12345678") + by_key(second, b"12345678")


def test_a_request_that_belongs_to_nothing_is_balanced():
    known = catalog(group("m", *places(3), balance="least_busy", affinity="session"))
    busy = {"b0": 2.0, "b1": 0.0, "b2": 1.0}
    rng = random.Random(6)
    firsts = {
        resolve("m", known, random=rng.random, load=lambda _, d: busy[d.backend], affinity=lambda kind: None)
        .candidates[0]
        .backend
        for _ in range(50)
    }
    assert firsts == {"b1", "b2"}


def test_fallback_models_use_the_affinity_that_is_theirs():
    asked: list[str] = []

    def affinity(kind: str) -> bytes:
        asked.append(kind)
        return b"12345678"

    others = [Deployment(backend=f"c{n}", model="f") for n in range(4)]
    known = catalog(
        group("m", *places(2), affinity="prefix", fallbacks=("f",)), group("f", *others, affinity="session")
    )
    assert plan_of(known, affinity) == by_key(places(2), b"12345678") + by_key(others, b"12345678")
    assert asked == ["prefix", "session"]


def test_the_key_is_looked_for_only_where_it_is_wanted():
    """Not without an affinity, nor where there is no choice."""

    def affinity(kind: str) -> bytes:
        raise AssertionError(kind)

    plan_of(catalog(group("m", *places(3))), affinity)
    plan_of(catalog(group("m", *places(1), affinity="prefix")), affinity)


def test_overload_is_what_least_busy_says():
    tier = places(2)
    first, second = by_key(tier, b"12345678")
    known = catalog(group("m", *tier, balance="latency", affinity="session"))
    load = {("least_busy", first): 3.0, ("least_busy", second): 0.0}
    assert plan_of(known, load=lambda balance, d: load[balance, d]) == [second, first]
