"""Which failures are a request's own doing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smartrouter_asgi.resilience.poison import ALLOWED, FORGET_AFTER_S, MAX_KEPT, PoisonBook


def test_the_first_failures_count_like_any() -> None:
    book = PoisonBook()
    book.failed(2, 0.0)
    book.succeeded(1)
    assert [book.failed(7, 0.0) for _ in range(ALLOWED)] == [True] * ALLOWED


def test_while_nobody_is_served_every_failure_counts() -> None:
    """The same question asked of a dead backend again and again is what a health check does."""
    book = PoisonBook()
    assert all(book.failed(7, float(now)) for now in range(100))


def test_a_request_that_fails_while_others_are_served_speaks_against_itself() -> None:
    book = PoisonBook()
    assert [book.failed(7, 0.0), book.failed(7, 0.0)] == [True, True]
    book.succeeded(1)
    assert [book.failed(7, 0.0) for _ in range(10)] == [False] * 10
    assert book.failed(8, 0.0), "another one that fails is another story"


def test_successes_from_before_it_failed_excuse_nobody() -> None:
    book = PoisonBook()
    for other in range(10):
        book.succeeded(other)
    assert all(book.failed(7, 0.0) for _ in range(10))


def test_who_succeeds_is_forgotten_and_so_is_who_failed_long_ago() -> None:
    book = PoisonBook()
    for _ in range(5):
        book.failed(7, 0.0)
    book.succeeded(7)
    assert len(book) == 0
    assert book.failed(7, 0.0)
    book.succeeded(1)
    book.failed(7, 0.0)
    assert not book.failed(7, FORGET_AFTER_S)
    assert book.failed(7, 3 * FORGET_AFTER_S)


def test_exactly_the_allowed_failures_count_whenever_others_were_served() -> None:
    book = PoisonBook()
    assert book.failed(7, 0.0)
    book.succeeded(1)
    assert [book.failed(7, 0.0) for _ in range(3)] == [True, False, False]


def test_a_failure_is_remembered_from_the_last_one_not_from_the_first() -> None:
    book = PoisonBook()
    book.failed(7, 1000.0)
    book.succeeded(1)
    book.failed(7, 1000.0 + FORGET_AFTER_S)
    assert not book.failed(7, 1000.0 + 2 * FORGET_AFTER_S), "neither pause was longer than it may be"
    assert book.failed(7, 1000.0 + 3 * FORGET_AFTER_S + 1.0)


def test_the_one_that_failed_longest_ago_makes_room_and_nobody_else() -> None:
    def full() -> PoisonBook:
        book = PoisonBook()
        for fingerprint in range(MAX_KEPT):
            for _ in range(ALLOWED):
                book.failed(fingerprint, 0.0)
        book.failed(0, 0.0)  # no longer the oldest
        book.succeeded(-1)
        return book

    assert not any(full().failed(fingerprint, 0.0) for fingerprint in range(MAX_KEPT)), "as many as are kept are kept"
    book = full()
    book.failed(MAX_KEPT, 0.0)
    assert len(book) == MAX_KEPT
    assert not any(book.failed(fingerprint, 0.0) for fingerprint in (0, *range(2, MAX_KEPT)))
    assert book.failed(1, 0.0), "forgotten, it begins anew"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 200)), max_size=400))
def test_the_book_stays_small(events: list[tuple[bool, int]]) -> None:
    book = PoisonBook()
    for now, (failed, fingerprint) in enumerate(events):
        if failed:
            book.failed(fingerprint, float(now))
        else:
            book.succeeded(fingerprint)
        assert len(book) <= MAX_KEPT
