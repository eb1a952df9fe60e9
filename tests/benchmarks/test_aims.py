"""Every aim is read from the results, and its verdict is what the figures say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.aims import AIMS, aims_table, save_verdicts, verdicts
from benchmarks.figures import figure, results_in
from benchmarks.memory import rise

HEAD = {"commit": "abc", "measured_at": "2026-01-01T00:00:00+00:00"}


def ratio(name: str, value: float) -> dict[str, Any]:
    return {"id": name, **figure([value], "x")}


def labelled(value: float, unit: str, **labels: Any) -> dict[str, Any]:
    return {**labels, **figure([value], unit)}


def grown(kind: str, kb_per_thousand: float) -> dict[str, Any]:
    points = [{"count": count, "seconds": 1.0, "rss_mb": 60.0} for count in range(5_000, 205_000, 5_000)]
    return {"variant": "router", "kind": kind, "points": points, "rise_kb_per_thousand": kb_per_thousand}


def results(*, cpu_hello: float = 2.0) -> dict[str, dict[str, Any]]:
    """Results in which everything is as it should be."""
    overhead = [
        ratio("cpu_plain_32_router_hello", cpu_hello),
        ratio("cpu_plain_32_router_nginx", 5),
        ratio("cpu_plain_32_router_litellm", 1 / 70),
        ratio("added_plain_1_router_nginx", 1.2),
        ratio("rate_plain_32_router_hello", 0.8),
    ]
    streaming = [
        ratio("cpu_paced_router_hello", 1.5),
        ratio("added_first_token_router_nginx", 1.1),
        ratio("delay_paced_router_nginx", 1.1),
    ]
    burst = labelled(4, "us/chunk", scenario="burst", variant="router", metric="cpu")
    return {
        "overhead": {**HEAD, "ratios": overhead},
        "streaming": {**HEAD, "ratios": streaming, "figures": [burst]},
        "memory": {
            **HEAD,
            "figures": [
                labelled(60, "MB", variant="router", metric="idle"),
                labelled(15, "KB", variant="router", metric="per_stream"),
            ],
            "series": [grown("requests", 1.0), grown("disconnects", 2.0)],
        },
        "startup": {
            **HEAD,
            "figures": [labelled(200, "ms", what="import_router"), labelled(600, "ms", what="first_answer_serve")],
        },
        "body_size": {
            **HEAD,
            "figures": [labelled(2000, "us/request", variant="router", body_bytes=1_000_000, metric="added_cpu")],
        },
    }


def test_all_are_met_by_results_that_meet_them():
    rows = verdicts(results())
    assert [row["id"] for row in rows] == [aim.id for aim in AIMS]
    assert {row["verdict"] for row in rows} == {"met"}
    assert {row["commit"] for row in rows} == {"abc"}


@pytest.mark.parametrize(
    ("measured", "verdict"), [(2.5, "met"), (2.51, "at worst met"), (3.0, "at worst met"), (3.01, "not met")]
)
def test_between_aim_and_worst_is_at_worst_met(measured: float, verdict: str):
    rows = {row["id"]: row for row in verdicts(results(cpu_hello=measured))}
    assert rows["cpu_hello"]["verdict"] == verdict


def test_some_are_lower_bounds_and_some_have_no_worst():
    found = results()
    found["overhead"]["ratios"][4] = ratio("rate_plain_32_router_hello", 0.69)
    found["overhead"]["ratios"][1] = ratio("cpu_plain_32_router_nginx", 6.1)
    found["memory"]["series"][0] = grown("requests", 20.0)
    missed = {row["id"] for row in verdicts(found) if row["verdict"] == "not met"}
    assert missed == {"rate", "cpu_nginx", "flat_requests"}


def test_what_was_not_measured_is_no_verdict():
    found = results()
    del found["startup"], found["overhead"]["ratios"][2]
    rows = {row["id"]: row for row in verdicts(found)}
    assert {name for name, row in rows.items() if row["verdict"] == "not measured"} == {
        "import",
        "first_answer",
        "cpu_litellm",
    }
    assert "median" not in rows["import"]


def test_growth_is_that_of_the_second_half():
    """20 KB for each thousand requests, over the last 95,000 of 200,000."""
    found = results()
    found["memory"]["series"][0] = grown("requests", 20.0)
    row = next(row for row in verdicts(found) if row["id"] == "flat_requests")
    assert row["median"] == pytest.approx(20.0 * 95 / 1000)
    assert row["count"] == 200_000


def test_half_a_series_and_a_quick_run_are_no_measurement():
    found = results()
    found["memory"]["series"][0] = {**grown("requests", 0.1), "asked": 400_000}
    found["startup"]["method"] = {"quick": True}
    rows = {row["id"]: row["verdict"] for row in verdicts(found)}
    assert {name for name, verdict in rows.items() if verdict == "not measured"} == {
        "flat_requests",
        "import",
        "first_answer",
    }


def test_a_verdict_from_an_older_run_says_so():
    found = results()
    found["startup"] |= {"commit": "old", "measured_at": "2025-12-31T00:00:00+00:00"}
    told = aims_table(verdicts(found))
    assert told.count("met (2025-12-31, commit old)") == 2
    assert "commit abc" not in told


def test_a_rise_is_fitted_where_all_is_warm():
    warming = [{"count": n * 1000, "rss_mb": 50.0 + min(n, 5) * 3} for n in range(1, 11)]
    assert rise(warming) == 0.0
    leaking = [{"count": n * 1000, "rss_mb": 50.0 + n * 0.1} for n in range(1, 11)]
    assert rise(leaking) == pytest.approx(100.0)


def test_verdicts_are_kept_beside_the_results(tmp_path: Path):
    for name, found in results().items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"name": name, **found}))
    (tmp_path / "other.json").write_text(json.dumps({"name": "something else"}))
    rows = save_verdicts(results_in(tmp_path), tmp_path)
    assert json.loads((tmp_path / "aims.json").read_text())["aims"] == rows
    assert aims_table(rows).count(" | met |") == len(AIMS)
    assert "<= 1/65" in aims_table(rows)
