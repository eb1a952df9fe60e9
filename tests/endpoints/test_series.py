"""Series: what a scrape shows is what prometheus_client's own counters and histograms would show."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest

from smartrouter_asgi.endpoints.series import CounterSeries, HistogramSeries

BOUNDS = (0.05, 0.5, 1, 10)
LABELS = st.tuples(st.sampled_from(["a", 'b"\\', "ü\n"]), st.sampled_from(["x", "y"]))
VALUES = st.one_of(st.floats(0, 20), st.sampled_from(BOUNDS))


def shown(registry: CollectorRegistry) -> set[str]:
    """Return the lines of an exposition, those aside that tell when a series was made."""
    return {line for line in generate_latest(registry).decode().splitlines() if "_created" not in line}


@given(st.lists(st.tuples(LABELS, VALUES)))
def test_labelled_series_show_what_the_library_shows(samples: list[tuple[tuple[str, str], float]]):
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    count = CounterSeries("c_total", "Counted", ["one", "two"], registry=ours)
    times = HistogramSeries("h", "Timed", ["one", "two"], bounds=BOUNDS, registry=ours)
    their_count = Counter("c_total", "Counted", ["one", "two"], registry=theirs)
    their_times = Histogram("h", "Timed", ["one", "two"], buckets=BOUNDS, registry=theirs)
    for labels, value in samples:
        count.add(labels, value + 1)
        their_count.labels(*labels).inc(value + 1)
        times.observe(value, labels)
        their_times.labels(*labels).observe(value)
    assert shown(ours) == shown(theirs)


@given(st.lists(VALUES))
def test_series_without_labels_are_there_before_anything_is_counted(samples: list[float]):
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    count = CounterSeries("c_total", "Counted", registry=ours)
    times = HistogramSeries("h", "Timed", bounds=BOUNDS, registry=ours)
    their_count = Counter("c_total", "Counted", registry=theirs)
    their_times = Histogram("h", "Timed", buckets=BOUNDS, registry=theirs)
    for value in samples:
        count.add()
        their_count.inc()
        times.observe(value)
        their_times.observe(value)
    assert shown(ours) == shown(theirs)


def test_a_name_is_taken_once():
    """Registering the same family twice is refused, as by the library."""
    registry = CollectorRegistry()
    CounterSeries("c_total", "Counted", registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        HistogramSeries("c", "Timed", bounds=BOUNDS, registry=registry)


def test_a_child_that_got_nothing_is_not_shown():
    """Who keeps a child for later has not counted anything yet."""
    registry = CollectorRegistry()
    CounterSeries("c_total", "Counted", ["one"], registry=registry).child(("a",))
    HistogramSeries("h", "Timed", ["one"], bounds=BOUNDS, registry=registry).child(("a",))
    assert not [line for line in shown(registry) if not line.startswith("#")]
