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


class CounterSeries(Collector):
    """A counter by label values; one without labels is there from the start."""

    def __init__(self, name: str, text: str, labels: Sequence[str] = (), *, registry: CollectorRegistry) -> None:
        self._name = name.removesuffix("_total")
        self._text = text
        self._labels = tuple(labels)
        self._counts: dict[Key, float] = {} if labels else {(): 0.0}
        registry.register(self)

    def add(self, key: Key = (), amount: float = 1.0) -> None:
        """Count; `key` holds the labels' values, in their order."""
        counts = self._counts
        counts[key] = counts.get(key, 0.0) + amount

    def describe(self) -> Iterable[CounterMetricFamily]:
        """Return the family without samples."""
        yield CounterMetricFamily(self._name, self._text, labels=self._labels)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Return the family as it is now."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for key, value in sorted(self._counts.items()):
            family.add_metric(key, value)
        yield family


class _Buckets:
    """The samples of one series: how many in each bucket, and their sum."""

    __slots__ = ("counts", "total")

    def __init__(self, size: int) -> None:
        self.counts = [0] * size
        self.total = 0.0


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
        self._series: dict[Key, _Buckets] = {}
        if not labels:
            self._new(())
        registry.register(self)

    def observe(self, value: float, key: Key = ()) -> None:
        """Take in a sample."""
        series = self._series.get(key) or self._new(key)
        series.counts[bisect_left(self._bounds, value)] += 1
        series.total += value

    def describe(self) -> Iterable[HistogramMetricFamily]:
        """Return the family without samples."""
        yield HistogramMetricFamily(self._name, self._text, labels=self._labels)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Return the family as it is now."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        edges = [*map(str, self._bounds), "+Inf"]
        for key, series in sorted(self._series.items()):
            family.add_metric(key, list(zip(edges, accumulate(series.counts), strict=True)), series.total)
        yield family

    def _new(self, key: Key) -> _Buckets:
        series = self._series[key] = _Buckets(len(self._bounds) + 1)
        return series
