"""Requests that wait, in groups by model; groups are served by the age of their oldest waiter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .names import ModelKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiter:
    """One request in the queue. `expires` bounds its queueing, `deadline` the request as a whole.

    `since` is when it came as its priority counts it, `came` when it really did.
    """

    ticket: int
    key: ModelKey
    since: float
    came: float
    expires: float
    deadline: float


class WaitQueue:
    """All waiters of one gate. Tickets are given in rising order, so they tell who came first."""

    def __init__(self) -> None:
        self._waiters: dict[int, Waiter] = {}
        self._groups: dict[ModelKey, dict[int, Waiter]] = {}

    def __len__(self) -> int:
        return len(self._waiters)

    def __iter__(self) -> Iterator[Waiter]:
        return iter(self._waiters.values())

    def __contains__(self, key: object) -> bool:
        return key in self._groups

    def add(self, waiter: Waiter) -> None:
        """Put a waiter at the end of its group."""
        assert waiter.ticket not in self._waiters, "a ticket is used once"
        self._waiters[waiter.ticket] = waiter
        self._groups.setdefault(waiter.key, {})[waiter.ticket] = waiter

    def remove(self, ticket: int) -> Waiter | None:
        """Take one waiter out; None when it does not wait any more."""
        waiter = self._waiters.pop(ticket, None)
        if waiter is not None:
            group = self._groups[waiter.key]
            del group[ticket]
            if not group:
                del self._groups[waiter.key]
        return waiter

    def take_group(self, key: ModelKey) -> tuple[Waiter, ...]:
        """Take a whole group out, oldest first."""
        group = tuple(self._groups.pop(key, {}).values())
        for waiter in group:
            del self._waiters[waiter.ticket]
        return group

    def models(self) -> tuple[ModelKey, ...]:
        """Return the models waited for, the one with the oldest waiter first."""
        return tuple(sorted(self._groups, key=lambda key: self._age_of(self.oldest(key))))

    def oldest(self, key: ModelKey) -> Waiter:
        """Return the waiter of a group that has waited longest, as priorities count it."""
        return min(self._groups[key].values(), key=self._age_of)

    def count(self, key: ModelKey) -> int:
        """Return how many wait for a model."""
        return len(self._groups.get(key, ()))

    def depths(self) -> dict[ModelKey, int]:
        """Return how many wait for each model."""
        return {key: len(group) for key, group in self._groups.items()}

    @staticmethod
    def _age_of(waiter: Waiter) -> tuple[float, int]:
        return waiter.since, waiter.ticket
