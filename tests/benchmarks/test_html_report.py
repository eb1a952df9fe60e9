"""The HTML report of the benchmarks."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.html_report import SECTIONS, render

from smartrouter_asgi.types import JSONObject

from ..bench.pages import assert_drawn_inside, assert_needs_nothing, drawings
from .made_up import figure, results

ROOT = Path(__file__).parents[2]


def test_it_draws_every_section_and_needs_nothing():
    page = render(results())
    assert_needs_nothing(page)
    assert_drawn_inside(page)
    for title in (
        "Added latency, 1 connection, distribution",
        "Throughput against concurrency, one worker",
        "Time to first token, 1 connection",
        "Time to first token against open streams, median",
        "Jitter of a chunk, 20 ms pace",
        "Memory over requests",
        "Layer by layer",
        "More and more layers around an app",
    ):
        assert f"<figcaption>{title}</figcaption>" in page, title


@pytest.mark.parametrize("name", [name for name, _, _ in SECTIONS if name in results()])
def test_each_result_alone_makes_a_page(name: str):
    page = render({name: results()[name]})
    assert_needs_nothing(page)
    assert drawings(page)


def test_nothing_measured_is_said():
    page = render({})
    assert "Nothing has been measured" in page
    assert_needs_nothing(page)


def test_aims_say_whether_they_are_met():
    page = render({"aims": results()["aims"]})
    for verdict, kind in (("met", "good"), ("at worst met", "fair"), ("not met", "bad")):
        assert f'<td class="{kind}">{verdict}</td>' in page
    assert "<td>not measured</td>" in page
    assert "&lt;= 1.25, at worst 1.4" in page


def older() -> JSONObject:
    """An overhead.json as it was: percentiles instead of distributions, streaming and aims in the same file."""
    from random import Random

    random = Random(2)
    new = results()["overhead"]
    found = {key: value for key, value in new.items() if key not in ("quantiles", "voided")}
    found["figures"] = [
        {"scenario": scenario, "variant": variant, "metric": f"{metric}_p{share}", **figure(share * 3.0, "us", random)}
        for scenario, metric in (("plain_1", "latency"), ("first_token", "first_token"), ("paced", "delay"))
        for variant in ("direct", "nginx", "router")
        for share in (50, 95, 99)
    ]
    ratio = {"scenario": "plain_32", "unit": "x", "median": 51.4, "low": 46.9, "high": 61.0, "n": 3}
    found["ratios"] = [{"name": "CPU per request, router / hello", **ratio, "aim": 2.5, "met": False}]
    return found


def test_older_results_still_make_a_page():
    page = render({"overhead": older()})
    assert_needs_nothing(page)
    assert_drawn_inside(page)
    assert "Delay of a chunk, 20 ms pace" in page
    assert '<td class="bad">not met</td>' in page


def test_quick_runs_are_told_apart():
    quick = copy.deepcopy(results()["scale"])
    quick["method"]["quick"] = True
    assert "quick runs" in render({"scale": quick})
    assert "quick runs" not in render({"scale": results()["scale"]})


def test_the_command_reads_the_files_there_are(tmp_path: Path):
    for name in ("overhead", "memory"):
        (tmp_path / f"{name}.json").write_text(json.dumps(results()[name]))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.html_report", "--results", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "report.html: 2 results\n"), done.stderr
    assert str(tmp_path) not in (tmp_path / "report.html").read_text()
