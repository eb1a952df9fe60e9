"""Permits, the board, and aiobreaker's own interface on our subclass."""

from __future__ import annotations

import asyncio
from abc import ABCMeta
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import aiobreaker
import pytest
from aiobreaker.storage.memory import CircuitMemoryStorage

from smartrouter_asgi.events import BreakerChanged
from smartrouter_asgi.exceptions import BreakerOpenError, FailureKind
from smartrouter_asgi.resilience import BreakerBoard, BreakerPolicy, CircuitBreaker, CircuitOpenError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator

S = aiobreaker.CircuitBreakerState
POLICY = BreakerPolicy(failure_threshold=2, reset_timeout_s=60.0, half_open_max_attempts=2, sliding_window_size=10)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Recorder(aiobreaker.CircuitBreakerListener):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def before_call(self, breaker: Any, func: Any, *args: Any, **kwargs: Any) -> None:
        self.heard.append("before")

    def failure(self, breaker: Any, exception: Exception) -> None:
        self.heard.append(f"failure {exception}")

    def success(self, breaker: Any) -> None:
        self.heard.append("success")

    def state_change(self, breaker: Any, old: Any, new: Any) -> None:
        self.heard.append(f"{old.state.name}>{new.state.name}")


class Raising(aiobreaker.CircuitBreakerListener):
    def before_call(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("listener")

    failure = success = state_change = before_call  # type: ignore[assignment]


class Events:
    def __init__(self) -> None:
        self.seen: list[object] = []

    def on_event(self, event: object) -> None:
        self.seen.append(event)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(clock: Clock, **kwargs: Any) -> CircuitBreaker:
    policy = kwargs.pop("policy", POLICY)
    return CircuitBreaker(policy, backend="gpu", operation="chat", clock=clock, **kwargs)


def fail(breaker: CircuitBreaker, times: int = 2) -> None:
    for _ in range(times):
        breaker.acquire().failure()


def boom() -> None:
    raise ValueError("boom")


# permits


def test_refusal_names_the_breaker_and_what_remains(clock: Clock) -> None:
    breaker = make(clock)
    assert breaker.peek() is None
    fail(breaker)
    clock.now += 10
    with pytest.raises(BreakerOpenError) as caught:
        breaker.acquire()
    assert "gpu/chat" in caught.value.message
    assert caught.value.retry_after_s == breaker.peek() == 50.0
    assert (caught.value.status, caught.value.code, caught.value.kind) == (
        503,
        "breaker_open",
        FailureKind.BREAKER_OPEN,
    )


@pytest.mark.parametrize(("first", "heard"), [("success", ["success"]), ("failure", ["failure e"]), ("release", [])])
def test_first_settlement_of_a_permit_wins(clock: Clock, first: str, heard: list[str]) -> None:
    recorder = Recorder()
    breaker = make(clock, policy=BreakerPolicy(), listeners=[recorder])
    permit = breaker.acquire()
    settle = {"success": permit.success, "failure": lambda: permit.failure(OSError("e")), "release": permit.release}
    settle[first]()
    for _ in range(3):
        for again in settle.values():
            again()
    failed = first == "failure"
    assert (recorder.heard, breaker.fail_counter) == (heard, failed)
    for _ in range(10):
        permit.late_outcome(True)
    assert breaker.fail_counter == failed + 1, "the end of a stream is recorded, and once"


def test_full_turn_closed_open_half_open_closed(clock: Clock) -> None:
    breaker = make(clock)
    assert breaker.state_name == "closed"
    fail(breaker)
    assert breaker.state_name == "open"
    clock.now += 60
    assert breaker.peek() is None
    assert breaker.state_name == "open", "only somebody who asks half-opens it"
    first, second = breaker.acquire(), breaker.acquire()
    assert breaker.state_name == "half-open"
    with pytest.raises(BreakerOpenError, match="half-open"):
        breaker.acquire()
    first.success()
    second.success()
    assert breaker.state_name == "closed"


def test_probe_that_fails_opens_it_again(clock: Clock) -> None:
    breaker = make(clock)
    fail(breaker)
    clock.now += 60
    breaker.acquire().failure()
    assert (breaker.state_name, breaker.peek()) == ("open", 60.0)


def test_breaker_may_go_without_names(clock: Clock) -> None:
    events = Events()
    breaker = CircuitBreaker(POLICY, clock=clock, observer=events)
    breaker.open()
    assert breaker.name == "/"
    assert events.seen == [BreakerChanged(backend="", operation="", state="open")]


@pytest.mark.parametrize(("given", "lease_s"), [({}, 120.0), ({"probe_lease_s": 5.0}, 5.0)])
@pytest.mark.parametrize("of_a_board", [False, True])
def test_hung_probe_keeps_its_slot_as_long_as_its_lease(
    clock: Clock, given: dict[str, float], lease_s: float, of_a_board: bool
) -> None:
    breaker = BreakerBoard(POLICY, clock=clock, **given).get("gpu", "chat") if of_a_board else make(clock, **given)
    breaker.half_open()
    for _ in range(2):
        breaker.acquire()
    clock.now += lease_s - 0.5
    assert breaker.peek() == 0.5
    clock.now += 0.5
    assert breaker.peek() is None


def test_probe_cancelled_by_its_client_returns_the_slot(clock: Clock) -> None:
    breaker = make(clock)
    fail(breaker)
    clock.now += 60
    breaker.acquire()
    breaker.acquire().release()
    assert breaker.peek() is None


def test_stream_that_ends_in_a_newer_epoch_moves_nothing(clock: Clock) -> None:
    breaker = make(clock)
    streams = [breaker.acquire() for _ in range(5)]
    for stream in streams:
        stream.success()
    fail(breaker)
    breaker.close()
    for stream in streams:
        stream.late_outcome(True)
    assert (breaker.state_name, breaker.fail_counter, breaker.stale) == ("closed", 0, 5)


def test_streams_that_end_badly_open_the_breaker_and_are_heard_of(clock: Clock) -> None:
    recorder, storage, events = Recorder(), CircuitMemoryStorage(S.CLOSED), Events()
    breaker = make(clock, listeners=[recorder], state_storage=storage, observer=events)
    streams = [breaker.acquire() for _ in range(3)]
    for stream in streams:
        stream.success()
        stream.late_outcome(True)
    assert (breaker.state_name, breaker.stale) == ("open", 2), "the third one's success and end came too late"
    assert recorder.heard == ["success", "success", "CLOSED>OPEN", "success"]
    assert events.seen == [BreakerChanged(backend="gpu", operation="chat", state="open")]
    assert (storage.state, storage.counter) == (S.OPEN, 2)


def test_move_by_the_end_of_a_stream_is_told_at_once(clock: Clock) -> None:
    recorder = Recorder()
    breaker = make(clock, listeners=[recorder])
    for stream in (breaker.acquire(), breaker.acquire()):
        stream.late_outcome(True)
    assert recorder.heard == ["CLOSED>OPEN"]


def test_failure_without_an_exception_is_heard_of_too(clock: Clock) -> None:
    recorder = Recorder()
    storage = CircuitMemoryStorage(S.CLOSED)
    breaker = make(clock, listeners=[recorder], state_storage=storage)
    late = breaker.acquire()
    breaker.open()
    late.failure()
    assert storage.counter == 0, "too late to count"
    assert recorder.heard == ["CLOSED>OPEN", "failure an attempt at gpu/chat failed"]
    breaker.open()
    assert len(recorder.heard) == 2, "from open to open is no change"


@pytest.mark.parametrize(
    ("exc", "failures"), [(ValueError("down"), 1), (KeyError("excluded"), 0), (asyncio.CancelledError(), 0)]
)
def test_permit_as_a_block_settles_by_how_it_ends(clock: Clock, exc: BaseException, failures: int) -> None:
    breaker = make(clock, exclude=[KeyError])
    with pytest.raises(type(exc)), breaker.acquire():
        raise exc
    assert breaker.fail_counter == failures


def test_switched_off_lets_everybody_through(clock: Clock) -> None:
    breaker = make(clock, policy=BreakerPolicy(enabled=False, failure_threshold=1))
    for _ in range(10):
        with pytest.raises(ValueError, match="boom"):
            breaker.call(boom)
        permit = breaker.acquire()
        permit.failure()
        permit.late_outcome(True)
        permit.release()
        permit.success()
    assert breaker.peek() is None
    assert (breaker.state_name, breaker.fail_counter) == ("closed", 0)


# the board


def test_board_keeps_one_breaker_per_backend_and_operation(clock: Clock) -> None:
    events = Events()
    board = BreakerBoard(POLICY, clock=clock, observer=events)
    assert board.get("a", "chat") is board.get("a", "chat")
    assert board.get("a", "stream") is not board.get("a", "chat")
    fail(board.get("a", "chat"))
    assert board.states() == [("a", "chat", "open"), ("a", "stream", "closed")]
    clock.now += 60
    for permit in [board.get("a", "chat").acquire() for _ in range(2)]:
        permit.success()
    assert events.seen == [
        BreakerChanged(backend="a", operation="chat", state=state) for state in ("open", "half-open", "closed")
    ]


def test_observer_that_raises_breaks_nothing_and_is_logged_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def on_event(self, event: object) -> None:
            raise RuntimeError("sk-secret")

    breaker = BreakerBoard(POLICY, clock=clock, observer=Broken()).get("a", "chat")
    fail(breaker)
    breaker.close()
    assert breaker.state_name == "closed"
    assert [record.getMessage() for record in caplog.records] == [
        "a hook or storage of circuit breaker a/chat raised RuntimeError"
    ]


def test_board_that_forgets_a_name_begins_anew_with_all_its_breakers_and_with_no_other(clock: Clock) -> None:
    board = BreakerBoard(POLICY, clock=clock)
    for key in (("a", "chat"), ("a", "list"), ("b", "a")):
        board.get(*key).open()
    board.forget("a")
    board.forget("never heard of")
    assert board.states() == [("b", "a", "open")]
    assert board.get("a", "chat").state_name == "closed"


# aiobreaker's interface


def test_aiobreaker_still_has_what_the_subclass_overrides() -> None:
    for name in ("_create_new_state", "call", "call_async", "is_system_error", "open", "half_open", "close"):
        assert callable(getattr(aiobreaker.CircuitBreaker, name))
    assert {state.name for state in S} == {"OPEN", "CLOSED", "HALF_OPEN"}


def test_call_propagates_the_original_even_when_it_trips(clock: Clock) -> None:
    breaker = make(clock)
    for _ in range(2):
        with pytest.raises(ValueError, match="boom"):
            breaker.call(boom)
    with pytest.raises(aiobreaker.CircuitBreakerError) as caught:
        breaker.call(boom)
    assert isinstance(caught.value, CircuitOpenError)
    assert caught.value.time_remaining == timedelta(seconds=60)
    assert caught.value.reopen_time.tzinfo is not None
    assert str(caught.value) == caught.value.message


async def test_call_async_is_a_permit_around_an_await(clock: Clock) -> None:
    breaker = make(clock)

    async def fetch(value: int) -> int:
        if value < 0:
            raise ValueError("negative")
        return value

    assert await breaker.call_async(fetch, 3) == 3
    for _ in range(2):
        with pytest.raises(ValueError, match="negative"):
            await breaker.call_async(fetch, -1)
    with pytest.raises(aiobreaker.CircuitBreakerError):
        await breaker.call_async(fetch, 3)


async def test_cancelled_call_is_no_outcome_and_returns_a_probes_slot(clock: Clock) -> None:
    breaker = make(clock)
    fail(breaker)
    clock.now += 60
    breaker.acquire()

    async def hang() -> None:
        await asyncio.Event().wait()

    task = asyncio.ensure_future(breaker.call_async(hang))
    await asyncio.sleep(0)
    assert breaker.peek() is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert breaker.state_name == "half-open"
    assert breaker.peek() is None


def test_listeners_hear_calls_outcomes_and_moves_in_order(clock: Clock) -> None:
    recorder = Recorder()
    breaker = make(clock, listeners=[recorder])
    breaker.call(int)
    for _ in range(2):
        with pytest.raises(ValueError, match="boom"):
            breaker.call(boom)
    clock.now += 60
    breaker.acquire().success()
    breaker.acquire().success()
    assert recorder.heard == [
        *["before", "success"],
        *["before", "failure boom", "before", "failure boom", "CLOSED>OPEN"],
        *["OPEN>HALF_OPEN", "success", "HALF_OPEN>CLOSED", "success"],
    ]
    breaker.remove_listener(recorder)
    breaker.open()
    assert recorder.heard[-1] == "success"


def test_listener_that_raises_breaks_no_call(clock: Clock) -> None:
    recorder = Recorder()
    breaker = make(clock, listeners=[Raising(), recorder])
    assert breaker.call(int) == 0
    with pytest.raises(ValueError, match="boom"):
        breaker.call(boom)
    breaker.acquire().failure()
    assert breaker.state_name == "open"
    assert recorder.heard[-1] == "CLOSED>OPEN", "the others still hear"


def test_excluded_exceptions_are_successes(clock: Clock) -> None:
    class Abstract(Exception, metaclass=ABCMeta):
        pass

    class Mine(Abstract):
        pass

    def raise_(exc: Exception) -> None:
        raise exc

    breaker = make(clock, exclude=[KeyError, Abstract, lambda exc: "fine" in str(exc)])
    for exc in (KeyError("k"), Mine("m"), RuntimeError("fine")):
        with pytest.raises(type(exc)):
            breaker.call(raise_, exc)
    assert breaker.fail_counter == 0
    with pytest.raises(OSError, match="down"):
        breaker.call(raise_, OSError("down"))
    assert breaker.fail_counter == 1, "a class with a metaclass of its own is no predicate"
    breaker.add_excluded_exception(OSError)
    with pytest.raises(OSError, match="down"):
        breaker.call(raise_, OSError("down"))
    assert breaker.fail_counter == 1


def test_exclusion_that_raises_hides_no_error(clock: Clock) -> None:
    def broken(exc: Exception) -> bool:
        raise RuntimeError("predicate")

    breaker = make(clock, exclude=[broken])
    with pytest.raises(ValueError, match="boom"):
        breaker.call(boom)
    assert breaker.fail_counter == 1


def test_storage_is_told_of_every_move(clock: Clock) -> None:
    storage = CircuitMemoryStorage(S.CLOSED)
    breaker = make(clock, state_storage=storage)
    breaker.acquire().failure()
    assert storage.counter == 1
    breaker.acquire().failure()
    assert storage.state is S.OPEN
    assert storage.opened_at is not None
    breaker.close()
    assert (storage.state, storage.counter) == (S.CLOSED, 0)


def test_storage_shares_the_state_between_breakers(clock: Clock) -> None:
    storage = CircuitMemoryStorage(S.CLOSED)
    one, other = make(clock, state_storage=storage), make(clock, state_storage=storage)
    fail(one)
    with pytest.raises(BreakerOpenError):
        other.acquire()
    assert make(clock, state_storage=storage).state_name == "open"
    one.close()
    assert other.peek() is None
    assert other.state_name == "closed"


def test_what_another_breaker_did_is_taken_over_and_not_written_once_more(clock: Clock) -> None:
    storage = CircuitMemoryStorage(S.CLOSED)
    one, other = make(clock, state_storage=storage), make(clock, state_storage=storage)
    fail(one)
    storage.opened_at = None
    assert other.peek() == 60.0
    assert storage.opened_at is None
    one.close()
    storage.increment_counter()
    assert other.peek() is None
    assert storage.counter == 1


class Failing(CircuitMemoryStorage):
    """Can be made to take nothing any more, and to answer nothing."""

    deaf = False
    down = False

    @property
    def state(self) -> Any:
        if self.down:
            raise ConnectionError("redis://:sk-secret@box")
        return self._state

    @state.setter
    def state(self, state: Any) -> None:
        if self.deaf:
            raise ConnectionError("redis://:sk-secret@box")
        self._state = state


def test_state_taken_over_is_no_news_a_second_time(clock: Clock) -> None:
    storage = Failing(S.CLOSED)
    one, other = make(clock, state_storage=storage), make(clock, state_storage=storage)
    fail(one)
    assert other.peek() == 60.0
    storage.deaf = True
    clock.now += 60
    probes = [other.acquire(), other.acquire()]
    assert other.peek() is not None
    assert other.state_name == "half-open", "the storage still says open, as before"
    for probe in probes:
        probe.success()
    assert other.state_name == "closed"


def test_storage_that_comes_up_late_takes_back_nothing_it_never_heard_of(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Failing(S.CLOSED)
    storage.down = storage.deaf = True
    breaker = make(clock, state_storage=storage)
    fail(breaker)
    storage.down = False
    assert breaker.peek() == 60.0
    assert [record.getMessage() for record in caplog.records] == [
        "a hook or storage of circuit breaker gpu/chat raised ConnectionError"
    ]


def test_storage_that_is_down_leaves_the_breaker_working_alone(clock: Clock) -> None:
    class Down(CircuitMemoryStorage):
        broken = False

        @property
        def state(self) -> Any:
            if self.broken:
                raise ConnectionError
            return S.CLOSED

        @state.setter
        def state(self, state: Any) -> None:
            raise ConnectionError

        def increment_counter(self) -> None:
            raise ConnectionError

    storage = Down(S.CLOSED)
    breaker = make(clock, state_storage=storage)
    fail(breaker)
    assert breaker.peek() == 60.0, "a storage that lost the move takes nothing back"
    storage.broken = True
    assert breaker.peek() == 60.0


def test_states_and_times_in_aiobreakers_terms(clock: Clock) -> None:
    breaker = make(clock)
    assert (breaker.current_state, breaker.state.state) == (S.CLOSED, S.CLOSED)
    assert breaker.opens_at is None
    assert breaker.time_until_open is None
    assert (breaker.name, breaker.fail_max, breaker.timeout_duration) == ("gpu/chat", 2, timedelta(seconds=60))
    breaker.fail_max = 3
    breaker.timeout_duration = timedelta(seconds=5)
    fail(breaker)
    assert breaker.current_state is S.CLOSED
    breaker.state = S.OPEN
    assert breaker.current_state is breaker.state.state is S.OPEN
    assert breaker.time_until_open == timedelta(seconds=5)
    assert breaker.opens_at is not None
    with pytest.raises(aiobreaker.CircuitBreakerError):
        breaker.state.call(int)
    breaker.half_open()
    assert breaker.current_state is S.HALF_OPEN
    assert breaker.state.call(int) == 0


async def test_sleep_until_open_returns_at_once_when_a_permit_may_be_had(clock: Clock) -> None:
    breaker = make(clock)
    await breaker.sleep_until_open()
    assert await breaker.state.call_async(asyncio.sleep, 0, "awake") == "awake"


async def test_decorated_function_counts_once_per_breaker(clock: Clock) -> None:
    one, other = make(clock), make(clock)

    @one
    def plain() -> None:
        raise ValueError("boom")

    @one()
    async def fetch() -> None:
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        one.call(plain)
    assert one.fail_counter == 1
    with pytest.raises(ValueError, match="boom"):
        other.call(plain)
    assert (one.state_name, other.fail_counter) == ("open", 1)
    one.close()
    with pytest.raises(ValueError, match="boom"):
        await one.call_async(fetch)
    assert one.fail_counter == 1


def test_generator_is_guarded_to_its_end(clock: Clock) -> None:
    breaker = make(clock)

    def numbers() -> Generator[int, None, None]:
        yield 1
        raise ValueError("boom")

    for _ in range(2):
        with pytest.raises(ValueError, match="boom"):
            list(breaker.call(numbers))
    assert breaker.state_name == "open"
    breaker.close()
    left = breaker.call(numbers)
    next(left)
    left.close()
    assert breaker.fail_counter == 0, "a reader who leaves says nothing about the backend"


async def test_async_generator_is_refused_without_an_outcome(clock: Clock) -> None:
    breaker = make(clock)

    async def numbers() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TypeError, match="acquire"):
        await breaker.call_async(numbers)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="acquire"):
        breaker.call(numbers)
    assert breaker.fail_counter == 0


# slow calls


SLOW = BreakerPolicy(
    failure_threshold=5, sliding_window_size=10, slow_call_duration_s=2.0, slow_call_rate=0.5, slow_call_min_calls=4
)


def test_slow_first_tokens_open_it_though_every_call_succeeded(clock: Clock) -> None:
    recorder, storage = Recorder(), CircuitMemoryStorage(S.CLOSED)
    breaker = make(clock, policy=SLOW, listeners=[recorder], state_storage=storage)
    for first_token_s in (0.1, 0.1, 2.0, None, 3.0):
        breaker.acquire().success(first_token_s)
    assert (breaker.state_name, breaker.fail_counter) == ("open", 0)
    assert recorder.heard == [*["success"] * 4, "CLOSED>OPEN", "success"], "a slow call is no failed one"
    assert (storage.state, storage.counter) == (S.OPEN, 0)


def test_first_token_time_means_nothing_where_it_is_not_asked_for(clock: Clock) -> None:
    for policy in (POLICY, BreakerPolicy(enabled=False)):
        breaker = make(clock, policy=policy)
        for _ in range(100):
            breaker.acquire().success(first_token_s=1e6)
        assert breaker.state_name == "closed"


def test_board_hands_its_chance_to_its_breakers(clock: Clock) -> None:
    board = BreakerBoard(BreakerPolicy(reset_timeout_max_s=600.0), clock=clock, random=lambda: 0.5)
    breaker = board.get("a", "chat")
    breaker.open()
    breaker.half_open()
    breaker.open()
    assert breaker.peek() == pytest.approx(126.0)


def test_board_tells_how_many_outcomes_came_too_late(clock: Clock) -> None:
    board = BreakerBoard(POLICY, clock=clock)
    late = board.get("a", "chat").acquire()
    board.get("a", "chat").open()
    late.success()
    late.late_outcome(True)
    board.get("b", "list")
    assert board.stale() == [("a", "chat", 2), ("b", "list", 0)]


# other people's code


class Closing(aiobreaker.CircuitBreakerListener):
    """Closes again whatever it hears of, at once."""

    def state_change(self, breaker: Any, old: Any, new: Any) -> None:
        if new.state is not S.CLOSED:
            breaker.close()


def test_listener_that_moves_the_breaker_changes_no_order_of_what_others_hear(clock: Clock) -> None:
    recorder, events = Recorder(), Events()
    breaker = make(clock, listeners=[Closing(), recorder], observer=events)
    fail(breaker)
    assert breaker.state_name == "closed"
    assert recorder.heard[-2:] == ["CLOSED>OPEN", "OPEN>CLOSED"]
    assert [event.state for event in events.seen if isinstance(event, BreakerChanged)] == ["open", "closed"]


def test_listener_that_moves_the_breaker_on_a_failure_hears_the_move_before_its_own(clock: Clock) -> None:
    class ClosingOnFailure(Recorder):
        def failure(self, breaker: Any, exception: Exception) -> None:
            super().failure(breaker, exception)
            if breaker.state_name == "open":
                breaker.close()

    listener, storage = ClosingOnFailure(), CircuitMemoryStorage(S.CLOSED)
    breaker = make(clock, listeners=[listener], state_storage=storage)
    fail(breaker)
    assert listener.heard[2:] == ["CLOSED>OPEN", "OPEN>CLOSED"]
    assert (breaker.state_name, storage.state) == ("closed", S.CLOSED)


def test_permit_of_a_probe_is_of_the_epoch_it_was_let_in(clock: Clock) -> None:
    breaker = make(clock)
    fail(breaker)
    clock.now += 60
    breaker.add_listener(Closing())
    permit = breaker.acquire()
    assert breaker.state_name == "closed"
    permit.failure()
    assert (breaker.state_name, breaker.stale) == ("closed", 1), "one failure opens no closed breaker"


def test_arguments_of_a_call_may_have_any_name(clock: Clock) -> None:
    breaker = make(clock, listeners=[Recorder()])
    assert breaker.call(dict, method="GET", listener=1, act=2) == {"method": "GET", "listener": 1, "act": 2}


async def test_coroutine_is_refused_where_nobody_awaits_it(clock: Clock) -> None:
    breaker = make(clock)
    fail(breaker)
    clock.now += 60

    async def fetch() -> None:
        raise AssertionError("never begun")

    for _ in range(5):
        with pytest.raises(TypeError, match="call_async"):
            breaker.call(fetch)
    assert breaker.state_name == "half-open", "what was not done is no success"
    assert breaker.peek() is None


def test_function_decorated_by_two_breakers_counts_once_for_each(clock: Clock) -> None:
    one, other = make(clock), make(clock)

    @other
    @one
    def plain() -> None:
        raise ValueError("boom")

    for caller in (one, other):
        with pytest.raises(ValueError, match="boom"):
            caller.call(plain)
        assert (one.fail_counter, other.fail_counter) == (1, 1)
        one.close()
        other.close()


def test_storage_that_swallows_what_it_is_told_takes_nothing_back(clock: Clock) -> None:
    class Swallowing(CircuitMemoryStorage):
        """As aiobreaker's for Redis while Redis is down: it loses writes and answers with a default."""

        @property
        def state(self) -> Any:
            return S.CLOSED

        @state.setter
        def state(self, state: Any) -> None:
            pass

    breaker = make(clock, state_storage=Swallowing(S.CLOSED))
    fail(breaker)
    assert breaker.peek() == 60.0
    assert breaker.state_name == "open"


def test_storage_that_keeps_no_time_still_shares_the_state(clock: Clock) -> None:
    class Timeless(CircuitMemoryStorage):
        @property
        def opened_at(self) -> Any:
            return None

        @opened_at.setter
        def opened_at(self, date_time: Any) -> None:
            raise NotImplementedError

    storage = Timeless(S.CLOSED)
    one, other = make(clock, state_storage=storage), make(clock, state_storage=storage)
    fail(one)
    assert other.peek() == 60.0


def test_storage_with_a_state_nobody_knows_leaves_the_breaker_working_alone(clock: Clock) -> None:
    storage = CircuitMemoryStorage(S.CLOSED)
    breaker = make(clock, state_storage=storage)
    storage.state = "open"  # type: ignore[assignment]
    assert breaker.peek() is None
    fail(breaker)
    assert breaker.state_name == "open"
