"""Laws of the rests: which deployments are left alone, how long, and what ends it."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from smartrouter_asgi.exceptions import AttemptError, ConfigurationError, FailureKind
from smartrouter_asgi.resilience.rest import RestBoard, RestPolicy

K = FailureKind


def limited(retry_after_s: float | None) -> AttemptError:
    return AttemptError("slow down", kind=K.RATE_LIMITED, status=429, code="rate_limited", retry_after_s=retry_after_s)


def unloadable() -> AttemptError:
    return AttemptError("it does not load", kind=K.MODEL_FAILED, status=503, code="model_load_failed")


def odd() -> AttemptError:
    return AttemptError("the template broke", kind=K.MODEL_FAILED, status=500, code="model_failed")


def fail(board: RestBoard, error: AttemptError, now: float, *, request: int = 1, began: float | None = None) -> None:
    board.failed("a/m", error, began=now if began is None else began, now=now, fingerprint=lambda: request)


def test_a_deployment_that_asks_for_a_pause_cools_until_it_is_over() -> None:
    board = RestBoard()
    fail(board, limited(2.0), 10.0)
    refusal = board.refusal("a/m", 11.5)
    assert refusal is not None
    assert (refusal.kind, refusal.status, refusal.code, refusal.retry_after_s) == (K.COOLING, 429, "rate_limited", 0.5)
    assert board.states(11.5) == {"a/m": ("rate_limited", 0.5)}
    assert board.refusal("a/m", 12.0) is None
    assert board.states(12.0) == {}
    assert board.refusal("b/m", 11.0) is None, "another deployment has nothing to do with it"


def test_a_long_pause_is_capped_a_missing_one_is_none() -> None:
    board = RestBoard(RestPolicy(cooling_max_s=60.0))
    fail(board, limited(None), 0.0)
    assert board.refusal("a/m", 0.0) is None
    fail(board, limited(1e9), 0.0)
    assert board.refusal("a/m", 59.9) is not None
    assert board.refusal("a/m", 60.0) is None


def test_the_later_end_of_two_pauses_counts() -> None:
    board = RestBoard()
    fail(board, limited(10.0), 0.0)
    fail(board, limited(1.0), 1.0)
    assert board.refusal("a/m", 9.9) is not None


def test_unless_said_otherwise_three_odd_requests_rest_it_and_none_cools_over_five_minutes() -> None:
    board = RestBoard()
    fail(board, limited(1e9), 0.0)
    assert board.states(0.0) == {"a/m": ("rate_limited", 300.0)}
    for request in range(3):
        assert board.refusal("a/m", 300.0) is None
        fail(board, odd(), 300.0, request=request)
    assert board.refusal("a/m", 300.0) is not None


def test_a_pause_asked_for_again_ends_later() -> None:
    board = RestBoard()
    fail(board, limited(10.0), 0.0)
    fail(board, limited(10.0), 5.0)
    assert board.states(9.0) == {"a/m": ("rate_limited", 6.0)}


def test_half_a_second_is_a_pause_too() -> None:
    board = RestBoard(RestPolicy(base_s=0.5))
    fail(board, limited(0.5), 0.0)
    board.failed("b/m", unloadable(), began=0.0, now=0.0, fingerprint=int)
    assert board.states(0.25) == {"a/m": ("rate_limited", 0.25), "b/m": ("model_load_failed", 0.25)}


def test_a_refusal_says_what_the_engine_said() -> None:
    board = RestBoard()
    said = {"status": 429, "code": "busy", "type": "quota", "param": "model"}
    fail(board, AttemptError("slow down", kind=K.RATE_LIMITED, retry_after_s=5.0, **said), 0.0)  # type: ignore[arg-type]
    refusal = board.refusal("a/m", 0.0)
    assert refusal is not None
    assert refusal.message == "slow down"
    assert {name: getattr(refusal, name) for name in said} == said


@pytest.mark.parametrize("base_s", [10.0, 0.0])
def test_a_model_that_fails_meanwhile_cuts_no_cooling_short(base_s: float) -> None:
    board = RestBoard(RestPolicy(base_s=base_s))
    fail(board, limited(100.0), 0.0)
    fail(board, unloadable(), 1.0)
    refusal = board.refusal("a/m", 50.0, alone=True)
    assert refusal is not None, "not even when nobody else is left"
    assert (refusal.kind, refusal.code, refusal.retry_after_s) == (K.COOLING, "rate_limited", 50.0)


def test_a_model_that_does_not_load_is_passed_over_once_and_then_rests_longer_each_time() -> None:
    board = RestBoard(RestPolicy(base_s=10.0, max_s=35.0))
    fail(board, unloadable(), 0.0)
    passed_over = board.refusal("a/m", 9.5)
    assert passed_over is not None
    assert (passed_over.kind, passed_over.code, passed_over.retry_after_s) == (K.COOLING, "model_load_failed", None)
    assert board.refusal("a/m", 9.5, alone=True) is None, "asked all the same when nobody else is left"
    assert board.refusal("a/m", 10.0) is None
    now = 10.0
    for pause_s in (10.0, 20.0, 35.0, 35.0):
        fail(board, unloadable(), now)
        refusal = board.refusal("a/m", now + pause_s - 0.5, alone=True)
        assert refusal is not None
        assert (refusal.kind, refusal.code, refusal.retry_after_s) == (K.RESTING, "model_load_failed", 0.5)
        assert board.refusal("a/m", now + pause_s) is None
        now += pause_s


def test_a_failure_that_began_before_the_last_one_prolongs_nothing() -> None:
    """All who waited for one load fail together: that is one failure, not one for each."""
    board = RestBoard(RestPolicy(base_s=10.0))
    for _ in range(20):
        fail(board, unloadable(), 5.0, began=1.0)
    assert board.refusal("a/m", 14.9) is not None
    assert board.refusal("a/m", 14.9, alone=True) is None
    assert board.refusal("a/m", 15.0) is None


def test_one_odd_request_rests_nothing_three_different_ones_do() -> None:
    board = RestBoard(RestPolicy(base_s=10.0, requests=3))
    for now in range(50):
        fail(board, odd(), float(now), request=7)
    assert board.refusal("a/m", 50.0) is None
    fail(board, odd(), 50.0, request=8)
    assert board.refusal("a/m", 50.0) is None
    fail(board, odd(), 50.0, request=9)
    assert board.refusal("a/m", 59.9) is not None


def test_where_one_request_is_enough_an_odd_one_rests_it() -> None:
    board = RestBoard(RestPolicy(requests=1))
    fail(board, odd(), 0.0)
    assert board.refusal("a/m", 0.0) is not None


def test_a_success_ends_the_rest_and_forgets_the_failures() -> None:
    board = RestBoard(RestPolicy(base_s=10.0))
    fail(board, unloadable(), 0.0)
    fail(board, unloadable(), 0.0)
    assert board.refusal("a/m", 0.0, alone=True) is not None
    board.succeeded("a/m", began=0.0)
    assert board.refusal("a/m", 0.0) is None
    fail(board, unloadable(), 1.0)
    assert board.refusal("a/m", 1.0, alone=True) is None, "the first failure again"
    fail(board, odd(), 11.0, request=1)
    fail(board, odd(), 11.0, request=2)
    board.succeeded("a/m", began=11.0)
    fail(board, odd(), 11.0, request=3)
    assert board.refusal("a/m", 11.0) is None


@pytest.mark.parametrize("error", [unloadable(), limited(50.0)])
def test_a_success_that_began_before_the_pause_ends_no_pause(error: AttemptError) -> None:
    board = RestBoard(RestPolicy(base_s=10.0))
    fail(board, error, 5.0)
    board.succeeded("a/m", began=4.9)
    assert board.refusal("a/m", 6.0) is not None
    board.succeeded("a/m", began=5.0)
    assert board.refusal("a/m", 6.0) is None


def test_a_success_that_began_before_the_pause_still_speaks_against_odd_requests() -> None:
    board = RestBoard(RestPolicy(base_s=10.0, requests=2))
    fail(board, limited(1.0), 5.0)
    fail(board, odd(), 5.0, request=1)
    board.succeeded("a/m", began=4.0)
    fail(board, odd(), 7.0, request=2)
    assert board.refusal("a/m", 7.0) is None


def test_a_success_of_one_ends_no_rest_of_another() -> None:
    board = RestBoard()
    fail(board, unloadable(), 0.0)
    board.succeeded("b/m", began=0.0)
    assert board.refusal("a/m", 0.0) is not None


@pytest.mark.parametrize("kind", [k for k in K if k not in (K.RATE_LIMITED, K.SERVER, K.MODEL_FAILED)])
def test_no_other_failure_rests_a_deployment(kind: K) -> None:
    board = RestBoard()
    for request in range(10):
        fail(board, AttemptError("x", kind=kind, retry_after_s=9.0), 0.0, request=request)
    assert board.refusal("a/m", 0.0) is None


def test_a_server_that_asks_for_a_pause_gets_it_and_one_that_does_not_is_the_breaker_s_affair() -> None:
    board = RestBoard()
    fail(board, AttemptError("down", kind=K.SERVER, status=503), 0.0)
    assert board.refusal("a/m", 0.0) is None
    fail(board, AttemptError("busy", kind=K.SERVER, status=503, retry_after_s=2.0), 0.0)
    refusal = board.refusal("a/m", 1.5, alone=True)
    assert refusal is not None
    assert (refusal.kind, refusal.status, refusal.retry_after_s) == (K.COOLING, 503, 0.5)


def test_rest_can_be_switched_off() -> None:
    def unasked() -> int:
        raise AssertionError("a request is looked at in vain")

    board = RestBoard(RestPolicy(base_s=0.0))
    for error in (unloadable(), odd()):
        board.failed("a/m", error, began=0.0, now=0.0, fingerprint=unasked)
    assert board.refusal("a/m", 0.0) is None


@pytest.mark.parametrize("wrong", [{"base_s": -1.0}, {"max_s": float("inf")}, {"requests": 0}])
def test_numbers_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=r"^rest: [^A-Z]+$"):
        RestPolicy(**wrong)  # type: ignore[arg-type]


class RestsAgainstTheirLaw(RuleBasedStateMachine):
    """A rest ends at the latest of what was asked for, and never lasts longer than its cap allows."""

    def __init__(self) -> None:
        super().__init__()
        self.board = RestBoard(RestPolicy(base_s=4.0, max_s=16.0, requests=2, cooling_max_s=30.0))
        self.now, self.latest, self.last_failure = 0.0, 0.0, -1.0

    @rule(seconds=st.floats(0.0, 20.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(pause_s=st.none() | st.floats(0.0, 100.0))
    def asked_for_a_pause(self, pause_s: float | None) -> None:
        fail(self.board, limited(pause_s), self.now)
        self.latest = max(self.latest, self.now + min(pause_s or 0.0, 30.0))

    @rule(error=st.sampled_from([unloadable, odd]), request=st.integers(0, 3), late_s=st.floats(0.0, 30.0))
    def model_failed(self, error, request: int, late_s: float) -> None:
        fail(self.board, error(), self.now, request=request, began=max(0.0, self.now - late_s))
        self.latest = max(self.latest, self.now + 16.0)

    @rule()
    def went_well(self) -> None:
        self.board.succeeded("a/m", began=self.now)
        self.latest = 0.0
        assert self.board.refusal("a/m", self.now) is None

    @rule()
    def went_well_and_had_begun_long_ago(self) -> None:
        before = self.board.states(self.now)
        self.board.succeeded("a/m", began=-1.0)
        assert self.board.states(self.now) == before

    @invariant()
    def bounded(self) -> None:
        refusal = self.board.refusal("a/m", self.now)
        if refusal is not None and refusal.retry_after_s is not None:
            assert 0 < refusal.retry_after_s <= self.latest - self.now + 1e-9
            # A sum of floats may fall short of the instant by its last bit.
            assert self.board.refusal("a/m", self.now + refusal.retry_after_s + 1e-9) is None


TestRestsAgainstTheirLaw = RestsAgainstTheirLaw.TestCase
TestRestsAgainstTheirLaw.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
