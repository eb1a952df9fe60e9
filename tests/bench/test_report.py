"""The page of a benchmark."""

from __future__ import annotations

import pytest

from smartrouter_asgi.bench.report import report

from .made_up import KEY, measured, result
from .pages import assert_drawn_inside, assert_needs_nothing, drawings

HOSTILE = "</style><script>alert(1)</script>\" onload='x' & \u2028 \U0001f600 [md](http://evil)"


def test_it_draws_all_plots_and_needs_nothing():
    page = report(result())
    assert len(drawings(page)) == 4
    assert_needs_nothing(page)
    assert_drawn_inside(page)


@pytest.mark.parametrize("pairs", [0, 1, 2, 200])
def test_it_is_whole_whatever_there_is(pairs: int):
    page = report(result(measured(pairs=pairs, failing=("status 500: boom",)), complete=False))
    assert_needs_nothing(page)
    assert_drawn_inside(page)
    assert "Stopped early" in page
    assert "status 500: boom" in page


def test_names_that_engines_made_up_are_only_text():
    page = report(result(measured(failing=(HOSTILE,)), model=HOSTILE))
    assert "<script" not in page
    assert "&lt;/style&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert_needs_nothing(page)


def test_the_key_is_not_in_it():
    assert KEY not in report(result(measured(failing=(f"bad key {KEY}",))))


def test_every_point_tells_its_values():
    svg = drawings(report(result(measured(pairs=7))))[1]
    titles = [title.text or "" for title in svg.iter("title")]
    assert len([title for title in titles if "routed minus direct" in title]) == 7
