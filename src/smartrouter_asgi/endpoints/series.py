"""Counters and histograms that cost a request a dict lookup and an addition; prometheus_client renders them.

Its own take a lock and several calls for each addition. Here everything happens on one event loop, so a sum is a sum,
and what a scrape needs is made when somebody scrapes: these are custom collectors, as the library provides for them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

Key = tuple[str, ...]


class Count:
    """One number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class CounterSeries(Collector):
    """A counter by label values; one without labels is there from the start."""

    def __init__(self, name: str, text: str, labels: Sequence[str] = (), *, registry: CollectorRegistry) -> None:
        self._name = name.removesuffix("_total")
        self._text = text
        self._labels = tuple(labels)
        self._counts: dict[Key, Count] = {} if labels else {(): Count()}
        registry.register(self)

    def child(self, key: Key) -> Count:
        """Return one count, for who has more to add; `key` holds the labels' values, in their order."""
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = Count()
        return count

    def add(self, key: Key = (), amount: float = 1.0) -> None:
        """Count."""
        self.child(key).value += amount

    def describe(self) -> Iterable[CounterMetricFamily]:
        """Return the family without samples."""
        yield CounterMetricFamily(self._name, self._text, labels=self._labels)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Return the family as it is now."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for key in sorted(self._counts):
            count = self._counts[key].value
            if count or not key:  # a child that was made and not used yet is none
                family.add_metric(key, count)
        yield family


class Buckets:
    """The samples of one series: how many in each bucket, and their sum."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Take in a sample."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class HistogramSeries(Collector):
    """A histogram by label values; one without labels is there from the start. `bounds` are upper ones, rising."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str] = (),
        *,
        bounds: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._text = text
        self._labels = tuple(labels)
        self._bounds = tuple(map(float, bounds))
        self._series: dict[Key, Buckets] = {}
        if not labels:
            self.child(())
        registry.register(self)

    def child(self, key: Key) -> Buckets:
        """Return one series, for who has more samples; `key` holds the labels' values, in their order."""
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = Buckets(self._bounds)
        return series

    def observe(self, value: float, key: Key = ()) -> None:
        """Take in a sample."""
        self.child(key).observe(value)

    def describe(self) -> Iterable[HistogramMetricFamily]:
        """Return the family without samples."""
        yield HistogramMetricFamily(self._name, self._text, labels=self._labels)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Return the family as it is now."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        edges = [*map(str, self._bounds), "+Inf"]
        for key in sorted(self._series):
            series = self._series[key]
            if key and not any(series.counts):
                continue
            family.add_metric(key, list(zip(edges, accumulate(series.counts), strict=True)), series.total)
        yield family
