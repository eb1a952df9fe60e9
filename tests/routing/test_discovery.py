"""Laws of discovery: on demand, single-flight, the last good list kept, no backend in another's way."""

from __future__ import annotations

import asyncio

import pytest

from smartrouter_asgi.deployment import Deployment, ModelInfo
from smartrouter_asgi.exceptions import NoBackendError
from smartrouter_asgi.routing.catalog import ModelGroup
from smartrouter_asgi.routing.discovery import Discovery, DiscoveryRules, DiscoverySource
from smartrouter_asgi.routing.listing import CONFIRM_AFTER_S
from smartrouter_asgi.testing import ManualClock


class Engine:
    """A backend that lists what it is told to."""

    def __init__(self, name: str, *ids: str, prefix: str = "") -> None:
        self.ids = list(ids)
        self.asked = 0
        self.learned: list[int] = []
        self.fails = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.source = DiscoverySource(
            backend=name,
            list_models=self.list_models,
            deploy=lambda info: Deployment(backend=name, model=info.id),
            prefix=prefix,
            learn=lambda models: self.learned.append(len(models)),
        )

    async def list_models(self):
        self.asked += 1
        await self.gate.wait()
        if self.fails:
            raise NoBackendError("it does not answer")
        return [ModelInfo(id=one) for one in self.ids]


def discovery(*engines: Engine, clock: ManualClock | None = None, **fields) -> Discovery:
    return Discovery(sources=[e.source for e in engines], clock=clock or ManualClock(), **fields)


async def test_nothing_is_asked_until_somebody_wants_to_know():
    """Construction costs nothing."""
    engine = Engine("a", "x")
    found = discovery(engine)
    assert found.current().find("x") is None
    assert engine.asked == 0


async def test_a_miss_refreshes_once_for_all_who_miss():
    """Single flight, and not again within a second."""
    engine, clock = Engine("a", "x"), ManualClock()
    found = discovery(engine, clock=clock)
    catalogs = await asyncio.gather(*(found.refreshed("x") for _ in range(20)))
    assert all(c.find("x") is not None for c in catalogs)
    assert engine.asked == 1
    await found.refreshed("nope")
    assert engine.asked == 1
    clock.advance(2)
    await found.refreshed("nope")
    assert engine.asked == 2


async def test_a_backend_that_hangs_delays_nobody_who_asks_for_another_s_model():
    """The first that has the name ends the wait."""
    fast, slow = Engine("fast", "x"), Engine("slow", "y")
    slow.gate.clear()
    found = discovery(slow, fast)
    async with asyncio.timeout(2):
        assert (await found.refreshed("x")).find("x") is not None
    slow.gate.set()
    assert (await found.refreshed("y")).find("y") is not None
    await found.aclose()


async def test_the_last_good_list_stays_when_a_backend_fails():
    """With its age; the name is still there, and an unknown one is a plain 404."""
    engine, clock = Engine("a", "x"), ManualClock()
    found = discovery(engine, clock=clock)
    await found.refresh()
    engine.fails = True
    clock.advance(100)
    await found.refresh()
    assert found.current().find("x") is not None
    assert found.ages() == {"a": 100}
    assert found.why_missing("y") is None


async def test_a_backend_that_never_listed_anything_makes_a_missing_name_503():
    """It may have it: nobody can say that the model does not exist."""
    engine = Engine("a")
    engine.fails = True
    found = discovery(engine)
    await found.refreshed("x")
    assert isinstance(found.why_missing("x"), NoBackendError)


async def test_an_old_list_is_renewed_in_the_background():
    """The request that notices is not delayed."""
    engine, clock = Engine("a", "x"), ManualClock()
    found = discovery(engine, clock=clock)
    await found.refresh()
    engine.ids.append("y")
    clock.advance(31)
    assert found.current().find("y") is None
    await found.refresh(max_age_s=1000)  # joins what is under way
    assert found.current().find("y") is not None
    assert engine.asked == 2


async def test_a_prefix_comes_off_and_the_upstream_id_stays():
    """Ids that lack the prefix are listed as they are."""
    engine = Engine("a", "openai/gpt", "plain", prefix="openai/")
    catalog = await discovery(engine).refresh()
    assert {name: catalog.find(name).deployments[0].model for name in catalog.names} == {
        "gpt": "openai/gpt",
        "plain": "plain",
    }


async def test_globs_say_what_is_offered():
    """Included and not excluded."""
    engine = Engine("a", "llama:8b", "llama:70b", "secret:1b")
    rules = DiscoveryRules(include=("llama*",), exclude=("*:70b",))
    assert (await discovery(engine, rules=rules).refresh()).names == ("llama:8b",)


async def test_one_id_at_two_backends_is_one_model_with_two_deployments():
    """And a configured model keeps its name to itself."""
    own = ModelGroup(name="y", deployments=(Deployment(backend="c", model="own"),))
    found = discovery(Engine("a", "x", "y"), Engine("b", "x"), configured=lambda: [own])
    catalog = await found.refresh()
    assert [d.backend for d in catalog.find("x").deployments] == ["a", "b"]
    assert catalog.find("y") is own


@pytest.mark.parametrize("method", ["refresh", "refreshed"])
async def test_switched_off_it_asks_nobody(method: str):
    """Only configured names exist."""
    engine = Engine("a", "x")
    found = discovery(engine, rules=DiscoveryRules(enabled=False))
    await (found.refresh() if method == "refresh" else found.refreshed("x"))
    assert engine.asked == 0


async def test_a_request_that_leaves_ends_no_refresh():
    """The asking belongs to discovery."""
    engine = Engine("a", "x")
    engine.gate.clear()
    found = discovery(engine)
    waiting = asyncio.create_task(found.refreshed("x"))
    while engine.asked == 0:
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    engine.gate.set()
    assert (await found.refreshed("x")).find("x") is not None
    assert engine.asked == 1


async def test_a_backend_that_lost_a_model_is_asked_again_alone_and_not_all_the_time():
    """Single flight, and not again within a second."""
    one, other, clock = Engine("a", "x", "z"), Engine("b", "y"), ManualClock()
    found = discovery(one, other, clock=clock)
    await found.refresh()
    one.ids.remove("x")
    clock.advance(2)
    catalogs = await asyncio.gather(*(found.rechecked({"a"}) for _ in range(20)))
    assert all(catalog.find("x") is None and catalog.find("y") is not None for catalog in catalogs)
    await found.rechecked({"a"})
    assert (one.asked, other.asked) == (2, 1)


async def test_an_empty_list_is_believed_when_the_next_one_confirms_it_a_while_later():
    """What was listed stays until then, and grows old; configured deployments keep what was learned of it, too."""
    engine, clock = Engine("a", "x"), ManualClock()
    found = discovery(engine, clock=clock)
    await found.refresh()
    engine.ids.clear()
    clock.advance(100)
    await found.refresh()
    for _ in range(4):  # asked again at once and once a second it is still one and the same doubt
        await found.refresh(max_age_s=-1)
        assert found.current().find("x") is not None
        assert found.why_missing("y") is None
        clock.advance(1)
    assert found.ages() == {"a": 104}
    assert engine.learned == [1]
    clock.advance(CONFIRM_AFTER_S)
    assert (await found.refresh(max_age_s=-1)).names == ()
    assert found.ages() == {"a": 0}
    assert engine.learned == [1, 0]


async def test_a_doubt_is_settled_before_the_list_is_old():
    """By the first request that comes when it can be, in the background."""
    engine, clock = Engine("a", "x"), ManualClock()
    found = discovery(engine, clock=clock, rules=DiscoveryRules(ttl_s=3600))
    await found.refresh()
    engine.ids.clear()
    await found.refresh(max_age_s=-1)
    clock.advance(CONFIRM_AFTER_S)
    found.current()
    await asyncio.sleep(0)
    assert engine.asked == 2
    clock.advance(0.1)
    assert found.current().find("x") is not None
    await found.refresh(max_age_s=3600)  # joins what is under way
    assert found.current().find("x") is None
    assert engine.asked == 3


@pytest.mark.parametrize("between", ["a list", "a failure"])
async def test_what_comes_between_two_empty_lists_begins_the_doubt_anew(between: str):
    """They confirm each other only when one follows the other."""
    engine, clock = Engine("a", "x"), ManualClock()
    found = discovery(engine, clock=clock)
    await found.refresh()
    engine.ids.clear()
    await found.refresh(max_age_s=-1)
    engine.ids, engine.fails = ["x"], between == "a failure"
    await found.refresh(max_age_s=-1)
    engine.ids, engine.fails = [], False
    clock.advance(2 * CONFIRM_AFTER_S)
    assert (await found.refresh(max_age_s=-1)).names == ("x",)
    clock.advance(CONFIRM_AFTER_S)
    assert (await found.refresh(max_age_s=-1)).names == ()


async def test_an_answer_that_was_asked_for_too_early_confirms_nothing():
    """However late it comes."""
    engine, clock = Engine("a", "x"), ManualClock()
    found = discovery(engine, clock=clock)
    await found.refresh()
    engine.ids.clear()
    await found.refresh(max_age_s=-1)
    engine.gate.clear()
    waiting = asyncio.create_task(found.refresh(max_age_s=-1))
    while engine.asked < 3:
        await asyncio.sleep(0)
    clock.advance(2 * CONFIRM_AFTER_S)
    engine.gate.set()
    assert (await waiting).names == ("x",)


async def test_an_operator_confirms_an_empty_list_without_waiting():
    """Not the first: nobody had seen that one."""
    engine, clock = Engine("a", "x"), ManualClock()
    found = discovery(engine, clock=clock)
    await found.refresh()
    engine.ids.clear()
    assert (await found.refresh(max_age_s=-1, by_operator=True)).names == ("x",)
    assert (await found.refresh(max_age_s=-1)).names == ("x",)
    assert (await found.refresh(max_age_s=-1, by_operator=True)).names == ()


async def test_an_engine_that_never_listed_a_model_may_have_none():
    """Nothing is lost by believing it."""
    found = discovery(Engine("a"))
    assert (await found.refresh()).names == ()
    assert found.why_missing("x") is None
    assert found.ages() == {"a": 0}
