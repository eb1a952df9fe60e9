from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartrouter_asgi.config.units import FOREVER, format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30.0),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("0.5s", 0.5),
        (".5s", 0.5),
        ("1.5h", 5400.0),
        (" 30 s ", 30.0),
        ("30S", 30.0),
        ("0", 0.0),
        ("45", 45.0),
        (45, 45.0),
        (0.25, 0.25),
        ("0.1s", 0.1),
    ],
)
def test_a_duration_becomes_seconds(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("512MiB", 512 * 2**20),
        ("6GiB", 6 * 2**30),
        ("12GB", 12 * 10**9),
        ("1.5GiB", 3 * 2**29),
        ("10KiB", 10240),
        ("10kB", 10000),
        ("2TiB", 2**41),
        ("1TB", 10**12),
        ("3MB", 3 * 10**6),
        ("7B", 7),
        ("1024", 1024),
        (1024, 1024),
        (1024.0, 1024),
        ("6 gib", 6 * 2**30),
    ],
)
def test_a_size_becomes_bytes(text: object, size_bytes: int) -> None:
    result = parse_size(text)
    assert result == size_bytes
    assert type(result) is int


@pytest.mark.parametrize(
    "value",
    [
        "",
        "s",
        "5 minutes",
        "5d",
        "-1",
        "-5s",
        -1,
        "1h30m",
        "1e3",
        "nan",
        "inf",
        float("nan"),
        float("inf"),
        True,
        None,
        [],
    ],
)
def test_what_is_no_duration_is_refused_with_an_example(value: object) -> None:
    with pytest.raises(ValueError, match=r"expected a duration such as 500ms, 30s, 5m or 1h, or a number of seconds"):
        parse_duration(value)


@pytest.mark.parametrize("value", ["", "GiB", "6G", "6Gi", "6 gigs", "-1", -1, "1.5", 1.5, "1.5B", True, None, {}])
def test_what_is_no_size_is_refused_with_an_example(value: object) -> None:
    with pytest.raises(ValueError, match=r"expected a size such as 512MiB, 6GiB or 12GB, or a whole number of bytes"):
        parse_size(value)


@pytest.mark.parametrize("value", ["9" * 400 + "h", 10**400, "9" * 400 + "GiB"])
def test_absurdly_large_values_are_refused_not_crashed_on(value: object) -> None:
    for parse in (parse_duration, parse_size):
        with pytest.raises(ValueError, match="expected"):
            parse(value)


@pytest.mark.parametrize("value", [-1, -1.0, "-1", "-1s"])
def test_minus_one_is_for_ever_only_where_allowed(value: object) -> None:
    assert parse_duration(value, forever=True) == FOREVER
    with pytest.raises(ValueError, match="negative"):
        parse_duration(value)
    with pytest.raises(ValueError, match=r"or -1"):
        parse_duration("-2", forever=True)


@given(st.floats(min_value=0, max_value=1e9, allow_nan=False))
def test_every_duration_survives_writing_and_reading(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds
    assert parse_duration(seconds) == seconds


@given(st.integers(min_value=0, max_value=2**60))
def test_every_size_survives_writing_and_reading(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes
    assert parse_size(size_bytes) == size_bytes


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (0.5, "500ms"), (90, "90s"), (300, "5m"), (7200, "2h"), (FOREVER, "-1")]
)
def test_durations_are_written_in_the_largest_even_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0B"), (6 * 2**30, "6GiB"), (3 * 2**29, "1536MiB"), (1000, "1000B")]
)
def test_sizes_are_written_in_the_largest_even_unit(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


@given(st.text(max_size=12))
def test_any_text_is_a_number_or_a_value_error(text: str) -> None:
    for parse in (parse_duration, parse_size):
        try:
            assert parse(text) >= 0
        except ValueError as error:
            assert "expected" in str(error)  # noqa: PT017 - both outcomes are right
