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


def test_overhead(tmp_path: Path):
    printed = run("overhead", "--quick", "--out", str(tmp_path))
    found = result(tmp_path, "overhead")
    assert found["method"]["skipped"].keys() == {"nginx", "proxy", "router_log"}
    seen = {(f["scenario"], f["variant"], f["metric"]) for f in found["figures"]}
    for variant in ("direct", "hello", "router"):
        for metric in ("cpu", "rate", "latency_p50", "latency_p99"):
            assert ("plain_1", variant, metric) in seen
            assert ("plain_32", variant, metric) in seen
        assert ("first_token", variant, "first_token_p50") in seen
        assert {("burst", variant, "cpu"), ("paced", variant, "cpu"), ("paced", variant, "delay_p95")} <= seen
    for row in found["figures"]:
        assert_figure(row, positive=not row["metric"].startswith("added"))
    names = {row["name"]: row for row in found["ratios"]}
    assert names["CPU per request, router / hello"]["aim"] == 2.5
    for row in found["ratios"]:
        assert_figure(row)
    for memory in found["memory"].values():
        assert_figure(memory["idle_mb"])
        assert_figure(memory["per_stream_kb"], positive=False)
        assert memory["streams_open"] == memory["streams_asked"]
    for row in found["startup"].values():
        assert_figure(row, positive=False)
    assert found["startup"]["first_answer_router"]["median"] > 0
    assert "aim (performance issue)" in printed


def test_layers_and_report(tmp_path: Path):
    run("layers", "--quick", "--out", str(tmp_path))
    found = result(tmp_path, "layers")
    names = {row["name"] for row in found["layers"]}
    assert {"resolution alone", "resilience inside", "gate inside, model resident", "whole router, plain"} <= names
    for row in found["layers"]:
        assert_figure(row, positive=row["minus"] is None or row["name"].startswith("whole"))
    assert {"parse_call, 200 KB", "read_plain, 600 bytes"} <= {row["name"] for row in found["operations"]}
    for row in found["operations"]:
        assert_figure(row)

    readme = tmp_path / "README.md"
    shutil.copy(ROOT / "benchmarks" / "README.md", readme)
    run("report", "--results", str(tmp_path), "--readme", str(readme))
    text = readme.read_text()
    assert text.count("<!-- results: begin -->") == text.count("<!-- results: end -->") == 1
    assert "whole router, plain" in text
    assert text.startswith("# Benchmarks")


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
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results: begin --><!-- results: end -->")
    run("report", "--results", str(tmp_path), "--readme", str(readme))
    assert "### Translation" in readme.read_text()


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
    assert off["requests"] > 100 > on["upstream_calls"]
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
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results: begin --><!-- results: end -->")
    run("report", "--results", str(tmp_path), "--readme", str(readme))
    assert "### What faults cost" in readme.read_text()


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
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results: begin --><!-- results: end -->")
    run("report", "--results", str(tmp_path), "--readme", str(readme))
    assert "### What the gate saves" in readme.read_text()
