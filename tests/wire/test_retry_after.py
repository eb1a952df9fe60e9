"""Laws of reading Retry-After."""

from __future__ import annotations

import math
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartrouter_asgi.wire.retry_after import parse_retry_after

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        ([(b"content-type", b"2")], None),
        ([(b"retry-after", b"2")], 2.0),
        ([(b"Retry-After", b" 1.5 ")], 1.5),
        ([(b"retry-after", b"0")], 0.0),
        ([(b"retry-after", b"3600")], 3600.0),
        ([(b"retry-after-ms", b"250")], 0.25),
        ([(b"retry-after", b"7"), (b"retry-after-ms", b"250")], 0.25),
        ([(b"retry-after-ms", b"soon"), (b"retry-after", b"7")], 7.0),
        ([(b"retry-after", b"soon"), (b"retry-after", b"7")], 7.0),
        ([(b"retry-after", b"7"), (b"retry-after", b"9")], 7.0),
        *[
            ([(b"retry-after", nonsense)], None)
            for nonsense in (
                *(
                    b"",
                    b"-1",
                    b"+1",
                    b"nan",
                    b"inf",
                    b"1e999",
                    b"1e3",
                    b"1,2",
                    b"1 2",
                    b"0x10",
                    b"1_000",
                    b".",
                    b"\xb2",
                ),
                *(
                    b"9" * 400,
                    b"9" * 10_000,
                    b"Wed, " + b"9" * 10_000,
                    b"Wed, 99 Foo 2026 99:99:99 GMT",
                    b"soon",
                    b"\0",
                ),
            )
        ],
    ],
)
def test_retry_after_is_seconds_or_nothing(headers: list[tuple[bytes, bytes]], seconds: float | None) -> None:
    assert parse_retry_after(headers, now_wall=NOW) == seconds


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        (formatdate(NOW + 2, usegmt=True), 2.0),
        (formatdate(NOW, usegmt=True), None),
        (formatdate(NOW - 60, usegmt=True), None),
        ("Tuesday, 14-Nov-23 22:13:22 GMT", 2.0),
        ("Tue Nov 14 22:13:22 2023", 2.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 253402300799.0 - NOW),
        ("Mon, 01 Jan 0001 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_an_http_date_in_the_future(date: str, seconds: float | None) -> None:
    assert parse_retry_after([(b"retry-after", date.encode())], now_wall=NOW) == seconds


DATE_LIKE = st.from_regex(rb"\A[A-Z][a-z]{2,8},? [0-9A-Za-z:, -]{15,30}\Z")
DATES = st.builds(
    lambda day, month, year, clock, zone: f"Mon, {day} {month} {year} {clock} {zone}".encode(),
    st.integers(0, 40),
    st.sampled_from(["Jan", "Feb", "Dec", "Foo", "1"]),
    st.integers(0, 99999),
    st.sampled_from(["00:00:00", "23:59:60", "24:00:00", "99:99:99", "1:2", "::"]),
    st.sampled_from(["GMT", "EST", "-0000", "-9999", "-99999999", ""]),
)


@given(
    headers=st.lists(
        st.tuples(
            st.sampled_from([b"retry-after", b"retry-after-ms", b"Retry-After"]),
            st.binary(max_size=40) | st.floats().map(lambda number: str(number).encode()) | DATE_LIKE | DATES,
        ),
        max_size=3,
    ),
    now=st.floats(0, 1e11),
)
def test_retry_after_never_raises_and_is_never_negative(headers: list[tuple[bytes, bytes]], now: float) -> None:
    seconds = parse_retry_after(headers, now_wall=now)
    assert seconds is None or (seconds >= 0 and math.isfinite(seconds))
