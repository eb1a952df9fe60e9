"""Retry budgets: what keeps retries from turning one dead backend into a storm."""

from __future__ import annotations

import math

from ..exceptions import ConfigurationError

_ONE = 1 - 1e-9
"""One token: five deposits of a fifth make one, whatever their floating-point sum."""


class RetryBudget:
    """Grants at most `ratio` x deposits + `reserve` retries while there is traffic, over any stretch of time.

    Deposits pile up to `earned_max` tokens above the reserve. Time refills the reserve only, and only as far as
    deposits have not: `refill_per_s` is what a quiet router may do at least, not something that busy ones get on top.
    """

    __slots__ = ("_ahead", "_deposits", "_most", "_ratio", "_refill_per_s", "_reserve", "_seen", "_tokens")

    def __init__(
        self, *, ratio: float = 0.2, reserve: float = 10.0, refill_per_s: float = 1.0, earned_max: float = 100.0
    ) -> None:
        if not all(math.isfinite(value) and value >= 0 for value in (ratio, reserve, refill_per_s, earned_max)):
            raise ConfigurationError("retry.budget: ratio and reserve must be finite numbers, 0 or more")
        self._ratio = ratio
        self._reserve = reserve
        self._refill_per_s = refill_per_s
        self._most = reserve + earned_max
        self._tokens = reserve
        self._deposits = 0
        self._seen: float | None = None
        self._ahead = 0.0
        """Tokens that deposits have earned lately, and that time does not grant once more; at most the reserve."""

    def tokens(self, now: float) -> float:
        """How many retries it would grant now."""
        self._refill(now)
        return self._tokens

    def deposit(self, now: float) -> None:
        """Take note of one request; a client's own retry earns nothing and is not deposited.

        Every request does this and few ask what it has earned: it is only counted until somebody does.
        """
        if self._seen is None:
            self._seen = now
        self._deposits += 1

    def withdraw(self, now: float) -> bool:
        """Pay for one retry, or return False and take nothing."""
        self._refill(now)
        if self._tokens < _ONE:
            return False
        self._tokens = max(0.0, self._tokens - 1)
        return True

    def _refill(self, now: float) -> None:
        """Add what was deposited, then what time grants beyond that."""
        if self._deposits:
            earned, self._deposits = self._ratio * self._deposits, 0
            self._tokens = min(self._most, self._tokens + earned)
            self._ahead = min(self._reserve, self._ahead + earned)
        seen = self._seen
        if seen is None:
            self._seen = now
        elif now > seen:
            self._seen = now
            due = (now - seen) * self._refill_per_s
            earned = due if due < self._ahead else self._ahead
            self._ahead -= earned
            if self._tokens < self._reserve:
                self._tokens = min(self._reserve, self._tokens + due - earned)


class BudgetBoard:
    """One budget per backend and one for all of them together; a retry is paid from both or from none.

    A request's first call of a backend is a request there, whoever was asked before: it earns there, and is never
    refused, or the budget of a dead backend would keep its requests from a healthy one. What it costs is taken from the
    common budget as far as that reaches, so that repetitions become rare while much falls back.
    """

    def __init__(self, *, ratio: float = 0.2, reserve: float = 10.0, refill_per_s: float = 1.0) -> None:
        self._ratio = ratio
        self._reserve = reserve
        self._refill_per_s = refill_per_s
        self._total = self._open()
        self._backends: dict[str, RetryBudget] = {}

    def deposit(self, backend: str, now: float) -> None:
        """Take note of one request first sent to `backend`; the name comes from configuration."""
        self._of(backend).deposit(now)
        self._total.deposit(now)

    def fall_back(self, backend: str, now: float, *, earns: bool = True, costs: bool = True) -> None:
        """Take note of a request that comes to `backend` after others; `costs`: somebody has worked for it already."""
        if earns:
            self._of(backend).deposit(now)
        if costs:
            self._total.withdraw(now)

    def withdraw(self, backend: str, now: float) -> bool:
        """Pay for one retry at `backend`, or return False and take nothing."""
        own = self._of(backend)
        if own.tokens(now) < _ONE or self._total.tokens(now) < _ONE:
            return False
        return own.withdraw(now) and self._total.withdraw(now)

    def forget(self, backend: str) -> None:
        """Drop the budget of a name that turned out to be none."""
        self._backends.pop(backend, None)

    def _of(self, backend: str) -> RetryBudget:
        budget = self._backends.get(backend)
        if budget is None:
            budget = self._backends[backend] = self._open()
        return budget

    def _open(self) -> RetryBudget:
        return RetryBudget(ratio=self._ratio, reserve=self._reserve, refill_per_s=self._refill_per_s)
