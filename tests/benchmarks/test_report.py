"""Tables are made of what there is: other shapes, broken files and quick runs are told, not taken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.figures import commit, figure, results_in
from benchmarks.load_report import ratio_table
from benchmarks.report import readable
from benchmarks.summary import NOT_MEASURED, summary
from benchmarks.tables import measured_on

from benchmarks import figures, html_report, report

VERSIONS = {"python": "3.11.7", "uvicorn": "1.0"}
MACHINE = {"cpu": "cpu", "cores": 2, "kernel": "Linux", "implementation": "CPython"}


def result(name: str, *, quick: bool = False, commit: str = "abc", **content: Any) -> dict[str, Any]:
    return {
        "name": name,
        "measured_at": "2026-01-01T00:00:00+00:00",
        "commit": commit,
        "machine": MACHINE,
        "versions": VERSIONS,
        "method": {"rounds": 3, "quick": quick},
        **content,
    }


def overhead(*, quick: bool = False) -> dict[str, Any]:
    ratio = {"id": "cpu_plain_32_router_hello", **figure([2.0, 2.2, 2.1], "x")}
    return result("overhead", quick=quick, ratios=[ratio], figures=[])


def startup(*, commit: str = "abc") -> dict[str, Any]:
    row = {"what": "first_answer_serve", **figure([500.0], "ms")}
    return result("startup", commit=commit, figures=[row])


def test_a_quick_run_is_called_so_and_makes_no_summary():
    assert "quick run" in measured_on(overhead(quick=True))
    assert "quick run" not in measured_on(overhead())
    assert summary({"overhead": overhead(quick=True)}) == NOT_MEASURED
    assert "2.1 (2 to 2.2) x" in summary({"overhead": overhead()})


def test_figures_of_two_runs_are_told_apart():
    assert summary({"overhead": overhead(), "startup": startup()}).count("commit") == 1
    told = summary({"overhead": overhead(), "startup": startup(commit="old")})
    assert "overhead: 2026-01-01, commit abc" in told
    assert "startup: 2026-01-01, commit old" in told


def test_a_ratio_says_in_how_many_rounds_there_was_one():
    row = {"name": "added, router / nginx", "scenario": "plain_1", **figure([1.2, 1.4], "x")}
    assert "1.3 (1.2 to 1.4), in 2 of 3 rounds" in ratio_table([row], rounds=3)
    assert "rounds" not in ratio_table([row], rounds=2)


def test_results_of_another_shape_are_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    files = {
        "overhead": json.dumps(overhead()),  # no account of void windows
        "startup": json.dumps(startup()),
        "memory": "{",
        "layers": "[1]",
        "scale": json.dumps({"name": "streaming"}),
    }
    for name, text in files.items():
        (tmp_path / f"{name}.json").write_text(text)
    results, rendered = readable(results_in(tmp_path))
    assert results.keys() == rendered.keys() == {"startup"}
    told = capsys.readouterr().err
    assert "memory.json is left out" in told
    assert "overhead.json is left out, it has another shape" in told


def test_a_page_of_another_shape_is_drawn_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "startup.json").write_text(json.dumps(startup()))
    (tmp_path / "layers.json").write_text(json.dumps(result("layers")))
    monkeypatch.setattr(sys, "argv", ["html_report", "--results", str(tmp_path)])
    html_report.main()
    page = (tmp_path / "report.html").read_text()
    assert "command to first answer" in page
    assert "Layer by layer" not in page


def test_nothing_measured_is_a_report_too(tmp_path: Path):
    readme, top = tmp_path / "README.md", tmp_path / "top.md"
    readme.write_text("<!-- results: begin --><!-- results: end -->")
    top.write_text("<!-- bench: begin --><!-- bench: end -->")
    files = ("--results", str(tmp_path / "none"), "--readme", str(readme), "--top-readme", str(top))
    subprocess.run([sys.executable, "-m", "benchmarks.report", *files], cwd=figures.ROOT, check=True, timeout=50)
    assert "not measured" in readme.read_text()


def test_tables_for_elsewhere_leave_this_project_s_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    readme, before = tmp_path / "README.md", report.TOP_README.read_text()
    readme.write_text("<!-- results: begin --><!-- results: end -->")
    monkeypatch.setattr(sys, "argv", ["report", "--results", str(tmp_path), "--readme", str(readme)])
    report.main()
    assert "not measured" in readme.read_text()
    assert report.TOP_README.read_text() == before


def test_no_other_checkout_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A clone with the environment of another checkout would measure that one and put its own commit to it."""
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match="PYTHONPATH"):
        commit()
