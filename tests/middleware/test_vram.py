"""The gate's layer alone: nobody enters without a lease, every lease comes back."""

from __future__ import annotations

import asyncio

import pytest

from smartrouter_asgi import Deployment, Timeouts, VRAMGateMiddleware
from smartrouter_asgi.exceptions import AttemptError, FailureKind
from smartrouter_asgi.state import SCOPE_KEY
from smartrouter_asgi.testing.asgi import drive, http_scope

from .layers import ALPHA, BETA, Inner, Witness, gate_over, gpu, post, soon, turns

MODELS = {"/alpha": ALPHA, "/beta": BETA}


def around(app, gate, **settings):
    return VRAMGateMiddleware(app, gate=gate, model_of=lambda scope: MODELS.get(scope["path"]), **settings)


def held(gate):
    """How many leases are out, draining ones counted."""
    return sum(resident.leases for resident in gate.snapshot().residents)


async def test_a_model_is_loaded_before_the_app_is_entered():
    """And only once for many requests."""
    engine, inner = gpu(), Inner()
    gate = gate_over(engine)
    app = around(inner, gate)
    calls = await asyncio.gather(*(drive(app, post("/alpha"), body=b"x") for _ in range(5)))
    assert [call.status for call in calls] == [200] * 5
    assert engine.loads == ["alpha"]
    assert inner.bodies == [b"x"] * 5
    assert held(gate) == 0


async def test_the_lease_is_held_until_the_app_has_ended():
    """A stream holds its model in memory to its last byte; the other model waits for that."""
    engine, first, second = gpu(), Witness(), Inner()
    gate = gate_over(engine)

    async def app(scope, receive, send):
        await (first if scope["path"] == "/alpha" else second)(scope, receive, send)

    app = around(app, gate)
    async with drive(app, post("/alpha")) as alpha, drive(app, post("/beta")) as beta:
        await soon(first.entered)
        await turns()
        assert gate.queue_depths() == {"gpu/beta": 1}
        assert held(gate) == 1
        assert second.calls == 0
        first.go_on.set()
        await alpha.ended()
        await beta.ended()
    assert beta.status == 200
    assert engine.unloads == ["alpha"]
    assert engine.loaded == ["beta"]
    assert held(gate) == 0


async def test_the_inner_app_is_told_its_attempt():
    inner = Inner()
    await drive(around(inner, gate_over(gpu())), post("/alpha"))
    assert inner.scopes[0][SCOPE_KEY].attempt.deployment == ALPHA


@pytest.mark.parametrize("path", ["/", "/models/alpha"])
async def test_requests_that_need_no_gpu_pass(path):
    engine = gpu()
    call = await drive(around(Inner(), gate_over(engine)), http_scope("GET", path))
    assert (call.status, engine.loads) == (200, [])


@pytest.mark.parametrize("error", [ZeroDivisionError(), AttemptError("no", kind=FailureKind.SERVER)])
async def test_an_app_that_fails_gives_its_lease_back(error):
    gate = gate_over(gpu())
    async with drive(around(Inner(error), gate), post("/alpha")) as call:
        assert await call.failure() is error or call.status == 502
    assert held(gate) == 0


@pytest.mark.parametrize("commit", [True, False])
async def test_the_lease_of_a_client_that_left_drains(commit):
    """Until the engine shows idle its memory is not free, so the other model still waits."""
    engine, inner = gpu(), Witness(commit=commit)
    engine.idle = False
    gate = gate_over(engine, release_grace_s=60)
    async with drive(around(inner, gate), post("/alpha")) as call:
        await soon(inner.entered)
        call.disconnect()
        await call.ended()
    assert inner.cancelled
    [resident] = gate.snapshot().residents
    assert (resident.leases, resident.draining) == (1, 1)
    async with drive(around(Inner(), gate), post("/beta")) as beta:
        await turns()
        assert beta.sent == []
        engine.idle = True
        await beta.ended()
    assert beta.status == 200
    assert held(gate) == 0
    await gate.aclose()


async def test_a_client_that_leaves_the_queue_leaves_nothing_behind():
    engine, first = gpu(), Witness()
    gate = gate_over(engine)
    async with drive(around(first, gate), post("/alpha")) as alpha:
        await soon(first.entered)
        async with drive(around(Inner(), gate), post("/beta")) as beta:
            await beta.idle()
            await turns()
            assert gate.queue_depths() == {"gpu/beta": 1}
            beta.disconnect()
            await beta.ended()
        assert gate.queue_depths() == {}
        first.go_on.set()
        await alpha.ended()
    assert engine.loads == ["alpha"]


async def test_a_full_queue_is_503():
    engine, first = gpu(), Witness()
    gate = gate_over(engine, max_queue=0)
    engine.loaded.append("alpha")
    await gate.reconcile()
    async with drive(around(first, gate), post("/alpha")) as alpha:
        await soon(first.entered)
        call = await drive(around(Inner(), gate), post("/beta"))
        first.go_on.set()
        await alpha.ended()
    assert (call.status, call.json()["error"]["code"]) == (503, "queue_full")
    assert int(call.header("retry-after")) >= 1


async def test_waiting_too_long_is_503():
    engine, first = gpu(), Witness()
    gate = gate_over(engine, max_wait_s=0.02)
    async with drive(around(first, gate), post("/alpha")) as alpha:
        await soon(first.entered)
        call = await drive(around(Inner(), gate), post("/beta"))
        first.go_on.set()
        await alpha.ended()
    assert (call.status, call.json()["error"]["code"]) == (503, "vram_queue_timeout")
    assert call.header("retry-after")


async def test_a_model_that_never_fits_is_503():
    call = await drive(around(Inner(), gate_over(gpu(), budget_gib=5)), post("/alpha"))
    assert (call.status, call.json()["error"]["code"]) == (503, "vram_exhausted")
    assert call.header("retry-after")


async def test_a_load_that_fails_is_503_and_says_why():
    engine, inner = gpu(), Inner()
    engine.loading = AttemptError("bad weights", kind=FailureKind.MODEL_FAILED)
    gate = gate_over(engine)
    call = await drive(around(inner, gate), post("/alpha"))
    assert (call.status, inner.calls, held(gate)) == (503, 0, 0)
    assert call.json()["error"]["code"] == "model_load_failed"
    assert "bad weights" in call.json()["error"]["message"]


async def test_a_gate_that_closes_sends_its_waiters_away():
    first = Witness()
    gate = gate_over(gpu())
    async with drive(around(first, gate), post("/alpha")), drive(around(Inner(), gate), post("/beta")) as beta:
        await soon(first.entered)
        await turns()
        await gate.aclose()
        await beta.ended()
    assert beta.json()["error"]["code"] == "gateway_draining"
    await gate.aclose()


async def test_the_deadline_bounds_the_queue():
    """It is the request's, not the gate's: a client that waits no longer is not queued any longer."""
    first = Witness()
    gate = gate_over(gpu())
    async with drive(around(first, gate), post("/alpha")):
        await soon(first.entered)
        call = await drive(around(Inner(), gate, timeouts=Timeouts(total_s=0.02)), post("/beta"))
    assert call.status in (503, 504)
    assert gate.queue_depths() == {}
    await gate.aclose()


async def test_a_backend_that_the_gate_does_not_know_is_told_of_once(caplog):
    """A typo would let a model of any size through in silence."""
    gate = gate_over(gpu())
    app = VRAMGateMiddleware(
        Inner(), gate=gate, model_of=lambda scope: Deployment(backend="gpuu", model="alpha", gated=True)
    )
    for _ in range(3):
        assert (await drive(app, post("/alpha"))).status == 200
    assert caplog.text.count("the gate knows no backend 'gpuu'") == 1
