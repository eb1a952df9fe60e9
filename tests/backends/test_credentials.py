"""Keys and tokens without a socket: who is chosen, who rests, when a token is fetched."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartrouter_asgi.backends.credentials import (
    DEFAULT_REST_S,
    MAX_REST_S,
    QUOTA_REST_S,
    RENEWAL_REST_S,
    KeyLease,
    KeyPool,
    KeyRefusedError,
    KeyTrial,
    Verdict,
    judge,
)
from smartrouter_asgi.backends.tokens import EnvironmentKey, FixedKey, TokenError, TokenSource
from smartrouter_asgi.exceptions import AttemptError, FailureKind
from smartrouter_asgi.types import Secret

RETIRE = Verdict(None)
CANARY = "canary-7f3a9bQQ"


def refusal(verdict: Verdict) -> KeyRefusedError:
    return KeyRefusedError(AttemptError("no", kind=FailureKind.AUTH), verdict)


def take(pool: KeyPool, now: float = 0.0) -> tuple[int, KeyLease]:
    chosen = pool.choose(now)
    assert chosen is not None
    return chosen


def test_keys_take_turns_while_they_are_equally_busy():
    pool = KeyPool(3)
    order = []
    for _ in range(7):
        index, lease = take(pool)
        lease.release()
        order.append(index)
    assert order == [0, 1, 2, 0, 1, 2, 0]


def test_the_least_busy_key_is_chosen():
    pool = KeyPool(3)
    leases = [take(pool)[1] for _ in range(6)]
    leases[4].release()
    assert take(pool)[0] == 1
    assert [state.in_flight for state in pool.states(0)] == [2, 2, 2]


def test_a_lease_is_released_once():
    pool = KeyPool(1)
    _, lease = take(pool)
    lease.release()
    lease.release()
    assert pool.states(0)[0].in_flight == 0


def test_a_resting_key_comes_back_at_its_time_and_a_retired_one_only_when_none_is_left():
    pool = KeyPool(2)
    assert pool.apply(0, Verdict(5.0), now=0.0)
    assert not pool.apply(0, Verdict(1.0), now=0.0), "no news, and no shorter rest"
    assert pool.apply(1, RETIRE, now=0.0)
    assert not pool.apply(1, RETIRE, now=0.0)
    assert (pool.choose(4.9), pool.soonest_s(4.0)) == (None, 1.0)
    assert [(s.position, s.state, s.rests_for_s) for s in pool.states(4.0)] == [
        (1, "resting", 1.0),
        (2, "retired", 0.0),
    ]
    assert take(pool, 5.0)[0] == 0
    pool.apply(0, RETIRE, now=5.0)
    assert (pool.choose(59.9), pool.soonest_s(59.9)) == (None, None)
    index, _ = take(pool, 60.0)
    assert index == 1, "the one that was refused longest ago is asked again"
    assert pool.choose(60.0) is None
    pool.worked(1)
    assert take(pool, 60.0)[0] == 1


def test_the_only_key_is_always_handed_out_and_forgiven_when_it_works():
    pool = KeyPool(1)
    pool.apply(0, Verdict(60.0), now=0.0)
    pool.apply(0, RETIRE, now=0.0)
    assert take(pool)[0] == 0
    assert pool.states(0)[0].state == "retired"
    pool.worked(0)
    assert pool.states(0)[0].state == "ready"


def test_no_keys_no_choice():
    assert (KeyPool(0).choose(0), len(KeyPool(0)), KeyPool(0).states(0)) == (None, 0, ())


@given(
    st.integers(1, 5),
    st.lists(
        st.one_of(
            st.tuples(st.just("take"), st.just(0)),
            st.tuples(st.just("release"), st.integers(0, 30)),
            st.tuples(st.just("rest"), st.integers(0, 4)),
            st.tuples(st.just("retire"), st.integers(0, 4)),
            st.tuples(st.just("wait"), st.integers(1, 20)),
        ),
        max_size=60,
    ),
)
def test_whatever_happens_the_pool_keeps_its_laws(size: int, steps: list[tuple[str, int]]):
    """In flight is exact, never negative; who rests or is retired is not chosen; who is chosen is the least busy."""
    pool, now = KeyPool(size), 0.0
    leases: list[tuple[int, KeyLease]] = []
    busy, until, retired = [0] * size, [0.0] * size, [False] * size
    retired_at = [float("-inf")] * size
    for what, n in steps:
        free = [i for i in range(size) if size == 1 or (not retired[i] and until[i] <= now)]
        if what == "take":
            if not free and all(retired):  # one that was refused long ago is asked again
                oldest = min(range(size), key=lambda i: retired_at[i])
                if now - retired_at[oldest] >= 60:
                    free, retired_at[oldest] = [oldest], now
            chosen = pool.choose(now)
            assert (chosen is None) == (not free)
            if chosen is not None:
                assert chosen[0] in free
                assert busy[chosen[0]] == min(busy[i] for i in free)
                busy[chosen[0]] += 1
                leases.append(chosen)
        elif what == "release" and leases:
            index, lease = leases.pop(n % len(leases))
            busy[index] -= 1
            lease.release()
            lease.release()
        elif what == "rest":
            pool.apply(n % size, Verdict(10.0), now)
            until[n % size] = max(until[n % size], now + 10.0)
        elif what == "retire":
            pool.apply(n % size, RETIRE, now)
            retired[n % size] = True
            retired_at[n % size] = now
        elif what == "wait":
            now += n
        assert [state.in_flight for state in pool.states(now)] == busy
        assert min(busy) >= 0


@given(st.integers(1, 6), st.lists(st.sampled_from([None, 0.0, 5.0]), min_size=6, max_size=6))
def test_a_request_tries_each_key_at_most_once(size: int, rests: list[float | None]):
    pool = KeyPool(size)
    trial, tried = KeyTrial(pool), []
    while chosen := trial.choose(0.0):
        chosen[1].release()
        trial.refused(chosen[0], refusal(Verdict(rests[chosen[0]])), 0.0)
        tried.append(chosen[0])
    assert sorted(tried) == list(range(size))


def test_a_key_is_blamed_for_a_403_once_another_got_through():
    pool = KeyPool(2)
    suspect = Verdict(None, needs_proof=True)
    for passes in (False, True):
        trial = KeyTrial(pool)
        assert trial.refused(0, refusal(suspect), 0.0) == []
        assert pool.states(0)[0].state == "ready"
        if passes:
            assert trial.passed(1, 0.0) == [(0, suspect)]
    assert pool.states(0)[0].state == "retired"
    assert pool.states(0)[1].state == "ready"


AUTH, LIMITED, REJECTED = FailureKind.AUTH, FailureKind.RATE_LIMITED, FailureKind.REJECTED
GEMINI = b'{"error": {"message": "You exceeded your current quota", "details": [{"retryDelay": "34.5s"}]}}'


@pytest.mark.parametrize(
    ("status", "kind", "retry_after_s", "body", "verdict"),
    [
        (401, AUTH, None, b"", RETIRE),
        (403, AUTH, None, b"", Verdict(None, needs_proof=True)),
        (402, AUTH, None, b"", Verdict(QUOTA_REST_S, needs_proof=True, quota=True)),
        (407, AUTH, None, b"", None),
        (403, REJECTED, None, b"content_filter", None),
        (400, REJECTED, None, b"insufficient_quota", None),
        (500, FailureKind.SERVER, 3.0, b"", None),
        (429, LIMITED, None, b"", Verdict(DEFAULT_REST_S)),
        (429, LIMITED, 0.0, b"", Verdict(1.0)),
        (429, LIMITED, 7.5, b"slow down", Verdict(7.5)),
        (429, LIMITED, 9e9, b"", Verdict(MAX_REST_S)),
        (429, LIMITED, 1.0, b'{"code": "insufficient_quota"}', Verdict(QUOTA_REST_S, quota=True)),
        (429, LIMITED, None, b"You Exceeded your current quota", Verdict(QUOTA_REST_S, quota=True)),
        (429, LIMITED, None, b"check your plan and billing details", Verdict(QUOTA_REST_S, quota=True)),
        (429, LIMITED, 30.0, b"You exceeded your current quota", Verdict(30.0)),
        (429, LIMITED, None, GEMINI, Verdict(34.5)),
    ],
)
def test_what_a_refusal_means(status: int, kind: FailureKind, retry_after_s: float | None, body: bytes, verdict: Any):
    assert judge(status, AttemptError("x", kind=kind, retry_after_s=retry_after_s), body) == verdict


def test_a_token_that_can_be_had_anew_only_rests():
    assert judge(401, AttemptError("x", kind=AUTH), b"", renewable=True) == Verdict(RENEWAL_REST_S)


class Issuer:
    """A token callback by hand, and its clocks."""

    def __init__(self) -> None:
        self.now, self.calls, self.lifetime_s = 1000.0, 0, 100.0
        self.failure: Exception | None = None
        self.gate: asyncio.Event | None = None

    def clock(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + 1.7e9

    async def __call__(self) -> tuple[str, float]:
        self.calls += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return f"{CANARY}-{self.calls}", self.wall() + self.lifetime_s

    def source(self, **options: Any) -> TokenSource:
        return TokenSource(self, refresh_before_s=20.0, clock=self.clock, wall=self.wall, **options)


async def test_a_token_is_fetched_once_and_again_before_it_expires():
    issuer = Issuer()
    source = issuer.source()
    assert [await source.secret() for _ in range(3)] == [f"{CANARY}-1"] * 3
    issuer.now += 79
    assert (await source.secret(), issuer.calls) == (f"{CANARY}-1", 1)
    issuer.now += 1
    assert (await source.secret(), issuer.calls) == (f"{CANARY}-2", 2)
    assert source.seen == (f"{CANARY}-1", f"{CANARY}-2")
    assert CANARY not in repr(source)


async def test_a_hundred_requests_wait_for_one_fetch_and_none_for_a_refresh():
    issuer = Issuer()
    issuer.gate = asyncio.Event()
    source = issuer.source()
    waiting = [asyncio.create_task(source.secret()) for _ in range(100)]
    while not issuer.calls:
        await asyncio.sleep(0)
    issuer.gate.set()
    assert set(await asyncio.gather(*waiting)) == {f"{CANARY}-1"}
    assert issuer.calls == 1

    issuer.gate.clear()
    issuer.now += 90
    refreshing = asyncio.create_task(source.secret())
    while issuer.calls == 1:
        await asyncio.sleep(0)
    assert await source.secret() == f"{CANARY}-1"
    issuer.gate.set()
    assert await refreshing == f"{CANARY}-2"


async def test_the_last_good_token_is_kept_until_it_expires(caplog: pytest.LogCaptureFixture):
    issuer = Issuer()
    source = issuer.source()
    await source.secret()
    issuer.failure = ValueError(CANARY)
    for seconds in (85, 5, 5):
        issuer.now += seconds
        assert await source.secret() == f"{CANARY}-1"
    assert issuer.calls == 4
    issuer.now += 6
    for _ in range(3):
        with pytest.raises(TokenError, match=r"callback failed \(ValueError\)"):
            await source.secret()
    assert issuer.calls == 5, "who asks in the next moment gets the same answer"
    assert len(caplog.records) == 1
    assert CANARY not in caplog.text
    issuer.failure = None
    issuer.now += 2
    assert await source.secret() == f"{CANARY}-6"


async def test_a_cancelled_fetch_leaves_the_next_one_free():
    issuer = Issuer()
    issuer.gate = asyncio.Event()
    source = issuer.source()
    first = asyncio.create_task(source.secret())
    while not issuer.calls:
        await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    issuer.gate.set()
    assert await source.secret() == f"{CANARY}-2"


async def test_a_refused_token_is_fetched_anew_unless_it_is_young():
    issuer = Issuer()
    source = issuer.source()
    token = await source.secret()
    assert not source.renew(token)
    issuer.now += 10
    assert source.renew(token)
    assert await source.secret() != token
    assert source.renew(token), "somebody else has fetched another already"


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ("", "no token"),
        (None, "no token"),
        ("a b", "no token"),
        ("a\r\nx: y", "no token"),
        (("token", "soon"), "expiry"),
        (("token", 12.0), "expired"),
        (("token", float("nan")), "expiry"),
    ],
)
async def test_what_is_no_token_is_told(result: Any, why: str):
    with pytest.raises(TokenError, match=why):
        await TokenSource(lambda: result).secret()


async def test_callbacks_may_be_plain_functions_lambdas_and_slow():
    assert await TokenSource(lambda: "plain").secret() == "plain"
    assert await TokenSource(lambda: ("never", None)).secret() == "never"
    assert await TokenSource(lambda: asyncio.sleep(0, "later")).secret() == "later"
    with pytest.raises(TokenError, match="TimeoutError"):
        await TokenSource(lambda: asyncio.sleep(30, "late"), timeout_s=0.01).secret()


async def test_an_environment_key_is_read_at_each_use(monkeypatch: pytest.MonkeyPatch):
    source = EnvironmentKey("CANARY_KEY")
    with pytest.raises(TokenError, match="CANARY_KEY is not set"):
        await source.secret()
    monkeypatch.setenv("CANARY_KEY", " one\n")
    assert (await source.secret(), source.renew("one")) == ("one", False)
    monkeypatch.setenv("CANARY_KEY", "two")
    assert source.renew("one")
    assert (await source.secret(), source.seen) == ("two", ("one", "two"))
    monkeypatch.setenv("CANARY_KEY", "t w o")
    with pytest.raises(TokenError, match="visible ASCII") as caught:
        await source.secret()
    assert "t w o" not in str(caught.value)
    assert "two" not in repr(source)


async def test_a_fixed_key_is_what_it_is():
    key = FixedKey(Secret(CANARY))
    assert (await key.secret(), key.seen, key.renew(CANARY)) == (CANARY, (CANARY,), False)
    assert CANARY not in repr(key)
