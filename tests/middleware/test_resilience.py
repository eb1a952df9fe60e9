"""The resilience layer alone, around an app that knows nothing of it."""

from __future__ import annotations

import asyncio
import time

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from smartrouter_asgi import BreakerPolicy, ResilienceMiddleware, RetryPolicy, Timeouts
from smartrouter_asgi.events import AttemptFinished, BreakerChanged
from smartrouter_asgi.exceptions import AttemptError, FailureKind
from smartrouter_asgi.resilience import BreakerBoard, BudgetBoard
from smartrouter_asgi.testing.asgi import drive, http_scope
from smartrouter_asgi.testing.clock import ManualClock

from .layers import QUICK, Inner, Witness, post, resilient, soon, status
from .test_errors import Notes

RETRYABLE = [408, 425, 429, 500, 502, 503, 504, 529]
ONCE = RetryPolicy(enabled=False)


class Counted(BreakerBoard):
    """A board that notes how each permit was settled: failed or not, or neither."""

    def __init__(self) -> None:
        super().__init__()
        self.issued = 0
        self.outcomes = []

    def get(self, backend, operation):
        new = (backend, operation) not in self._breakers
        breaker = super().get(backend, operation)
        if new:
            acquire, settle = breaker.acquire, breaker._settle

            def acquired():
                self.issued += 1
                return acquire()

            def settled(epoch, probe, failed, *told):
                self.outcomes.append(failed)
                settle(epoch, probe, failed, *told)

            breaker.acquire, breaker._settle = acquired, settled
        return breaker


@pytest.mark.parametrize("code", RETRYABLE)
async def test_a_retryable_status_is_kept_back_and_tried_again(code):
    """The client sees the second answer only, and the app got the whole body both times."""
    inner = Inner(status(code, b"busy"), status(200, b"fine"))
    call = await drive(resilient(inner), post(), body=[b"one ", b"two"])
    assert (call.status, call.body) == (200, b"fine")
    assert inner.bodies == [b"one two", b"one two"]


@pytest.mark.parametrize("code", [100, 200, 204, 301, 304, 400, 401, 403, 404, 409, 413, 422, 501, 505])
async def test_any_other_status_is_the_answer(code):
    inner = Inner(status(code, b"theirs"))
    call = await drive(resilient(inner), post(), body=b"x")
    assert (call.status, call.body, inner.calls) == (code, b"theirs", 1)


async def test_an_exhausted_app_answers_its_last_status():
    """After `max_retries` more attempts the client gets what the app said last, and is told not to retry."""
    inner = Inner(status(500), status(502), status(503), status(504), status(200))
    call = await drive(resilient(inner), post(), body=b"x")
    assert inner.calls == 4
    assert call.status == 504
    assert call.body == b"inner"
    assert call.header("x-should-retry") == "false"
    assert call.header("x-smartrouter-attempts") == "4"


async def test_switched_off_it_asks_once():
    inner = Inner(status(503))
    call = await drive(ResilienceMiddleware(inner, policy=ONCE), post(), body=b"x")
    assert (call.status, inner.calls) == (503, 1)


async def test_nothing_is_retried_after_commit():
    """A stream that breaks once it has begun is broken: its bytes cannot be taken back."""

    async def breaks(send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ConnectionResetError("engine")

    inner = Inner(breaks)
    async with drive(resilient(inner), post(), body=b"x") as call:
        with pytest.raises(ConnectionResetError):
            await call.ended()
    assert (call.body, inner.calls) == (b"half", 1)


async def test_retry_after_is_honoured():
    """The next attempt waits as long as the app asked, a little longer rather than shorter."""
    clock = ManualClock()
    inner = Inner(status(503, headers=((b"Retry-After", b"7"),)), status(200))
    app = ResilienceMiddleware(inner, clock=clock, sleep=clock.sleep, random=lambda: 0.0)
    call = await drive(app, post(), body=b"x")
    assert call.status == 200
    assert clock() == 7.0


async def test_a_long_retry_after_is_the_clients_to_wait():
    inner = Inner(status(429, headers=((b"retry-after", b"3600"),)))
    call = await drive(resilient(inner), post(), body=b"x")
    assert (call.status, call.header("retry-after"), inner.calls) == (429, "3600", 1)
    assert call.body == b"inner"


async def test_one_user_s_429_is_no_pause_for_the_others():
    """An app in house may limit each of its users: what it tells one of them says nothing of the next."""
    inner = Inner(status(429, headers=((b"retry-after", b"3600"),)), status(200, b"fine"))
    app = resilient(inner)
    assert (await drive(app, post(), body=b"one")).status == 429
    assert (await drive(app, post(), body=b"two")).body == b"fine"


async def test_each_path_has_a_breaker_of_its_own():
    """What fails at one of an app's paths leaves the others open."""
    inner = Inner(*[status(503)] * 5, status(200, b"fine"))
    app = ResilienceMiddleware(inner, policy=ONCE)
    for _ in range(5):
        await drive(app, post("/generate"), body=b"x")
    assert (await drive(app, post("/generate"), body=b"x")).json()["error"]["code"] == "breaker_open"
    assert (await drive(app, post("/embed"), body=b"x")).body == b"fine"


async def test_paths_that_do_not_exist_take_no_place():
    """A scanner that tries thousands of them leaves nothing behind, and takes no real path's breaker away."""
    board = BreakerBoard()
    inner = Inner(*[status(404)] * 300, *[status(503)] * 5)
    app = ResilienceMiddleware(inner, policy=ONCE, breakers=board)
    for number in range(300):
        await drive(app, post(f"/wp-admin/{number}"), body=b"x")
    assert board.states() == []
    for _ in range(5):
        await drive(app, post("/generate"), body=b"x")
    assert board.states() == [("/generate", "call", "open")]


async def test_more_paths_than_there_are_keys_share_one():
    board = BreakerBoard()
    app = ResilienceMiddleware(Inner(), policy=ONCE, breakers=board)
    for number in range(150):
        await drive(app, post(f"/models/{number}/generate"), body=b"x")
    names = {name for name, _, _ in board.states()}
    assert len(names) == 101
    assert "other" in names


async def test_the_pauses_grow():
    """Full jitter's ceilings double from the base delay."""
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)

    clock = ManualClock()
    policy = RetryPolicy(max_retries=3, base_delay_s=1.0, max_delay_s=3.0)
    inner = Inner(status=503)
    app = ResilienceMiddleware(inner, policy=policy, clock=clock, sleep=sleep, random=lambda: 0.5)
    await drive(app, post(), body=b"x")
    assert pauses == [0.5, 1.0, 1.5]


async def test_the_breaker_opens_after_five_failures():
    """Then the app is left alone: an immediate 503 says when to come back."""
    clock = ManualClock()
    inner = Inner(status=503)
    app = ResilienceMiddleware(inner, policy=ONCE, clock=clock)
    for _ in range(5):
        call = await drive(app, post(), body=b"x")
        assert call.body == b"inner"
    began = time.monotonic()
    call = await drive(app, post(), body=b"x")
    assert time.monotonic() - began < 0.5
    assert (call.status, call.json()["error"]["code"]) == (503, "breaker_open")
    assert (call.header("retry-after"), call.header("retry-after-ms")) == ("60", "60000")
    assert inner.calls == 5


async def test_the_breaker_closes_again():
    """After its time three probes must succeed."""
    clock = ManualClock()
    notes = Notes()
    inner = Inner(*[status(503)] * 5)
    app = ResilienceMiddleware(inner, policy=ONCE, clock=clock, observer=notes)
    for _ in range(5):
        await drive(app, post(), body=b"x")
    clock.advance(60)
    for _ in range(3):
        call = await drive(app, post(), body=b"x")
        assert call.status == 200
    states = [event.state for event in notes.events if isinstance(event, BreakerChanged)]
    assert states == ["open", "half-open", "closed"]


async def test_a_client_error_never_opens_the_breaker():
    inner = Inner(status=400)
    app = ResilienceMiddleware(inner, policy=ONCE, breaker=BreakerPolicy(failure_threshold=1))
    for _ in range(3):
        assert (await drive(app, post(), body=b"x")).status == 400


async def test_a_rate_limit_never_opens_the_breaker():
    app = ResilienceMiddleware(Inner(status=429), policy=ONCE, breaker=BreakerPolicy(failure_threshold=1))
    for _ in range(3):
        assert (await drive(app, post(), body=b"x")).body == b"inner"


async def test_nothing_a_client_sends_makes_another_breaker():
    """One for all without a `key`: a mount's path may be the client's own words."""
    board = BreakerBoard(BreakerPolicy(failure_threshold=5), clock=ManualClock())
    layer = ResilienceMiddleware(Inner(*[status(503)] * 5), policy=ONCE, breakers=board)
    app = Starlette(routes=[Mount("/t/{tenant}", layer)])
    for n in range(5):
        await drive(app, post(f"/t/{n}/x", headers=[(b"host", f"h{n}".encode())]))
    assert (await drive(app, post("/t/other/x"))).json()["error"]["code"] == "breaker_open"
    assert len(board.states()) == 1


async def test_own_keys():
    """`key` says which breaker a request counts for."""
    inner = Inner(*[status(503)] * 5)
    app = ResilienceMiddleware(inner, policy=ONCE, key=lambda scope: scope["path"], clock=ManualClock())
    for _ in range(5):
        await drive(app, post("/a"))
    call = await drive(app, post("/a"))
    assert "'/a'" in call.json()["error"]["message"]
    assert (await drive(app, post("/b"))).status == 200


async def test_the_deadline_ends_a_request():
    """An app that has not answered by then is cancelled, and the client gets 504."""
    inner = Witness(commit=False)
    app = ResilienceMiddleware(inner, timeouts=Timeouts(total_s=0.02))
    call = await drive(app, post(), body=b"x")
    assert (call.status, call.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert inner.cancelled


async def test_a_client_may_be_less_patient():
    app = ResilienceMiddleware(Witness(commit=False))
    call = await drive(app, post(headers=[(b"X-Stainless-Read-Timeout", b"0.02")]), body=b"x")
    assert call.status == 504


async def test_no_retry_waits_past_the_deadline():
    """What could only be tried again too late is answered at once."""
    policy = RetryPolicy(base_delay_s=30.0, max_delay_s=30.0)
    inner = Inner(status=503)
    app = ResilienceMiddleware(inner, policy=policy, timeouts=Timeouts(total_s=10), random=lambda: 0.9)
    call = await drive(app, post(), body=b"x")
    assert (call.status, inner.calls) == (503, 1)


async def test_an_app_that_cannot_be_reached_is_a_failure():
    """An I/O error before the answer is 502 and counts; the app may be at work, so it is not asked again."""
    inner = Inner(*[ConnectionResetError("gone")] * 5)
    app = ResilienceMiddleware(inner, clock=ManualClock())
    for _ in range(5):
        call = await drive(app, post(), body=b"x")
        assert (call.status, call.json()["error"]["code"]) == (502, "upstream_error")
    assert (await drive(app, post(), body=b"x")).json()["error"]["code"] == "breaker_open"
    assert inner.calls == 5


async def test_a_bug_of_the_app_passes_and_counts():
    """It is the server's to log; repeating it would help nobody, and five of them open the breaker."""
    inner = Inner(*[ZeroDivisionError("theirs")] * 5)
    app = ResilienceMiddleware(inner, clock=ManualClock())
    for _ in range(5):
        async with drive(app, post(), body=b"x") as call:
            with pytest.raises(ZeroDivisionError):
                await call.ended()
    assert (await drive(app, post(), body=b"x")).json()["error"]["code"] == "breaker_open"
    assert inner.calls == 5


async def test_a_starlette_app_that_raises_is_tried_again(caplog):
    """Starlette answers 500 and raises as well: the answer is kept back, the exception is logged, the retry counts."""
    raised = [ZeroDivisionError("theirs")]

    async def page(request):
        if raised:
            raise raised.pop()
        return PlainTextResponse("fine")

    app = resilient(Starlette(routes=[Route("/", page)]))
    call = await drive(app, http_scope("GET", "/"))
    assert (call.status, call.body) == (200, b"fine")
    assert "ZeroDivisionError: theirs" in caplog.text


async def test_a_starlette_app_that_goes_on_raising_is_answered():
    """The client gets the app's 500, not a connection without an answer."""

    async def page(request):
        raise ZeroDivisionError("secret")

    call = await drive(resilient(Starlette(routes=[Route("/", page)])), http_scope("GET", "/"))
    assert (call.status, call.body) == (500, b"Internal Server Error")
    assert call.header("x-smartrouter-attempts") == "4"


async def test_an_answer_too_large_to_keep_is_the_client_s():
    """What is kept back is bounded: a retryable status with a huge body is passed on, once."""
    size = 100_000

    async def huge(send):
        await send({"type": "http.response.start", "status": 503, "headers": []})
        for n in range(10):
            await send({"type": "http.response.body", "body": b"x" * (size // 10), "more_body": n < 9})

    inner = Inner(huge, status(200))
    call = await drive(resilient(inner), post(), body=b"x")
    assert (call.status, len(call.body), inner.calls) == (503, size, 1)


async def test_an_app_that_hangs_past_its_deadline_counts_for_the_breaker():
    """504, and its silence is its own fault."""

    async def hangs(send):
        await asyncio.Event().wait()

    board = BreakerBoard(BreakerPolicy(failure_threshold=1))
    app = ResilienceMiddleware(Inner(hangs), policy=ONCE, breakers=board, timeouts=Timeouts(total_s=0.2))
    call = await drive(app, post(), body=b"x")
    assert (call.status, call.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert [state for _, _, state in board.states()] == ["open"]


async def test_errors_of_ours_inside_are_judged_by_their_kind():
    """An `AttemptError` of the inner app is an attempt's failure, tried again where its kind allows."""
    inner = Inner(AttemptError("no", kind=FailureKind.CONNECT), AttemptError("no", kind=FailureKind.SERVER, status=503))
    assert (await drive(resilient(inner), post(), body=b"x")).status == 200
    rejected = Inner(AttemptError("too long", kind=FailureKind.REJECTED, status=400, code="context_length_exceeded"))
    call = await drive(resilient(rejected), post(), body=b"x")
    assert (call.status, call.json()["error"]["code"], rejected.calls) == (400, "context_length_exceeded", 1)


@pytest.mark.parametrize(
    ("ways", "outcomes"),
    [
        ([status(200)], [False]),
        ([status(503), status(200)], [True, False]),
        ([status(429), status(200)], [None, False]),
        ([ConnectionResetError()], [True]),
        ([ZeroDivisionError()], [True]),
    ],
    ids=["ok", "503", "429", "reset", "bug"],
)
async def test_every_permit_is_settled_exactly_once(ways, outcomes):
    """Success, failure or neither: never twice, never not at all."""
    counted = Counted()
    app = ResilienceMiddleware(Inner(*ways), policy=QUICK, breakers=counted)
    async with drive(app, post(), body=b"x") as call:
        await call.failure()
    assert counted.issued == len(outcomes)
    assert counted.outcomes == outcomes


@pytest.mark.parametrize("commit", [True, False])
async def test_a_client_that_leaves_settles_the_permit_as_neutral(commit):
    counted = Counted()
    inner = Witness(commit=commit)
    async with drive(ResilienceMiddleware(inner, breakers=counted), post(), body=b"x") as call:
        await soon(inner.entered)
        call.disconnect()
        await call.ended()
    assert counted.outcomes == [None]


async def test_a_client_that_leaves_between_attempts_ends_the_retrying():
    """Nobody waits for the next attempt, so there is none."""
    pausing = asyncio.Event()

    async def sleep(seconds):
        pausing.set()
        await asyncio.Event().wait()

    inner = Inner(status=503)
    async with drive(ResilienceMiddleware(inner, sleep=sleep, random=lambda: 0.5), post(), body=b"x") as call:
        await soon(pausing)
        call.disconnect()
        await call.ended()
    assert (inner.calls, call.sent) == (1, [])


async def test_the_budget_bounds_retries():
    """When everything fails, retries are a fraction of the traffic and not a multiple."""
    inner = Inner(status=503)
    budgets = BudgetBoard(ratio=0.1, reserve=2)
    board = BreakerBoard(BreakerPolicy(enabled=False))
    app = ResilienceMiddleware(inner, policy=QUICK, budgets=budgets, breakers=board, clock=ManualClock())
    for _ in range(20):
        await drive(app, post(), body=b"x")
    assert 20 + 2 <= inner.calls <= 20 + 2 + 2


async def test_the_observer_hears_of_every_attempt():
    notes = Notes()
    app = ResilienceMiddleware(Inner(status(503), status(200)), policy=QUICK, observer=notes)
    await drive(app, post(), body=b"x")
    assert [(e.number, e.outcome) for e in notes.events if isinstance(e, AttemptFinished)] == [
        (1, "upstream_error"),
        (2, "ok"),
    ]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE"])
async def test_every_method_is_protected(method):
    inner = Inner(status(503), status(200, b"" if method == "HEAD" else b"fine"))
    call = await drive(resilient(inner), http_scope(method, "/"))
    assert (call.status, inner.calls) == (200, 2)
