"""What follows a failure: a table of laws, and properties over any history."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartrouter_asgi.exceptions import AttemptError, BreakerOpenError, ConfigurationError, FailureKind
from smartrouter_asgi.resilience import (
    NEVER_REACHED,
    Decision,
    Failure,
    GiveUp,
    RetryPolicy,
    TryNow,
    Wait,
    counts_as_failure,
    decide,
    most_telling,
)

K = FailureKind
POLICY = RetryPolicy(max_retries=3, base_delay_s=1.0, max_delay_s=8.0, retry_after_cap_s=30.0)
FINAL = [
    *(K.UPLOAD, K.PROTOCOL, K.AUTH, K.MODEL_MISSING, K.MODEL_FAILED),
    *(K.UNSUPPORTED, K.ADMISSION, K.BREAKER_OPEN, K.RESTING),
]
SILENT = [K.FIRST_TOKEN_TIMEOUT, K.RESET]
COMES_BACK = [K.CONNECT, K.SERVER, K.RATE_LIMITED]
PAUSED = [K.COOLING, K.LOCAL]
NO_WORK = NEVER_REACHED | {K.AUTH, K.MODEL_MISSING}


def f(candidate: int, kind: K, at: float = 100.0, retry_after_s: float | None = None) -> Failure:
    return Failure(candidate=candidate, kind=kind, at=at, retry_after_s=retry_after_s)


def after(*failures: Failure, candidates: int = 1, now: float = 100.0, **kwargs: Any) -> Decision:
    kwargs = {"policy": POLICY, "deadline": math.inf, "random": lambda: 0.5, **kwargs}
    return decide(failures=failures, candidates=candidates, now=now, **kwargs)


def test_first_attempt_goes_to_the_first_candidate_for_free() -> None:
    assert after(candidates=2) == TryNow(0, costs_budget=False)


@pytest.mark.parametrize("kind", sorted(set(K) - {K.REJECTED, K.STALE}, key=str))
def test_untried_candidate_is_tried_at_once(kind: K) -> None:
    assert after(f(0, kind), candidates=2) == TryNow(1, costs_budget=kind not in NO_WORK)


@pytest.mark.parametrize("candidates", [1, 2])
def test_rejected_gives_up_at_once(candidates: int) -> None:
    assert after(f(0, K.REJECTED), candidates=candidates) == GiveUp("rejected")


@pytest.mark.parametrize("kind", [*FINAL, *SILENT])
def test_candidate_that_is_out_stays_out(kind: K) -> None:
    assert after(f(0, kind)) == GiveUp("exhausted")
    assert after(f(0, kind), f(1, K.CONNECT), candidates=2) == Wait(1, 0.5, costs_budget=True)


@pytest.mark.parametrize("kind", SILENT)
def test_silent_engine_is_asked_again_only_when_seen_idle(kind: K) -> None:
    assert after(f(0, kind), idle=frozenset({0})) == Wait(0, 0.5, costs_budget=True)
    assert after(f(0, kind), candidates=2, idle=frozenset({0})) == TryNow(1, costs_budget=True)


@pytest.mark.parametrize("kind", FINAL)
def test_idle_excuses_nothing_else(kind: K) -> None:
    assert after(f(0, kind), idle=frozenset({0})) == GiveUp("exhausted")


@pytest.mark.parametrize("kind", COMES_BACK)
def test_coming_back_waits_by_backoff(kind: K) -> None:
    assert after(f(0, kind)) == Wait(0, 0.5, costs_budget=True)
    assert after(f(0, kind), f(0, kind)) == Wait(0, 1.0, costs_budget=True)
    assert after(f(0, kind), f(0, kind), f(0, kind)) == Wait(0, 2.0, costs_budget=True)
    patient = replace(POLICY, max_retries=9)
    assert after(*[f(0, kind)] * 9, policy=patient) == Wait(0, 4.0, costs_budget=True), "half of the longest delay"


def test_time_spent_elsewhere_counts_as_waited() -> None:
    assert after(f(0, K.SERVER, at=90.0), f(1, K.AUTH), candidates=2) == TryNow(0, costs_budget=True)


def test_what_is_ready_in_this_very_moment_is_tried_now() -> None:
    assert after(f(0, K.SERVER), random=lambda: 0.0) == TryNow(0, costs_budget=True)


def test_of_two_to_come_back_to_the_sooner_one() -> None:
    assert after(f(0, K.SERVER, at=99.8), f(1, K.SERVER), candidates=2) == Wait(
        0, pytest.approx(0.3), costs_budget=True
    )
    assert after(f(0, K.RATE_LIMITED, retry_after_s=5), f(1, K.SERVER), candidates=2) == Wait(1, 0.5, costs_budget=True)


def test_stale_connection_is_tried_again_once_on_the_spot() -> None:
    assert after(f(0, K.STALE), candidates=2) == TryNow(0, costs_budget=True)
    assert after(f(0, K.STALE), f(0, K.STALE), candidates=2) == TryNow(1, costs_budget=True)
    assert after(f(0, K.STALE), f(0, K.STALE)) == Wait(0, 1.0, costs_budget=True)
    assert after(f(0, K.STALE), f(1, K.STALE), candidates=2) == TryNow(1, costs_budget=True)


@pytest.mark.parametrize("kind", [K.RATE_LIMITED, K.SERVER])
def test_retry_after_is_kept_and_jitter_only_adds(kind: K) -> None:
    for chance, delay_s in ((0.0, 2.0), (0.5, 2.1)):
        assert after(f(0, kind, retry_after_s=2.0), random=lambda chance=chance: chance) == Wait(
            0, pytest.approx(delay_s), costs_budget=True
        )
    assert after(f(0, kind, retry_after_s=30.0), random=lambda: 0.99) == Wait(
        0, pytest.approx(30.99), costs_budget=True
    )
    assert after(f(0, kind, retry_after_s=30.1)) == GiveUp("exhausted")
    assert after(f(0, kind, retry_after_s=0.0)) == Wait(0, 0.5, costs_budget=True)
    assert after(f(0, kind, retry_after_s=0.8), random=lambda: 0.0) == Wait(0, pytest.approx(0.8), costs_budget=True)


@pytest.mark.parametrize("later", [K.STALE, K.SERVER])
def test_a_later_failure_does_not_lift_an_earlier_retry_after(later: K) -> None:
    assert after(f(0, K.RATE_LIMITED, at=98.0, retry_after_s=20.0), f(0, later)) == Wait(0, 18.0, costs_budget=True)


def test_extra_attempts_are_counted_over_all_candidates() -> None:
    failures = [f(index, K.SERVER) for index in range(4)]
    assert after(*failures[:3], candidates=9) == TryNow(3, costs_budget=True)
    assert after(*failures, candidates=9) == GiveUp("max_retries")


def test_unless_said_otherwise_three_times_by_backoff_or_as_asked_up_to_half_a_minute() -> None:
    policy = RetryPolicy()
    assert after(*[f(0, K.SERVER)] * 3, policy=policy) == Wait(0, 1.0, costs_budget=True)
    assert after(*[f(0, K.SERVER)] * 4, policy=policy) == GiveUp("max_retries")
    assert isinstance(after(f(0, K.SERVER, retry_after_s=30.0), policy=policy), Wait)
    assert after(f(0, K.SERVER, retry_after_s=30.1), policy=policy) == GiveUp("exhausted")


def test_skipped_candidates_use_up_nothing() -> None:
    skipped = [f(index, kind) for index, kind in enumerate(sorted(NEVER_REACHED, key=str) * 3)]
    count = len(skipped)
    assert after(*skipped, candidates=count + 1) == TryNow(count, costs_budget=False)
    assert after(*skipped, f(count, K.SERVER), candidates=count + 2) == TryNow(count + 1, costs_budget=True)


@pytest.mark.parametrize("kind", list(K))
def test_switched_off_still_moves_past_skipped_candidates(kind: K) -> None:
    policy = RetryPolicy(enabled=False)
    decision = after(f(0, kind), candidates=2, policy=policy)
    if kind in NEVER_REACHED:
        assert decision == TryNow(1, costs_budget=False)
    else:
        assert isinstance(decision, GiveUp)


@pytest.mark.parametrize("kind", PAUSED)
def test_who_could_not_be_asked_is_come_back_to_for_free_but_not_for_ever(kind: K) -> None:
    again = after(f(0, kind, at=0.0, retry_after_s=2.0), now=0.0)
    assert again == Wait(0, 2.1, costs_budget=False)
    assert isinstance(after(*[f(0, kind)] * 3), Wait)
    assert after(*[f(0, kind)] * 4) == GiveUp("exhausted")
    assert after(*[f(0, kind)] * 4, candidates=2) == TryNow(1, costs_budget=False)


def test_a_pause_longer_than_the_cap_is_not_waited_for() -> None:
    assert after(f(0, K.COOLING, retry_after_s=31.0)) == GiveUp("exhausted")
    assert after(f(0, K.COOLING, retry_after_s=31.0), candidates=2) == TryNow(1, costs_budget=False)


def test_what_two_engines_died_of_is_given_to_no_third() -> None:
    assert after(f(0, K.RESET), candidates=3) == TryNow(1, costs_budget=True)
    for kinds in ((K.RESET, K.RESET), (K.RESET, K.UPLOAD), (K.UPLOAD, K.UPLOAD)):
        assert after(*map(f, (0, 1), kinds), candidates=3) == GiveUp("exhausted")
    assert after(f(0, K.RESET), f(0, K.RESET), candidates=2, idle=frozenset({0})) == GiveUp("exhausted")
    assert after(f(0, K.RESET), f(1, K.SERVER), candidates=3) == TryNow(2, costs_budget=True)


def test_never_waits_past_the_deadline() -> None:
    assert after(f(0, K.SERVER), deadline=100.5) == GiveUp("deadline")
    assert after(f(0, K.SERVER), deadline=100.6) == Wait(0, 0.5, costs_budget=True)
    assert after(f(0, K.SERVER), candidates=2, deadline=100.0) == GiveUp("deadline")


def test_no_candidates_leave_nothing_to_do() -> None:
    assert after(candidates=0) == GiveUp("exhausted")


@pytest.mark.parametrize(
    "wrong", [{"max_retries": -1}, {"base_delay_s": -1.0}, {"max_delay_s": math.inf}, {"retry_after_cap_s": math.nan}]
)
def test_policy_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"^retry: [^A-Z]+$"):
        RetryPolicy(**wrong)


# properties

CANDIDATES = 3
histories = st.lists(
    st.builds(
        Failure,
        candidate=st.integers(0, CANDIDATES - 1),
        kind=st.sampled_from(K),
        at=st.floats(0, 100),
        retry_after_s=st.none() | st.floats(-1, 60) | st.sampled_from([math.inf, math.nan]),
    ),
    max_size=8,
)
policies = st.builds(
    RetryPolicy,
    enabled=st.booleans(),
    max_retries=st.integers(0, 8),
    base_delay_s=st.floats(0, 10),
    max_delay_s=st.floats(0, 10),
    retry_after_cap_s=st.floats(0, 60),
)


@given(
    policy=policies,
    failures=histories,
    deadline=st.floats(90, 200),
    chance=st.floats(0, 1, exclude_max=True),
    idle=st.frozensets(st.integers(0, CANDIDATES - 1)),
)
def test_laws_hold_over_any_history(
    policy: RetryPolicy, failures: list[Failure], deadline: float, chance: float, idle: frozenset[int]
) -> None:
    now = 100.0
    decision = decide(
        policy=policy,
        failures=failures,
        candidates=CANDIDATES,
        now=now,
        deadline=deadline,
        random=lambda: chance,
        idle=idle,
    )
    if isinstance(decision, GiveUp):
        return
    reached = [failure for failure in failures if failure.kind not in NEVER_REACHED]
    assert len(reached) <= (policy.max_retries if policy.enabled else 0)
    assert decision.costs_budget == any(failure.kind not in NO_WORK for failure in failures)
    start = now + decision.delay_s if isinstance(decision, Wait) else now
    assert start < deadline
    assert not isinstance(decision, Wait) or decision.delay_s > 0
    kinds = [failure.kind for failure in failures]
    assert K.REJECTED not in kinds
    assert kinds.count(K.RESET) + kinds.count(K.UPLOAD) < 2 or failures[-1].kind is K.STALE
    own = [failure for failure in failures if failure.candidate == decision.candidate]
    assert not {failure.kind for failure in own} & set(FINAL)
    if own:
        assert own[-1].kind not in SILENT or decision.candidate in idle
        for failure in own:
            if failure.retry_after_s is not None and failure.retry_after_s > 0:
                assert failure.retry_after_s <= policy.retry_after_cap_s
                assert start >= failure.at + failure.retry_after_s - 1e-9
    else:
        assert isinstance(decision, TryNow)


@given(
    policy=policies,
    kinds=st.lists(st.sampled_from(sorted(set(K) - NEVER_REACHED, key=str)), min_size=20, max_size=20),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_a_request_ends_after_its_extra_attempts(policy: RetryPolicy, kinds: list[K], chance: float) -> None:
    failures: list[Failure] = []
    now, attempts = 0.0, 0
    for kind in kinds:
        decision = decide(
            policy=policy,
            failures=failures,
            candidates=CANDIDATES,
            now=now,
            deadline=math.inf,
            random=lambda: chance,
            idle=frozenset(range(CANDIDATES)),
        )
        if isinstance(decision, GiveUp):
            break
        now += decision.delay_s if isinstance(decision, Wait) else 0.0
        attempts += 1
        failures.append(f(decision.candidate, kind, at=now))
    assert attempts <= 1 + (policy.max_retries if policy.enabled else 0)


# what to answer, what a breaker counts


def error(kind: K, message: str = "", retry_after_s: float | None = None) -> AttemptError:
    if kind is K.BREAKER_OPEN:
        return BreakerOpenError(message, retry_after_s=retry_after_s or 0.0)
    return AttemptError(message, kind=kind, retry_after_s=retry_after_s)


@pytest.mark.parametrize(
    ("kinds", "told"),
    [
        ([K.SERVER], 0),
        ([K.SERVER, K.RATE_LIMITED], 1),
        ([K.RATE_LIMITED, K.CONNECT], 0),
        ([K.FIRST_TOKEN_TIMEOUT, K.STALE, K.CONNECT], 0),
        ([K.CONNECT, K.CONNECT], 1),
        ([K.CONNECT, K.BREAKER_OPEN, K.ADMISSION, K.UNSUPPORTED], 0),
        ([K.SERVER, K.BREAKER_OPEN], 0),
        ([K.ADMISSION, K.BREAKER_OPEN], 0),
        ([K.SERVER, K.COOLING], 0),
        ([K.CONNECT, K.RESTING], 0),
        ([K.RESTING, K.BREAKER_OPEN], 0),
        ([K.COOLING, K.ADMISSION], 1),
        ([K.LOCAL, K.BREAKER_OPEN], 0),
        ([K.SERVER, K.LOCAL], 0),
        ([K.SERVER, K.MODEL_MISSING], 0),
        ([K.UNSUPPORTED, K.BREAKER_OPEN], 1),
        ([K.ADMISSION, K.UNSUPPORTED], 0),
        ([K.UNSUPPORTED, K.UNSUPPORTED], 1),
        ([K.MODEL_FAILED, K.REJECTED], 1),
    ],
)
def test_most_telling_failure(kinds: list[K], told: int) -> None:
    errors = [error(kind) for kind in kinds]
    assert most_telling(errors) is errors[told]


def test_of_open_breakers_the_soonest_speaks() -> None:
    errors = [error(K.BREAKER_OPEN, retry_after_s=wait_s) for wait_s in (30.0, 10.0, 20.0)]
    assert most_telling(errors) is errors[1]


@pytest.mark.parametrize("told", [0, 1])
def test_an_open_breaker_that_may_be_asked_again_at_once_is_the_soonest(told: int) -> None:
    waits = [0.5, 0.5]
    waits[told] = 0.0
    errors = [error(K.BREAKER_OPEN, retry_after_s=wait_s) for wait_s in waits]
    assert most_telling(errors) is errors[told]


def test_breaker_counts_what_a_failing_server_does() -> None:
    assert {kind for kind in K if counts_as_failure(kind)} == {
        *(K.CONNECT, K.RESET, K.FIRST_TOKEN_TIMEOUT, K.SERVER, K.PROTOCOL)
    }
