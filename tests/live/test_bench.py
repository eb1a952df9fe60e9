"""`bench` on llama.cpp's own server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..bench.pages import assert_needs_nothing
from ..cli.commands import run
from .conftest import MODEL

pytestmark = pytest.mark.live


async def test_llama_cpp_direct_and_routed(llama: str, tmp_path: Path):
    """A model of random weights may end its answer before it has begun: that is a failure, and the only one."""
    report = tmp_path / "bench.html"
    outcome = await run(
        "bench", "--url", llama, *("--requests", "10", "--max-tokens", "16", "--json", "-", "--report", str(report))
    )
    found = json.loads(outcome.out)
    assert {row["reason"] for row in found["failures"]} <= {"an answer without content"}
    assert outcome.code == (1 if found["failures"] else 0)
    assert (found["engine"]["type"], found["engine"]["model"]) == ("llama.cpp", MODEL)
    assert found["pairs"] + sum(row["count"] for row in found["failures"]) >= 10
    assert found["tokens_from"] == "usage"
    for side in ("direct", "routed"):
        assert 0 < found["sides"][side]["ttft_ms"]["p50"] < 5000
        assert found["sides"][side]["stream_tokens_per_s"] > 1
    assert_needs_nothing(report.read_text())
