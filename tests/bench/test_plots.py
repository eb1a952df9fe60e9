"""Scales, ticks and shapes."""

from __future__ import annotations

import math

import pytest

from smartrouter_asgi.bench.bars import Bar, bars_figure
from smartrouter_asgi.bench.page import bullets, page, table
from smartrouter_asgi.bench.plots import Axis, Plot, Series, figure
from smartrouter_asgi.bench.scale import Scale, fitting, text_width, tick_text

from .pages import assert_drawn_inside, assert_needs_nothing, drawings


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ((0, 100), [0, 20, 40, 60, 80, 100]),
        ((0, 7), [0, 2, 4, 6]),
        ((-3, 3), [-2, 0, 2]),
        ((1200, 1800), [1200, 1400, 1600, 1800]),
        ((0.001, 0.002), [0.001, 0.0012, 0.0014, 0.0016, 0.0018, 0.002]),
    ],
)
def test_linear_ticks_are_round(values: tuple[float, float], ticks: list[float]):
    found = Scale(values, 0, 100).ticks()
    assert [tick for tick in found if min(values) <= tick <= max(values)] == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ((1, 10_000), [1, 10, 100, 1000, 10_000]),
        ((1, 100), [1, 3, 10, 30, 100]),
        ((20, 300), [20, 50, 100, 200]),
    ],
)
def test_logarithmic_ticks_are_round(values: tuple[float, float], ticks: list[float]):
    assert Scale(values, 0, 100, log=True).ticks() == pytest.approx(ticks)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "values",
    [(), (5.0,), (0.0,), (0.0, 0.0), (-1.0, -5.0), (1e-9, 2e-9), (1.0, 1e12), (3.0, math.inf), (math.nan, 2.0)],
)
def test_a_scale_takes_any_values(values: tuple[float, ...], log: bool):
    scale = Scale(values, 10, 90, log=log)
    for value in values:
        if not math.isnan(value):
            assert 10 <= scale.at(value) <= 90
    assert 1 <= len(scale.ticks()) <= 13
    assert scale.ticks() == sorted(scale.ticks())


def test_zero_is_taken_in_when_asked_for():
    assert Scale((5, 9), 0, 100, zero=True).at(0) == 0
    assert Scale((5, 9), 0, 100).at(5) > 0
    assert Scale((-9, -5), 0, 100, zero=True).at(0) == 100


@pytest.mark.parametrize(
    ("value", "text"), [(0.05, "0.05"), (250, "250"), (20_000, "20k"), (1_500_000, "1.5M"), (0.1 + 0.2, "0.3")]
)
def test_ticks_are_short(value: float, text: str):
    assert tick_text(value) == text


def test_labels_that_would_overlap_are_left_out():
    kept = fitting([(10, "1000"), (20, "2000"), (80, "3000")])
    assert [text for _, text in kept] == ["1000", "3000"]
    assert kept[1][0] - kept[0][0] > text_width("1000")


def test_a_plot_without_points_is_none():
    assert figure(Plot(title="t", x=Axis(label="x"), y=Axis(label="y"), series=[Series(name="a", points=[])])) == ""
    assert bars_figure("t", []) == ""


def test_all_kinds_of_series_are_drawn_inside():
    points = [(1.0, 2.0), (10.0, 30.0), (100.0, 5.0)]
    series = [
        Series(name=kind, points=points, kind=kind, spread=[(1.0, 40.0)] * 3)  # type: ignore[arg-type]
        for kind in ("line", "step", "points", "rule")
    ]
    drawn = figure(Plot(title="All", x=Axis(label="x", log=True), y=Axis(label="y", log=True), series=series))
    assert_drawn_inside(drawn)
    [svg] = drawings(drawn)
    assert svg.attrib["aria-label"] == "All"
    assert drawn.count("<i></i>") == 4
    assert len(list(svg.iter("title"))) == 3 * 3 + 1


@pytest.mark.parametrize("log", [False, True])
def test_bars_have_room_for_long_names_and_values(log: bool):
    bars = [
        Bar(name="n" * 200, value=5.0, said="1,234,567 requests/s", low=1.0, high=1000.0),
        Bar(name="small", value=1000.0, said="2 requests/s"),
        *([] if log else [Bar(name="below", value=-20.0, said="-20 us")]),
    ]
    drawn = bars_figure("Bars", bars, log=log)
    assert_drawn_inside(drawn)
    assert f"{'n' * 200}: 1,234,567" in drawn  # the whole name is in the tooltip


def test_pages_escape_all_that_they_are_given():
    bad = "<b>&\"'"
    made = page(bad, [table((bad,), [(bad,), ((bad, "good"),)]), bullets([bad, "say `a<b`"])], footer=bad)
    assert "<b>" not in made
    assert "<code>a&lt;b</code>" in made
    assert_needs_nothing(made)
