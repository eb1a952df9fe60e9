"""Whose models are gated: engines of whose memory somebody knows how much there is."""

from __future__ import annotations

from typing import Any

import pytest

import smartrouter_asgi.memory as memory_module
from smartrouter_asgi import CallbackLifecycle, Deployment, Settings, SmartRouter
from smartrouter_asgi.cli.memory import memory_report
from smartrouter_asgi.vram.probes import MemoryProbe, StaticProbe

from .test_memory import LOCAL, REMOTE, card

NO_GPU = StaticProbe()


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch):
    def router_of(backends: dict[str, Any], probe: MemoryProbe = NO_GPU, *, vram: Any = None, **router: Any):
        monkeypatch.setattr(memory_module, "SystemProbe", lambda **_: probe)
        return SmartRouter(Settings.model_validate({"backends": backends, "vram": vram or {}}), **router)

    return router_of


def gated(router: SmartRouter) -> set[str]:
    if router.gate is None:
        return set()
    names = [*router.backends, "service"]
    return {name for name in names if router.gate.covers(Deployment(backend=name, model="m", gated=True))}


async def change(model: str) -> None:
    """Load and unload."""


SERVICE = {"service": CallbackLifecycle(load=change, unload=change)}


def test_an_engine_elsewhere_is_gated_once_it_has_a_budget_of_its_own(make):
    router = make({"far": {**REMOTE, "vram": "24GiB"}})
    assert gated(router) == {"far"}
    assert router.backends["far"].spec.gated
    assert memory_report(router).text == "24.0 GiB (declared) shared by the models of far"
    assert gated(make({"far": {**REMOTE, "vram": "24GiB", "gated": False}})) == set()
    assert gated(make({"far": REMOTE})) == set()


def test_an_engine_here_is_not_gated_by_the_budget_of_one_elsewhere(make):
    """Nothing is detected or declared here: its models pass, and its own timers are left alone."""
    router = make({"local": LOCAL, "far": {**REMOTE, "vram": "24GiB"}})
    assert gated(router) == {"far"}
    assert not router.backends["local"].spec.gated
    assert router.backends["local"].spec.keep_alive_s is None
    assert memory_report(router).backends == ("far",)


def test_closed_it_is_refused_as_long_as_nothing_is_known(make):
    router = make({"local": LOCAL, "far": {**REMOTE, "vram": "24GiB"}}, vram={"unknown": "closed"})
    assert gated(router) == {"local", "far"}


def test_a_service_beside_the_backends_shares_the_gpu_here_and_no_other(make):
    backends = {"far": {**REMOTE, "vram": "24GiB"}}
    assert gated(make(backends, lifecycles=SERVICE)) == {"far"}
    router = make(backends, StaticProbe(card(0)), lifecycles=SERVICE)
    assert gated(router) == {"far", "service"}
    assert router.gate is not None
    router.gate.fix(Deployment(backend="service", model="m", vram_bytes=8, gated=True))
    assert [dict(held.placement) for held in router.gate.snapshot().residents] == [{"GPU-0": 8}]


def test_a_service_alone_is_gated_by_the_gpu_that_is_detected(make):
    assert gated(make({"cloud": {"type": "openai"}}, StaticProbe(card(0)), lifecycles=SERVICE)) >= {"service"}
    assert make({"cloud": {"type": "openai"}}, StaticProbe(card(0))).gate is None
