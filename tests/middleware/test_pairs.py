"""Layers in pairs and more, without the router that usually puts them together."""

from __future__ import annotations

import asyncio

import pytest

from smartrouter_asgi import (
    BackendDispatch,
    BreakerPolicy,
    ModelResolutionMiddleware,
    ResilienceMiddleware,
    RetryPolicy,
    VRAMGateMiddleware,
)
from smartrouter_asgi.exceptions import AttemptError, FailureKind, UnsupportedParameterError
from smartrouter_asgi.resilience.hedging import HedgePolicy, Hedging
from smartrouter_asgi.state import SCOPE_KEY
from smartrouter_asgi.testing.asgi import drive
from smartrouter_asgi.testing.backend import ScriptedBackend
from smartrouter_asgi.testing.clock import ManualClock

from .layers import (
    ALPHA,
    CATALOG,
    QUICK,
    Inner,
    chat,
    gate_over,
    gpu,
    post,
    resilient,
    resolved,
    soon,
    status,
    turns,
    whole_body,
)
from .test_resilience import ONCE, Counted
from .test_vram import held

DOWN = AttemptError("down", kind=FailureKind.CONNECT)
BUSY = AttemptError("busy", kind=FailureKind.SERVER, status=503)


def two() -> dict[str, ScriptedBackend]:
    """Two backends, as the catalog's model `both` wants them."""
    return {"b1": ScriptedBackend("b1", default="from b1"), "b2": ScriptedBackend("b2", default="from b2")}


async def test_resolution_and_dispatch_use_the_first_candidate():
    """Without resilience there is one attempt at the plan's first choice, under its upstream name."""
    backends = two()
    backends["b1"].answers.append(DOWN)
    app = resolved(BackendDispatch(backends))
    failed = await drive(app, post(), body=chat("both"))
    fine = await drive(app, post(), body=chat("both"))
    assert (failed.status, failed.json()["error"]["message"]) == (502, "down")
    assert b"from b1" in fine.body
    assert [call.payload["model"] for call in backends["b1"].calls] == ["one", "one"]
    assert backends["b2"].calls == []


async def test_resilience_and_dispatch_without_resolution_retry_one_backend():
    backend = ScriptedBackend(answers=[BUSY, "fine"])
    app = ResilienceMiddleware(BackendDispatch(backend), policy=QUICK)
    call = await drive(app, post(), body=chat("any"))
    assert call.status == 200
    assert call.header("x-smartrouter-model") == "any"
    assert len(backend.calls) == 2
    bad = await drive(app, post(), body=b"{")
    assert bad.json()["error"]["code"] == "invalid_json"


async def test_resilience_without_a_plan_names_the_missing_layer():
    call = await drive(resilient(BackendDispatch(two())), post(), body=chat())
    assert (call.status, call.json()["error"]["code"]) == (500, "stack_order")


async def test_gate_and_dispatch_without_resolution():
    """`model_of` names the deployment; its backend is asked for its model."""
    engine = gpu()
    app = VRAMGateMiddleware(BackendDispatch({"gpu": engine}), gate=gate_over(engine), model_of=lambda scope: ALPHA)
    call = await drive(app, post(), body=chat("any"))
    assert call.status == 200
    assert engine.calls[0].payload["model"] == "alpha"


@pytest.mark.parametrize("stream", [True, False])
async def test_resolution_resilience_and_dispatch_fall_back(stream):
    """The plan's next candidate answers, and the headers say which."""
    backends = two()
    backends["b1"].answers.append(DOWN)
    call = await drive(resolved(resilient(BackendDispatch(backends))), post(), body=chat("both", stream=stream))
    assert call.status == 200
    assert call.header("x-smartrouter-backend") == "b2"
    assert call.header("x-smartrouter-attempts") == "2"
    assert [call.payload["model"] for call in backends["b2"].calls] == ["two"]


async def test_a_stream_falls_back_up_to_its_first_token_and_not_after():
    backends = two()
    backends["b1"].answers += [[b": ping\n\n", DOWN], ["Hel", DOWN]]
    app = resolved(resilient(BackendDispatch(backends)))
    before = await drive(app, post(), body=chat("both", stream=True))
    after = await drive(app, post(), body=chat("both", stream=True))
    assert before.header("x-smartrouter-backend") == "b2"
    assert after.header("x-smartrouter-backend") == "b1"
    assert b'"error"' in after.body
    assert len(backends["b2"].calls) == 1


async def test_an_exhausted_route_lists_its_attempts():
    backends = two()
    backends["b1"].default = BUSY
    backends["b2"].default = DOWN
    policy = RetryPolicy(max_retries=1, base_delay_s=0.0, max_delay_s=0.0)
    app = resolved(ResilienceMiddleware(BackendDispatch(backends), policy=policy))
    call = await drive(app, post(), body=chat("both"))
    assert [a["deployment"] for a in call.json()["error"]["attempts"]] == ["b1/one", "b2/two"]
    assert call.status == 503


async def test_a_field_one_engine_cannot_honour_goes_to_the_next():
    backends = two()
    backends["b1"].answers.append(UnsupportedParameterError("no seed here", param="seed"))
    call = await drive(resolved(resilient(BackendDispatch(backends))), post(), body=chat("both", seed=1))
    assert call.header("x-smartrouter-backend") == "b2"


async def test_each_backend_and_operation_has_a_breaker():
    """Streams that cannot be set up leave plain requests alone, and the other backend."""
    backends = two()
    backends["b1"].answers += [DOWN] * 5
    app = resolved(ResilienceMiddleware(BackendDispatch(backends), policy=ONCE, clock=ManualClock()))
    for _ in range(5):
        await drive(app, post(), body=chat("chat", stream=True))
    opened = await drive(app, post(), body=chat("chat", stream=True))
    plain = await drive(app, post(), body=chat("chat"))
    other = await drive(app, post(), body=chat("both", stream=True))
    assert opened.json()["error"]["code"] == "breaker_open"
    assert plain.status == 200
    assert other.header("x-smartrouter-backend") == "b2"
    assert len(backends["b1"].calls) == 6


async def test_resolution_and_resilience_protect_a_foreign_app():
    """With a plan too, a status that may be retried is; each attempt says which candidate it is for."""
    seen = []

    async def inner(scope, receive, send):
        seen.append(scope[SCOPE_KEY].attempt.deployment.id)
        await status(503 if len(seen) == 1 else 200)(send)

    call = await drive(resolved(resilient(inner)), post(), body=chat("both"))
    assert call.status == 200
    assert seen == ["b1/one", "b2/two"]


async def test_a_layer_of_somebody_else_s_between_two_of_ours_reads_the_body_of_each_attempt():
    """One that has the attribute `app`, as middlewares have, and is looked through."""
    backends = two()
    backends["b1"].answers.append(DOWN)

    class Reader:
        def __init__(self, app):
            self.app = app
            self.bodies = []

        async def __call__(self, scope, receive, send):
            self.bodies.append(await whole_body(receive))
            await self.app(scope, receive, send)

    reader = Reader(BackendDispatch(backends))
    call = await drive(resolved(resilient(reader)), post(), body=chat("both"))
    assert b"from b2" in call.body
    assert reader.bodies == [chat("both")] * 2


class Usual:
    """Every deployment speaks at once, as a rule."""

    def quantile_s(self, *asked, **how):
        return 0.0


@pytest.mark.parametrize("hedged", [False, True])
async def test_an_app_that_waits_for_its_client_to_leave_hears_of_it_after_the_answer(hedged):
    """Also as one of two attempts that run side by side, each with a state of its own."""

    async def inner(scope, receive, send):
        await whole_body(receive)
        await status(200)(send)
        assert (await receive())["type"] == "http.disconnect"

    hedging = Hedging(policy=HedgePolicy(min_delay_s=60), times=Usual(), is_ready=lambda _: True) if hedged else None
    app = ResilienceMiddleware(VRAMGateMiddleware(inner, gate=gate_over(gpu())), policy=QUICK, hedging=hedging)
    async with asyncio.timeout(10):
        call = await drive(resolved(app), post(), body=chat("both", stream=True))
    assert (call.status, call.body) == (200, b"inner")


async def test_resolution_and_gate_take_the_model_from_the_plan():
    engine, inner = gpu(), Inner()
    app = resolved(VRAMGateMiddleware(inner, gate=gate_over(engine)))
    await drive(app, post(), body=chat("alpha"))
    await drive(app, post(), body=chat("chat"))
    assert (engine.loads, inner.calls) == (["alpha"], 2)


async def test_gate_and_dispatch():
    """The lease covers the engine's work."""
    engine = gpu(answers=[asyncio.Event()])
    gate = gate_over(engine)
    app = resolved(VRAMGateMiddleware(BackendDispatch(engine), gate=gate))
    async with drive(app, post(), body=chat("alpha")) as call:
        await engine.called()
        assert engine.loaded == ["alpha"]
        assert held(gate) == 1
        call.disconnect()
        await call.ended()
    await gate.aclose()


async def test_a_lease_outlives_the_engine_for_no_slow_reader():
    """Once the engine has said all, its memory may go, even while the client still reads."""
    engine = gpu(answers=["Hello"])
    gate = gate_over(engine)
    reading = asyncio.Event()

    def slow(app):
        async def reader(scope, receive, send):
            async def blocked(message):
                await send(message)
                if not message.get("more_body", False) and message["type"] == "http.response.body":
                    await reading.wait()

            await app(scope, receive, blocked)

        return reader

    app = slow(resolved(VRAMGateMiddleware(BackendDispatch(engine), gate=gate)))
    async with drive(app, post(), body=chat("alpha", stream=True)) as call:
        await call.until(lambda c: c.complete)
        assert held(gate) == 0
        reading.set()
        await call.ended()


async def test_an_answer_kept_back_is_tried_again_under_a_lease():
    """Resilience around a gated foreign app: every attempt enters with its model in memory."""
    engine = gpu()
    gate = gate_over(engine)
    leases = []

    async def inner(scope, receive, send):
        leases.append(held(gate))
        await status(503 if len(leases) < 3 else 200)(send)

    app = resilient(VRAMGateMiddleware(inner, gate=gate, model_of=lambda scope: ALPHA))
    call = await drive(app, post())
    assert (call.status, leases) == (200, [1, 1, 1])
    assert engine.loads == ["alpha"]
    assert held(gate) == 0


async def test_a_lease_is_kept_between_two_attempts_at_one_candidate():
    """A retry that had to queue again might cost a reload."""
    engine = gpu(answers=[BUSY, "fine"])
    gate = gate_over(engine)
    between = []

    async def sleep(seconds):
        between.append(held(gate))

    layers = VRAMGateMiddleware(BackendDispatch(engine), gate=gate)
    app = resolved(ResilienceMiddleware(layers, sleep=sleep, random=lambda: 0.5))
    call = await drive(app, post(), body=chat("alpha"))
    assert (call.status, between) == (200, [1])
    assert held(gate) == 0


async def test_the_permit_is_taken_after_admission():
    """A request in the gate's queue holds no permit: a half-open breaker's probe is not spent on waiting."""
    engine, counted = gpu(answers=[["Hel", asyncio.Event()]]), Counted()
    gate = gate_over(engine)
    layers = VRAMGateMiddleware(BackendDispatch(engine), gate=gate)
    app = resolved(ResilienceMiddleware(layers, breakers=counted))
    async with (
        drive(app, post(), body=chat("alpha", stream=True)) as first,
        drive(app, post(), body=chat("beta")) as second,
    ):
        await first.received(b"Hel")
        await turns()
        assert gate.queue_depths() == {"gpu/beta": 1}
        assert counted.issued == 1
        second.disconnect()
        await second.ended()
        assert counted.issued == 1
    assert len(counted.outcomes) == 1
    await gate.aclose()


async def test_an_open_breaker_is_seen_before_any_queueing():
    engine = gpu()
    engine.default = DOWN
    layers = VRAMGateMiddleware(BackendDispatch(engine), gate=gate_over(engine))
    breaker = BreakerPolicy(failure_threshold=1)
    app = resolved(ResilienceMiddleware(layers, policy=ONCE, breaker=breaker, clock=ManualClock()))
    await drive(app, post(), body=chat("alpha"))
    call = await drive(app, post(), body=chat("beta"))
    assert call.json()["error"]["code"] == "breaker_open"
    assert engine.loads == ["alpha"]


async def test_the_gates_word_opens_no_breaker():
    """Memory that is short says nothing against the engine."""
    engine = gpu()
    layers = VRAMGateMiddleware(BackendDispatch(engine), gate=gate_over(engine, budget_gib=5))
    app = resolved(ResilienceMiddleware(layers, policy=ONCE, breaker=BreakerPolicy(failure_threshold=1)))
    for _ in range(3):
        call = await drive(app, post(), body=chat("alpha"))
        assert (call.status, call.json()["error"]["code"]) == (503, "vram_exhausted")
        assert call.header("retry-after")


@pytest.mark.parametrize("answer", ["Hello", BUSY, AttemptError("no", kind=FailureKind.REJECTED, status=400)])
@pytest.mark.parametrize("stream", [True, False])
async def test_every_permit_of_the_full_stack_is_settled_once(answer, stream):
    engine, counted = gpu(default=answer), Counted()
    gate = gate_over(engine)
    layers = VRAMGateMiddleware(BackendDispatch(engine), gate=gate)
    app = resolved(ResilienceMiddleware(layers, policy=QUICK, breakers=counted))
    await drive(app, post(), body=chat("alpha", stream=stream))
    assert counted.issued == len(engine.calls) >= 1
    assert len(counted.outcomes) == counted.issued
    assert held(gate) == 0


@pytest.mark.parametrize("answer", [asyncio.Event(), ["Hel", asyncio.Event()]], ids=["before", "after commit"])
async def test_a_client_that_leaves_the_full_stack_leaves_nothing_open(answer):
    """Upstream closed, permit settled, lease draining until the engine shows idle."""
    engine, counted = gpu(answers=[answer]), Counted()
    engine.idle = True
    gate = gate_over(engine)
    layers = VRAMGateMiddleware(BackendDispatch(engine), gate=gate)
    app = ModelResolutionMiddleware(ResilienceMiddleware(layers, breakers=counted), catalog=CATALOG)
    async with drive(app, post(), body=chat("alpha", stream=True)) as call:
        record = await engine.called()
        await call.idle()
        await turns()
        call.disconnect()
        await call.ended()
        await soon(record.closed)
    assert (counted.issued, len(counted.outcomes), engine.active) == (1, 1, 0)
    async with drive(app, post(), body=chat("beta")) as other:
        await other.ended()
    assert other.status == 200
    assert held(gate) == 0
    await gate.aclose()
