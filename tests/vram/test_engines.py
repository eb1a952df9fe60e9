"""What the gate makes of engines that are slow to answer, do not answer, or answer nonsense."""

from __future__ import annotations

import asyncio

import pytest

from smartrouter_asgi.deployment import Deployment, LoadedModel
from smartrouter_asgi.exceptions import AttemptError, FailureKind
from smartrouter_asgi.testing import ManualClock
from smartrouter_asgi.vram import CallbackLifecycle, GatePolicy, VRAMGate, engines
from smartrouter_asgi.vram.engines import Engines

A = LoadedModel(id="A", vram_bytes=4)


class Told:
    """Says what it is told to say; `hangs`: nothing at all."""

    def __init__(self, answer=(A,)):
        self.answer = answer
        self.hangs = False
        self.asked = 0

    async def load(self, model):
        """Be quick."""

    async def unload(self, model):
        """Be quick."""

    async def is_idle(self, model):
        return None

    async def running(self):
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(engines, "ANSWER_TIMEOUT_S", 0.1)
    monkeypatch.setattr(engines, "MOMENT_S", 0.01)


def engines_of(*, clock=lambda: 0.0, **lifecycles):
    return Engines(lifecycles, GatePolicy(), clock=clock)


async def test_an_engine_that_hangs_keeps_no_model_of_another_one_out():
    """Its silence lasts longer than an answer counts; what the others say is new all the same."""
    silent = Told()
    silent.hangs = True
    gate = VRAMGate(
        budget_bytes=8, lifecycles={"box": Told(()), "silent": silent}, policy=GatePolicy(reconcile_ttl_s=0.01)
    )
    wanted = Deployment(backend="box", model="B", vram_bytes=4, gated=True)
    (await asyncio.wait_for(gate.admit(wanted), 5)).release()
    await gate.aclose()


async def test_an_engine_slower_than_its_answers_count_is_served_all_the_same():
    async def running():
        await asyncio.sleep(0.03)
        return ()

    async def change(model):
        """Be quick."""

    lifecycle = CallbackLifecycle(load=change, unload=change, running=running)
    gate = VRAMGate(budget_bytes=8, lifecycles={"box": lifecycle}, policy=GatePolicy(reconcile_ttl_s=0.01))
    wanted = Deployment(backend="box", model="B", vram_bytes=4, gated=True)
    (await asyncio.wait_for(gate.admit(wanted), 5)).release()
    await gate.aclose()


async def test_an_engine_that_was_silent_is_waited_for_a_moment_only_for_a_while(monkeypatch):
    monkeypatch.setattr(engines, "ANSWER_TIMEOUT_S", 0.5)
    clock, silent = ManualClock(), Told()
    silent.hangs = True
    asked = engines_of(clock=clock, silent=silent)
    loop = asyncio.get_running_loop()

    async def asking_s():
        began = loop.time()
        assert await asked.ask() == {"silent": None}
        return loop.time() - began

    assert await asking_s() >= 0.5
    assert await asking_s() < 0.25
    clock.advance(engines.SILENT_FOR_S)
    assert await asking_s() >= 0.5
    silent.hangs = False
    assert await asked.ask() == {"silent": (A,)}
    silent.hangs = True
    assert await asking_s() >= 0.5, "one that has answered is trusted again"


async def test_an_engine_at_whose_address_nobody_listens_has_nothing_loaded():
    refused = AttemptError("refused", kind=FailureKind.CONNECT, code="no_backend")
    assert await engines_of(box=Told(refused)).ask() == {"box": ()}


@pytest.mark.parametrize(
    "trouble",
    [
        AttemptError("too slow", kind=FailureKind.CONNECT, code="upstream_connect_timeout"),
        AttemptError("unknown", kind=FailureKind.CONNECT, code="upstream_dns"),
        AttemptError("busy", kind=FailureKind.SERVER),
        OSError("down"),
        None,
        5,
    ],
    ids=str,
)
async def test_what_an_engine_cannot_say_changes_nothing(trouble):
    assert await engines_of(box=Told(trouble)).ask() == {"box": None}


@pytest.mark.parametrize("nonsense", [["A"], {"A": 4}, [A, None]], ids=str)
async def test_an_answer_that_is_no_list_of_models_changes_nothing_and_is_told_once(nonsense, caplog):
    asked = engines_of(box=Told(nonsense), other=Told())
    for _ in range(2):
        assert await asked.ask() == {"box": None, "other": (A,)}
    assert caplog.text.count("'box'") == 1
