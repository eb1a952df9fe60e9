"""Every benchmark runs and says all it has to say; how fast anything is, no test asks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="CPU time and memory of other processes are read from /proc"
)


def run(module: str, *arguments: str) -> str:
    """Run one module of the benchmarks and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def result(folder: Path, name: str) -> dict[str, Any]:
    found = json.loads((folder / f"{name}.json").read_text())
    assert found["name"] == name
    assert found["commit"]
    assert found["machine"].keys() == {"cpu", "cores", "kernel", "implementation"}
    assert {"python", "smartrouter-asgi", "uvicorn", "httpx"} <= found["versions"].keys()
    assert str(Path.home()) not in json.dumps(found)
    return found


def assert_figure(row: dict[str, Any], *, positive: bool = True) -> None:
    """A figure says its unit, how often it was measured and how far that spread; none is absurd."""
    assert row["unit"]
    assert row["n"] >= 1
    assert row["low"] <= row["median"] <= row["high"] < 1e9
    if positive:
        assert row["median"] > 0, row


def assert_loaded(found: dict[str, Any]) -> None:
    """What was measured with load says what it left out and how many windows were void."""
    assert found["voided"]["of"] > 0
    assert found["voided"]["windows"] <= 3 + 0.05 * found["voided"]["of"]
    assert found["method"]["left_out"] == {}
    assert found["noise"]["unit"] == "cores"
    for row in found.get("quantiles", []):
        assert len(row["values"]) == 101
        if not row["metric"].startswith("added"):
            assert row["values"] == sorted(row["values"])


def seen_in(found: dict[str, Any]) -> set[tuple[str, str, str]]:
    for row in found["figures"]:
        assert_figure(row, positive=not row["metric"].startswith(("added", "busy", "rig")))
    return {(f["scenario"], f["variant"], f["metric"]) for f in found["figures"]}


def test_overhead(tmp_path: Path):
    printed = run("overhead", "--quick", "--out", str(tmp_path))
    found = result(tmp_path, "overhead")
    assert_loaded(found)
    assert found["method"]["variants"].keys() == {"direct", "hello", "router"}
    seen = seen_in(found)
    for variant in ("direct", "hello", "router"):
        for metric in ("cpu", "rate", "busy", "rig_busy", "latency_p50", "latency_p99"):
            assert {("plain_1", variant, metric), ("plain_32", variant, metric)} <= seen
    assert {(q["variant"], q["metric"]) for q in found["quantiles"]} >= {("router", "added_latency")}
    names = {row["id"]: row for row in found["ratios"]}
    assert {"cpu_plain_32_router_hello", "rate_plain_32_router_hello"} <= names.keys()
    for row in found["ratios"]:
        assert_figure(row)
    assert "router / hello" in printed


def test_streaming(tmp_path: Path):
    run("streaming", "--quick", "--out", str(tmp_path))
    found = result(tmp_path, "streaming")
    assert_loaded(found)
    seen = seen_in(found)
    for variant in ("direct", "hello", "router"):
        assert ("first_token", variant, "first_token_p50") in seen
        assert {("burst", variant, "cpu"), ("paced", variant, "cpu"), ("paced", variant, "delay_p95")} <= seen
        assert ("paced", variant, "jitter_p95") in seen
    assert "cpu_paced_router_hello" in {row["id"] for row in found["ratios"]}


def test_scale(tmp_path: Path):
    run("scale", "--quick", "--out", str(tmp_path))
    found = result(tmp_path, "scale")
    assert_loaded(found)
    rows = {(f["scenario"], f["variant"], f["workers"], f["connections"], f["metric"]) for f in found["figures"]}
    assert {("plain", "router", 1, n, "rate") for n in (1, 32)} <= rows
    assert {("first_token", "router", 1, n, "first_token_p50") for n in (1, 8)} <= rows
    assert {("plain", "serve", n, 8, "cpu") for n in (1, 2)} <= rows
    assert "core(s)" in found["method"]["note"]


def test_open_loop(tmp_path: Path):
    run("open_loop", "--quick", "--out", str(tmp_path))
    found = result(tmp_path, "open_loop")
    assert_loaded(found)
    assert {(p["variant"], p["rate"]) for p in found["points"]} >= {(v, 50) for v in ("direct", "hello", "router")}
    for point in found["points"]:
        for name in ("latency_p50", "latency_p95", "latency_p99"):
            assert_figure(point[name])
        assert_figure(point["done"], positive=False)  # within a fifth of a second a busy machine may answer none
        assert isinstance(point["saturated"], bool)
    assert len(found["quantiles"]) == len(found["points"])


def test_memory(tmp_path: Path):
    run("memory", "--quick", "--out", str(tmp_path))
    found = result(tmp_path, "memory")
    assert_loaded(found)
    rows = {(row["variant"], row["metric"]): row for row in found["figures"]}
    assert_figure(rows["router", "idle"])
    assert rows["router", "per_stream"]["streams_open"] == rows["router", "per_stream"]["streams_asked"] == 8
    assert [(s["variant"], s["kind"]) for s in found["series"]] == [("router", "requests"), ("router", "disconnects")]
    for series in found["series"]:
        counts = [point["count"] for point in series["points"]]
        assert counts == sorted(counts)
        assert all(point["rss_mb"] > 10 for point in series["points"])
    assert found["series"][0]["points"][-1]["count"] >= 400
    assert found["series"][1]["points"][-1]["count"] == 40


def test_startup(tmp_path: Path):
    run("startup", "--quick", "--out", str(tmp_path))
    found = result(tmp_path, "startup")
    rows = {row["what"]: row for row in found["figures"]}
    for what in ("first_answer_hello", "first_answer_router", "first_answer_serve", "import_router", "python"):
        assert_figure(rows[what])


def test_body_size(tmp_path: Path):
    run("body_size", "--quick", "--out", str(tmp_path))
    found = result(tmp_path, "body_size")
    assert_loaded(found)
    rows = {(row["variant"], row["body_bytes"], row["metric"]): row for row in found["figures"]}
    for size in (1_000, 100_000, 1_000_000):
        assert_figure(rows["router", size, "cpu"])
    assert_figure(rows["router", 1_000_000, "added_cpu"])


def test_gate_operations(tmp_path: Path):
    run("gate_operations", "--quick", "--out", str(tmp_path))
    found = result(tmp_path, "gate_operations")
    for row in found["operations"]:
        assert_figure(row)
    assert {row["name"].partition(":")[0] for row in found["operations"]} == {"gate", "scheduler", "eviction", "ledger"}


def test_layers_and_report(tmp_path: Path):
    run("layers", "--quick", "--out", str(tmp_path))
    found = result(tmp_path, "layers")
    names = {row["name"] for row in found["layers"]}
    assert {"resolution alone", "resilience inside", "gate inside, model resident", "whole router, plain"} <= names
    for row in found["layers"]:
        assert_figure(row, positive=row["minus"] is None or row["name"].startswith("whole"))
    assert {"parse_call, 200 KB", "read_plain, 600 bytes"} <= {row["name"] for row in found["operations"]}
    for row in (*found["operations"], *found["depth"], *found["stack"]):
        assert_figure(row)
    depths = {(row["kind"], row["layers"]) for row in found["depth"]}
    assert {n for kind, n in depths if kind == "pass-through"} == set(range(9))
    assert ("BaseHTTPMiddleware", 1) in depths
    assert [row["off"] for row in found["stack"]][:2] == [[], ["envelope"]]

    readme, top = tmp_path / "README.md", tmp_path / "top.md"
    shutil.copy(ROOT / "benchmarks" / "README.md", readme)
    shutil.copy(ROOT / "README.md", top)
    report(tmp_path, readme, top)
    text = readme.read_text()
    assert text.count("<!-- results: begin -->") == text.count("<!-- results: end -->") == 1
    assert "whole router, plain" in text
    assert "not measured" in text, "the aims whose figures are missing"
    assert text.startswith("# Benchmarks")
    assert "Not measured yet" in top.read_text()


def report(folder: Path, readme: Path, top: Path) -> None:
    run("report", "--results", str(folder), "--readme", str(readme), "--top-readme", str(top))


def reported(folder: Path) -> str:
    """What the report makes of a folder's results."""
    readme, top = folder / "README.md", folder / "top.md"
    readme.write_text("<!-- results: begin --><!-- results: end -->")
    top.write_text("<!-- bench: begin --><!-- bench: end -->")
    report(folder, readme, top)
    return readme.read_text()


def test_all_questions_by_one_command(tmp_path: Path):
    """Those that were asked for; the aims come with them."""
    printed = run("__main__", "--quick", "--only", "translation", "gate_operations", "--out", str(tmp_path))
    assert {path.stem for path in tmp_path.glob("*.json")} == {"translation", "gate_operations", "aims"}
    assert "2 of 2 questions" in printed
    assert "not measured" in printed
    assert {row["verdict"] for row in json.loads((tmp_path / "aims.json").read_text())["aims"]} == {"not measured"}


def test_translation(tmp_path: Path):
    """Both ways of each operation, and their difference, which may be anything on a busy machine."""
    printed = run("translation", "--quick", "--out", str(tmp_path))
    found = result(tmp_path, "translation")
    names = {row["name"] for row in found["operations"]}
    assert {"request, 1 KB", "plain answer, 600 bytes", "chunk of a stream"} <= names
    for row in found["operations"]:
        assert_figure(row["ollama"])
        assert_figure(row["openai"])
        assert_figure(row["added"], positive=False)
    assert "translation adds" in printed
    assert "### Translation" in reported(tmp_path)


def test_resilience(tmp_path: Path):
    """The run itself fails when a storm outgrows its budget or an engine behind an open breaker is asked."""
    printed = run("resilience", "--quick", "--out", str(tmp_path))
    found = result(tmp_path, "resilience")
    assert {(row["state"], row["connections"]) for row in found["refusals"]} == {
        (state, connections) for state in ("engine well", "breaker open") for connections in (1, 32)
    }
    for row in found["refusals"]:
        for name in ("latency_p50", "latency_p95", "rate", "cpu"):
            assert_figure(row[name])
        assert row.get("upstream_calls", 0) == 0
    assert [row["breaker"] for row in found["storm"]] == ["off", "on"]
    for row in found["storm"]:
        assert 0 < row["upstream_calls"] <= row["bound"] == round(1.2 * row["requests"] + 10)
        assert row["holds"]
    off, on = found["storm"]
    # What a hundred clients ask at once is under way before it opens, and so may be a first retry of the quickest.
    assert off["requests"] > 110 >= on["upstream_calls"]
    assert off["upstream_calls"] > off["requests"] - 100, "all but what the last moment cut off reached the engine"
    assert [row["when"] for row in found["leaving"]] == ["mid-stream", "before the first token"]
    for row in found["leaving"]:
        for name in ("p50", "p95", "max"):
            assert_figure(row[name])
        assert row["streams"] == 10
    assert [row["hedge"] for row in found["hedging"]] == ["off", "on, as it is by default"]
    for row in found["hedging"]:
        for name in ("p50", "p95", "p99"):
            assert_figure(row[name])
    assert found["hedging"][0]["extra_calls"]["median"] <= 0  # what was sent last may not have come to an engine
    names = {row["name"] for row in found["operations"]}
    assert {"breaker: peek, open", "slot: taken, given back", "watcher, ends its own wait"} <= names
    for row in found["operations"]:
        assert_figure(row, positive=row["minus"] is None)
    assert len(found["aims"]) == 6
    assert "client gone to upstream closed" in printed
    assert "### What faults cost" in reported(tmp_path)


def test_ollama_gate(tmp_path: Path):
    """Every request is answered either way, or the run itself fails; the gate never loads more often."""
    printed = run("ollama_gate", "--quick", "--out", str(tmp_path))
    found = result(tmp_path, "ollama_gate")
    assert [(row["models"], row["way"]) for row in found["runs"]] == [
        (models, way) for models in (2, 3) for way in ("straight to Ollama", "through the gate")
    ]
    for row in found["runs"]:
        for name in ("loads", "wait_mean", "wait_p95", "wait_max", "wall"):
            assert_figure(row[name])
        assert row["loads"]["median"] >= row["models"]
        assert row["wait_mean"]["median"] <= row["wait_p95"]["median"] <= row["wait_max"]["median"]
    for straight, gated in zip(found["runs"][::2], found["runs"][1::2], strict=True):
        assert gated["loads"]["median"] <= straight["loads"]["median"]
    assert "through the gate" in printed
    assert "### What the gate saves" in reported(tmp_path)
