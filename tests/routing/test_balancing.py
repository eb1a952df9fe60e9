"""Laws of load: what is learnt of deployments, and who goes first by it."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from smartrouter_asgi.deployment import Deployment
from smartrouter_asgi.events import AttemptFinished, RequestFinished
from smartrouter_asgi.exceptions import FailureKind
from smartrouter_asgi.routing import balancing
from smartrouter_asgi.routing.balancing import DECAY_S, FAILURE_CAP_S, FAILURE_FLOOR_S, LoadTracker, by_load
from smartrouter_asgi.testing import ManualClock

A, B, C, D = (Deployment(backend="b", model=model) for model in "abcd")


class Tracked:
    """A tracker with a clock to turn, and short words for what it sees."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.tracker = LoadTracker(clock=self.clock)

    def finished(
        self, where: Deployment, duration_s: float, *, outcome="ok", operation="stream", first=True, kind=None
    ):
        self.tracker.on_event(
            AttemptFinished(
                backend=where.backend,
                model=where.model,
                operation=operation,
                number=1,
                outcome=outcome,
                duration_s=duration_s,
                first_token_s=duration_s if first else None,
                kind=kind,
            )
        )

    def failed(self, where: Deployment, duration_s: float, kind: FailureKind = FailureKind.SERVER) -> None:
        self.finished(where, duration_s, outcome="upstream_error", first=False, kind=kind)

    def cost(self, where: Deployment) -> float:
        return self.tracker.load("latency", where)


@pytest.fixture
def tracked() -> Tracked:
    return Tracked()


def test_a_peak_counts_at_once_and_a_recovery_with_time(tracked: Tracked):
    tracked.finished(A, 1.0)
    tracked.finished(A, 9.0)
    assert tracked.cost(A) == 9.0
    tracked.clock.advance(0.001)
    tracked.finished(A, 1.0)
    assert tracked.cost(A) > 8.9
    tracked.clock.advance(DECAY_S)
    tracked.finished(A, 1.0)
    assert tracked.cost(A) == pytest.approx(1.0 + 8.0 * 0.3679, abs=0.01)


def test_cost_is_the_average_times_the_requests_there_would_be(tracked: Tracked):
    tracked.finished(A, 2.0)
    tracked.tracker.inflight[A.id] = 3
    assert tracked.cost(A) == 8.0
    assert tracked.tracker.load("least_busy", A) == 3


def test_one_that_was_slow_is_tried_again_after_a_while_and_by_one_request(tracked: Tracked):
    """Nothing new is heard of it, and time forgives: until a request is under way there again."""
    tracked.finished(A, 5.0)
    tracked.finished(B, 0.5)
    assert tracked.cost(A) > tracked.cost(B)
    for _ in range(30):
        tracked.clock.advance(1.0)
        tracked.finished(B, 0.5)
    assert tracked.cost(A) < tracked.cost(B)
    tracked.tracker.inflight[A.id] = 1
    assert tracked.cost(A) == 10.0
    tracked.tracker.inflight[A.id] = 0
    tracked.finished(A, 0.5)
    assert tracked.cost(A) < 1.0


def test_an_untried_one_is_tried_but_not_flooded(tracked: Tracked):
    """One request at a time, until it has shown what it can do; untried ones among themselves share evenly."""
    tracked.finished(A, 60.0)
    tracked.tracker.inflight[A.id] = 100
    assert tracked.cost(B) == 0.0
    tracked.tracker.inflight[B.id] = 1
    assert tracked.cost(B) > tracked.cost(A)
    tracked.tracker.inflight[C.id] = 2
    assert tracked.cost(C) > tracked.cost(B)


@pytest.mark.parametrize("known_s", [0.2, 5.0, 200.0])
def test_a_failure_never_looks_fast(tracked: Tracked, known_s: float):
    """However quickly it came: not below the floor, not below what was known, and worse than before it."""
    tracked.finished(A, known_s)
    tracked.clock.advance(DECAY_S)
    tracked.failed(A, 0.001, FailureKind.CONNECT)
    assert tracked.cost(A) >= max(known_s, min(2 * known_s, FAILURE_CAP_S), FAILURE_FLOOR_S)


def test_a_slow_failure_counts_as_long_as_it_took(tracked: Tracked):
    tracked.failed(A, 120.0, FailureKind.FIRST_TOKEN_TIMEOUT)
    assert tracked.cost(A) == 120.0


def test_one_that_keeps_failing_drops_behind_and_comes_back(tracked: Tracked):
    """Up to the cap and no further; failing does not make it forget for longer than a minute or so."""
    tracked.finished(B, 5.0)
    for _ in range(20):
        tracked.clock.advance(0.01)
        tracked.failed(A, 0.001)
    assert tracked.cost(A) == FAILURE_CAP_S
    tracked.clock.advance(60.0)
    assert tracked.cost(A) < 5.0


def test_what_fails_together_is_one_incident(tracked: Tracked):
    """Twenty requests that were under way when a server died count once."""
    tracked.finished(A, 3.0)
    tracked.clock.advance(2.0)
    for _ in range(20):
        tracked.failed(A, 2.0, FailureKind.RESET)
        tracked.clock.advance(0.01)
    assert 6.0 >= tracked.cost(A) > 5.9


NOT_THE_SERVERS = (
    FailureKind.STALE,
    FailureKind.UPLOAD,
    FailureKind.REJECTED,
    FailureKind.UNSUPPORTED,
    FailureKind.ADMISSION,
    FailureKind.BREAKER_OPEN,
    FailureKind.COOLING,
    FailureKind.RESTING,
    FailureKind.LOCAL,
)


@pytest.mark.parametrize("kind", [None, *NOT_THE_SERVERS])
def test_cancellations_and_refusals_teach_nothing(tracked: Tracked, kind: FailureKind | None):
    """Neither how long they took, nor that the deployment was tried."""
    outcome = "cancelled" if kind is None else "upstream_error"
    tracked.finished(A, 2.0)
    for where in (A, B):
        for operation in ("stream", "chat"):
            tracked.finished(where, 50.0, outcome=outcome, operation=operation, first=False, kind=kind)
    assert (tracked.cost(A), tracked.cost(B)) == (2.0, 0.0)


@pytest.mark.parametrize("kind", [kind for kind in FailureKind if kind not in NOT_THE_SERVERS])
def test_every_other_failure_counts(tracked: Tracked, kind: FailureKind):
    tracked.failed(A, 7.0, kind)
    assert tracked.cost(A) == 7.0


def test_a_first_token_counts_although_the_client_left_later(tracked: Tracked):
    tracked.finished(A, 4.0, outcome="cancelled")
    assert tracked.cost(A) == 4.0


def test_a_stream_without_a_first_token_tells_no_time(tracked: Tracked):
    """An app behind the layers that streams by itself: its whole answer is no first token."""
    tracked.finished(A, 30.0, first=False)
    assert tracked.cost(A) == 0.0
    tracked.finished(A, 30.0, first=False, operation="chat")
    assert tracked.cost(A) == 30.0


def test_other_events_are_none_of_its_business(tracked: Tracked):
    tracked.tracker.on_event(
        RequestFinished(
            request_id="r",
            endpoint="chat",
            model="a",
            backend="b",
            status=200,
            outcome="ok",
            attempts=1,
            duration_s=9.0,
            first_token_s=9.0,
        )
    )
    assert tracked.cost(A) == 0.0


def test_what_is_remembered_is_bounded(tracked: Tracked, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(balancing, "MAX_DEPLOYMENTS", 2)
    for where in (A, B, C):
        tracked.finished(where, 3.0)
    assert [tracked.cost(where) for where in (A, B, C)] == [0.0, 3.0, 3.0]


LOADS = {A: 1.0, B: 2.0, C: 3.0, D: 4.0}


def test_of_two_the_less_loaded_goes_first():
    rng = random.Random(1)
    assert {tuple(by_load([B, A], LOADS.__getitem__, random=rng.random)) for _ in range(50)} == {(A, B)}


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_equals_share_by_chance(count: int):
    rng = random.Random(2)
    places = [A, B, C, D][:count]
    firsts = Counter(by_load(places, lambda d: 0.0, random=rng.random)[0] for _ in range(6000))
    assert all(abs(firsts[place] / 6000 - 1 / count) < 0.03 for place in places)


def test_the_better_of_two_drawn_goes_first_and_the_rest_by_load():
    """With four: the best in 1/2 of the draws, then 1/3, 1/6, and the worst never."""
    rng = random.Random(3)
    firsts: Counter[Deployment] = Counter()
    for _ in range(6000):
        first, *rest = by_load([D, B, A, C], LOADS.__getitem__, random=rng.random)
        assert rest == [d for d in (A, B, C, D) if d is not first]
        firsts[first] += 1
    for place, share in ((A, 1 / 2), (B, 1 / 3), (C, 1 / 6), (D, 0.0)):
        assert abs(firsts[place] / 6000 - share) < 0.03


@pytest.mark.parametrize("chance", [0.0, 1.0 - 2**-53])
def test_any_number_that_chance_gives_will_do(chance: float):
    assert sorted(by_load([A, B, C], LOADS.__getitem__, random=lambda: chance), key=LOADS.get) == [A, B, C]


def test_many_workers_do_not_herd():
    """Twenty that act on the same old numbers: none of ten deployments gets all of them, the idle ones get most."""
    places = [Deployment(backend="b", model=str(n)) for n in range(10)]
    stale = {place: float(n) for n, place in enumerate(places)}
    most = []
    for seed in range(200):
        rngs = [random.Random(f"{seed}/{worker}") for worker in range(20)]
        firsts = Counter(by_load(places, stale.__getitem__, random=rng.random)[0] for rng in rngs)
        most.append(max(firsts.values()))
    assert sum(most) / len(most) < 8


def test_load_ends_up_in_proportion_to_speed():
    """A simulation: three deployments of one kind, one of them four times as slow, gets far fewer requests."""
    rng, clock = random.Random(4), ManualClock()
    tracker = LoadTracker(clock=clock)
    speed_s = {A: 0.1, B: 0.1, C: 0.4}
    running: list[tuple[float, float, Deployment]] = []
    served: Counter[Deployment] = Counter()
    for step in range(4000):
        now = step * 0.02
        clock.advance(now - clock())
        for ends, took_s, where in [one for one in running if one[0] <= now]:
            running.remove((ends, took_s, where))
            tracker.inflight[where.id] -= 1
            event = AttemptFinished(
                backend=where.backend,
                model=where.model,
                operation="stream",
                number=1,
                outcome="ok",
                duration_s=took_s,
                first_token_s=took_s,
            )
            tracker.on_event(event)
        first = by_load([A, B, C], lambda d: tracker.load("latency", d), random=rng.random)[0]
        took_s = speed_s[first] * (tracker.inflight[first.id] + 1)
        running.append((now + took_s, took_s, first))
        tracker.inflight[first.id] += 1
        served[first] += 1
    assert 0 < served[C] < served[A] / 2
    assert abs(served[A] - served[B]) < 400
