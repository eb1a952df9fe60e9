"""Loads have a breaker of their own: an engine that cannot be reached is not asked for one load after another."""

from __future__ import annotations

import pytest

from smartrouter_asgi import BreakerPolicy, Capabilities, Deployment, GatePolicy, VRAMGate
from smartrouter_asgi.exceptions import AttemptError, BreakerOpenError, FailureKind
from smartrouter_asgi.loading import LOAD, guarded_lifecycles
from smartrouter_asgi.resilience import BreakerBoard
from smartrouter_asgi.testing.backend import ScriptedBackend
from smartrouter_asgi.testing.clock import ManualClock

GIB = 1024**3
UNREACHABLE = AttemptError("refused", kind=FailureKind.CONNECT, status=503, code="no_backend")
BROKEN = AttemptError("bad weights", kind=FailureKind.MODEL_FAILED, status=503, code="model_load_failed")


class Box:
    """An engine, its breakers and the gate in front of it; `resident` is in memory already."""

    def __init__(self) -> None:
        self.engine = ScriptedBackend("gpu", capabilities=Capabilities(can_load=True, can_report_loaded=True))
        self.clock = ManualClock()
        self.breakers = BreakerBoard(BreakerPolicy(), clock=self.clock)
        self.gate = VRAMGate(
            budget_bytes=12 * GIB,
            lifecycles=guarded_lifecycles({"gpu": self.engine}, self.breakers),
            policy=GatePolicy(),
            load_wait_s=lambda backend: self.breakers.get(backend, LOAD).peek(),
        )

    async def admit(self, model: str, gib: int = 6) -> None:
        (await self.gate.admit(Deployment(backend="gpu", model=model, vram_bytes=gib * GIB, gated=True))).release()

    def state(self) -> str:
        return self.breakers.get("gpu", LOAD).state_name


async def test_five_failed_loads_open_the_breaker_and_nobody_is_evicted_for_a_sixth():
    """The resident model stays, and goes on being served: it needs no load."""
    box = Box()
    await box.admit("resident")
    box.engine.loading = UNREACHABLE
    for _ in range(5):
        with pytest.raises(AttemptError, match="refused"):
            await box.admit("other")
    assert box.state() == "open"
    loads = len(box.engine.loads)
    with pytest.raises(BreakerOpenError) as caught:
        await box.admit("large", gib=12)
    assert caught.value.retry_after_s is not None
    assert 0 < caught.value.retry_after_s <= 60
    assert (len(box.engine.loads), box.engine.unloads) == (loads, [])
    await box.admit("resident")
    await box.gate.aclose()


async def test_loads_that_succeed_close_it_again():
    box = Box()
    box.engine.loading = UNREACHABLE
    for _ in range(5):
        with pytest.raises(AttemptError):
            await box.admit("a")
    box.engine.loading = ()
    box.clock.advance(60.0)
    for model in ("a", "b", "c"):
        assert box.state() != "closed"
        await box.admit(model)
    assert box.state() == "closed"
    await box.gate.aclose()


async def test_a_model_that_does_not_load_says_nothing_against_its_server():
    box = Box()
    box.engine.loading = BROKEN
    for _ in range(10):
        with pytest.raises(AttemptError, match="bad weights"):
            await box.admit("a")
    assert box.state() == "closed"
    await box.gate.aclose()
