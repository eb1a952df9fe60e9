"""Laws of the retry budgets."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from smartrouter_asgi.exceptions import ConfigurationError
from smartrouter_asgi.resilience import BudgetBoard, RetryBudget


def drain(budget: RetryBudget, now: float = 0.0) -> int:
    granted = 0
    while budget.withdraw(now):
        granted += 1
        assert granted < 10_000, "it grants for ever"
    return granted


def test_a_new_budget_holds_its_reserve() -> None:
    assert drain(RetryBudget(reserve=10)) == 10


def test_requests_earn_their_ratio() -> None:
    budget = RetryBudget(ratio=0.25, reserve=0)
    for _ in range(100):
        budget.deposit(0.0)
    assert drain(budget) == 25


def test_time_refills_the_reserve_and_no_more() -> None:
    budget = RetryBudget(reserve=10, refill_per_s=1)
    drain(budget)
    assert drain(budget, 3.0) == 3
    assert drain(budget, 1000.0) == 10


@pytest.mark.parametrize(("refill_per_s", "granted"), [(0.0, 0), (0.5, 2), (2.0, 8)])
def test_time_refills_so_many_a_second(refill_per_s: float, granted: int) -> None:
    budget = RetryBudget(reserve=10, refill_per_s=refill_per_s)
    drain(budget)
    assert drain(budget, 4.0) == granted


def test_traffic_is_not_refilled_by_time_as_well() -> None:
    """Thirty seconds of a dead backend at 100 requests/s: 1.2 x requests + reserve, and nothing for the time."""
    budget, sent, retries, now = RetryBudget(), 0, 0, 0.0
    for _ in range(3000):
        now += 0.01
        budget.deposit(now)
        sent += 1
        retries += sum(budget.withdraw(now) for _ in range(3))
    assert retries <= 0.2 * sent + 10
    assert retries >= 0.2 * sent


def test_a_quiet_router_may_retry_once_a_second_all_the_same() -> None:
    """One request every ten seconds earns little; the floor lets it retry."""
    budget, now = RetryBudget(reserve=10, refill_per_s=1), 0.0
    drain(budget)
    for _ in range(20):
        now += 10.0
        budget.deposit(now)
        assert sum(budget.withdraw(now) for _ in range(3)) == 3


def test_soon_after_the_traffic_time_refills_again() -> None:
    budget = RetryBudget(reserve=10, refill_per_s=1)
    for _ in range(10_000):
        budget.deposit(0.0)
    drain(budget)
    assert drain(budget, 10.0) == 0, "earned before it was due"
    assert drain(budget, 15.0) == 5


def test_time_takes_nothing_earned_away() -> None:
    budget = RetryBudget(ratio=0.5, reserve=2)
    for _ in range(10):
        budget.deposit(0.0)
    assert budget.tokens(1e6) == 7.0


def test_what_is_earned_is_bounded() -> None:
    budget = RetryBudget(ratio=1.0, reserve=10, earned_max=5)
    for _ in range(1000):
        budget.deposit(0.0)
    assert drain(budget) == 15


def test_a_hundred_are_earned_at_most_unless_said_otherwise() -> None:
    budget = RetryBudget(ratio=1.0, reserve=10)
    for _ in range(1000):
        budget.deposit(0.0)
    assert drain(budget) == 110


def test_a_clock_that_steps_back_earns_nothing() -> None:
    budget = RetryBudget(reserve=5)
    drain(budget, 100.0)
    assert drain(budget, 0.0) == 0
    assert drain(budget, 100.0) == 0
    assert drain(budget, 101.0) == 1


def test_a_dead_backend_gets_one_in_five_and_the_reserve() -> None:
    board, sent = BudgetBoard(refill_per_s=0.0), 0
    for _ in range(1000):
        board.deposit("dead", 0.0)
        sent += 1
        sent += sum(board.withdraw("dead", 0.0) for _ in range(3))
    assert sent <= 1.2 * 1000 + 10
    assert sent >= 1.2 * 1000


def test_board_takes_from_both_or_from_none() -> None:
    board = BudgetBoard(reserve=3, refill_per_s=0.0)

    def granted(backend: str) -> int:
        return sum(board.withdraw(backend, 0.0) for _ in range(20))

    assert granted("a") == 3
    assert granted("b") == 0, "all of them together have one budget"
    for _ in range(25):
        board.deposit("a", 0.0)
    assert granted("b") == 3, "b's own reserve is whole: the refusals took nothing of it"
    assert granted("a") == 2, "nor did b's later refusals take of the common one"


def spend(board: BudgetBoard, backend: str, now: float) -> int:
    return sum(board.withdraw(backend, now) for _ in range(50))


def test_board_opens_its_budgets_with_the_numbers_it_was_given() -> None:
    board = BudgetBoard(ratio=0.5, reserve=2.0, refill_per_s=0.25)
    assert spend(board, "a", 0.0) == 2
    assert spend(board, "a", 4.0) == 1
    for _ in range(8):
        board.deposit("a", 4.0)
    assert spend(board, "a", 4.0) == 4


def test_board_opens_its_budgets_with_the_numbers_of_the_contract_unless_said_otherwise() -> None:
    board = BudgetBoard()
    assert spend(board, "a", 0.0) == 10
    assert spend(board, "a", 3.0) == 3
    for _ in range(20):
        board.deposit("a", 3.0)
    assert spend(board, "a", 3.0) == 4


def test_what_a_backend_earns_as_a_fallback_is_its_own_and_of_its_time() -> None:
    board = BudgetBoard(ratio=0.5, reserve=2.0, refill_per_s=0.0)
    for _ in range(20):
        board.deposit("busy", 0.0)
    assert spend(board, "b", 0.0) == 2
    for _ in range(4):
        board.fall_back("b", 1.0, costs=False)
    assert [spend(board, backend, 1.0) for backend in ("b", "c")] == [2, 2]


def test_a_name_that_is_forgotten_leaves_the_others_budgets_alone_and_begins_anew() -> None:
    board = BudgetBoard(ratio=1.0, reserve=1.0, refill_per_s=0.0)
    for _ in range(20):
        board.deposit("busy", 0.0)
    assert [spend(board, backend, 0.0) for backend in ("a", "b")] == [1, 1]
    board.forget("a")
    board.forget("never heard of")
    assert [spend(board, backend, 0.0) for backend in ("a", "b")] == [1, 0]


def test_who_falls_back_is_never_refused_earns_where_he_comes_and_makes_repetitions_rare() -> None:
    board = BudgetBoard(reserve=3, refill_per_s=0.0)
    for _ in range(100):
        board.deposit("dead", 0.0)
        board.fall_back("second", 0.0)
    assert not board.withdraw("dead", 0.0), "the common budget went with those who fell back"
    quiet = BudgetBoard(reserve=3, refill_per_s=0.0)
    for _ in range(100):
        quiet.deposit("busy", 0.0)
        quiet.fall_back("second", 0.0, costs=False)
    assert sum(quiet.withdraw("second", 0.0) for _ in range(100)) == 23, "a fifth of its requests, and the reserve"


def test_a_client_s_own_retry_earns_nothing_where_it_falls_back() -> None:
    board = BudgetBoard(reserve=0, refill_per_s=0.0)
    for _ in range(100):
        board.deposit("first", 0.0)
        board.fall_back("second", 0.0, earns=False, costs=False)
    assert not board.withdraw("second", 0.0)


@pytest.mark.parametrize("wrong", [{"ratio": -0.1}, {"reserve": float("nan")}, {"refill_per_s": float("inf")}])
def test_numbers_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=r"^retry\.budget: [^A-Z]+$"):
        RetryBudget(**wrong)


class BudgetAgainstItsLaw(RuleBasedStateMachine):
    """Granted <= ratio x deposits + reserve + refill x elapsed, and the balance stays within its bounds."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = RetryBudget(ratio=0.2, reserve=4.0, refill_per_s=0.5, earned_max=6.0)
        self.now, self.deposits, self.granted = 0.0, 0, 0

    @rule(seconds=st.floats(0.0, 30.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(times=st.integers(1, 40))
    def requests(self, times: int) -> None:
        for _ in range(times):
            self.budget.deposit(self.now)
        self.deposits += times

    @rule()
    def retry(self) -> None:
        before = self.budget.tokens(self.now)
        granted = self.budget.withdraw(self.now)
        assert granted == (before >= 1 - 1e-9)
        assert self.budget.tokens(self.now) == (max(0.0, before - 1) if granted else before)
        self.granted += granted

    @invariant()
    def law(self) -> None:
        assert self.granted <= 0.2 * self.deposits + 4.0 + 0.5 * self.now + 1e-6
        assert 0.0 <= self.budget.tokens(self.now) <= 10.0


TestBudgetAgainstItsLaw = BudgetAgainstItsLaw.TestCase
TestBudgetAgainstItsLaw.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
