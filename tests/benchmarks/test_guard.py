"""The guard says what moved and what cannot be compared, and counts the same code alike."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from benchmarks.guard_calls import CallCounter
from benchmarks.guard_cases import chosen, difference
from benchmarks.guard_compare import all_versions, compare, compared_table, load, to_hello
from benchmarks.guard_counts import read_dump

ROOT = Path(__file__).parents[2]
VERSIONS = {"python": "3.11.7", "uvicorn": "0.54", "msgspec": "0.22", "h11": "0.16", "smartrouter-asgi": "0.1"}


def verdicts(old: dict[str, float], new: dict[str, float], **changed: str) -> dict[str, str]:
    return {row.name: row.verdict for row in compare(old, new, VERSIONS, {**VERSIONS, **changed})}


@pytest.mark.parametrize(
    ("now", "verdict"), [(1000, ""), (1020, ""), (980, ""), (1021, "moved"), (979, "moved"), (3000, "moved")]
)
def test_marks_what_moved_by_more_than_two_percent(now: float, verdict: str):
    assert verdicts({"hello: plain request": 1000}, {"hello: plain request": now}) == {"hello: plain request": verdict}


@pytest.mark.parametrize(
    ("what", "touched"),
    [
        ("python", {"hello: a", "direct: a", "httpx: a", "in process: a"}),
        ("uvicorn", {"hello: a", "direct: a", "httpx: a"}),
        ("msgspec", {"direct: a", "httpx: a", "in process: a"}),
        ("h11", {"httpx: a"}),
        ("smartrouter-asgi", set()),
    ],
)
def test_a_case_is_not_comparable_when_a_version_it_depends_on_differs(what: str, touched: set[str]):
    counts = dict.fromkeys(("hello: a", "direct: a", "httpx: a", "in process: a"), 1000.0)
    found = verdicts(counts, dict.fromkeys(counts, 2000.0), **{what: "9"})
    for name in counts:
        expected = f"not comparable: {what} {VERSIONS[what]} -> 9" if name in touched else "moved"
        assert found[name] == expected


def test_a_version_only_one_side_has_is_a_difference():
    (row,) = compare({"hello: a": 1}, {"hello: a": 1}, {}, {"uvloop": "0.23"})
    assert row.verdict == "not comparable: uvloop None -> 0.23"


def test_cases_that_only_one_side_has_are_shown_and_not_compared():
    rows = compare({"hello: gone": 10.0, "hello: kept": 10.0}, {"hello: new": 5.0, "hello: kept": 10.0}, {}, {})
    assert [(row.name, row.old, row.new, row.change, row.verdict) for row in rows] == [
        ("hello: new", None, 5.0, None, "not in the baseline"),
        ("hello: kept", 10.0, 10.0, 0.0, ""),
        ("hello: gone", 10.0, None, None, "not counted"),
    ]


def test_the_table_shows_old_new_change_and_the_ratio_to_hello_of_the_same_run():
    old = {"hello: plain request": 100_000.0, "direct: plain request": 250_000.0, "in process: null app": 30_000.0}
    new = {"hello: plain request": 100_000.0, "direct: plain request": 300_000.0, "in process: null app": 30_000.0}
    lines = compared_table(compare(old, new, {}, {}), new).splitlines()
    assert lines[2:] == [
        "| hello: plain request | 100,000 | 100,000 | +0.0% | 1.00 |  |",
        "| direct: plain request | 250,000 | 300,000 | +20.0% | 3.00 | **moved** |",
        "| in process: null app | 30,000 | 30,000 | +0.0% |  |  |",
    ]
    assert to_hello({"direct: plain request": 1.0}, "direct: plain request") is None


def test_windows_are_subtracted_function_by_function():
    few, many = Counter({"libc.so malloc": 30, "mark": 5}), Counter({"libc.so malloc": 130, "mark": 5, "new": 7})
    assert +difference(few, many) == {"libc.so malloc": 100, "new": 7}


def test_only_the_cases_asked_for_are_counted():
    assert chosen([], "anything")
    assert chosen(["plain", "burst"], "direct: chunk of a burst")
    assert not chosen(["plain"], "direct: chunk of a burst")


def test_a_dump_is_read_by_function_without_what_callees_cost(tmp_path: Path):
    dump = tmp_path / "out.1"
    dump.write_text(
        "events: Ir\nob=(1) /usr/lib/libone.so\nfl=(1) a.c\nfn=(1) outer\n10 5\n+2 7\n"
        "cob=(2) /usr/lib/libtwo.so\ncfi=(2) b.c\ncfn=(2) inner\ncalls=3 40\n+1 900\n* 1\nfi=(2)\n-4 2\n"
        "\nob=(2)\nfl=(2)\nfn=(2)\n40 900\n\ntotals: 915\n"
    )
    assert read_dump(dump) == {"libone.so outer": 15, "libtwo.so inner": 900}


def test_calls_are_counted_between_marks():
    tracing, profiling, counter = sys.gettrace(), sys.getprofile(), CallCounter()

    def called() -> int:
        return len("four")

    try:
        counter.mark()
        called()
        called()
        found = counter.mark()
        called()
    finally:
        sys.settrace(tracing)
        sys.setprofile(profiling)
    name = next(key for key in found if key.startswith("call ") and key.endswith(".called"))
    assert found[name] == 2
    assert found[name.replace("call ", "op ", 1)] > 2
    assert found[name.replace("call ", "c ", 1) + " -> len"] == 2


def test_the_committed_baseline_has_what_the_guard_reads():
    baseline = load()
    assert baseline is not None
    assert baseline["versions"].keys() >= {"python", "python build", "libc", "valgrind", "uvicorn", "httptools"}
    counts = {row["name"]: row["instructions"] for row in baseline["cases"]}
    assert {"hello: plain request", "direct: plain request", "httpx: chunk of a burst"} <= counts.keys()
    assert all(count > 0 for count in counts.values())
    assert str(Path.home()) not in str(baseline)


def guard(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.guard", "--only", "hello: plain", "--scale", "0.05", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_counts_a_request_under_callgrind():
    printed = guard("--top", "5")
    assert "_PyEval_EvalFrameDefault" in printed
    row = next(line for line in printed.splitlines() if line.startswith("| hello: plain request |"))
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert 10_000 < int(cells[2].replace(",", "")) < 10_000_000
    assert cells[4] == "1.00"
    assert all_versions()["valgrind"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="whether a server waits is read from /proc")
def test_counts_the_calls_of_a_request():
    printed = guard("--calls", "99")
    (app,) = [line.split() for line in printed.splitlines() if line.endswith(" hello.<locals>.app")]
    assert app[1] == "1.0"
    assert float(app[0]) > 10
    assert "_body -> dict.get" in printed
