"""`serve --demo` from its first line to a swap."""

from __future__ import annotations

import json

from smartrouter_asgi.testing.ollama import demo_models

from .commands import Served, patched, serving

FAST = patched("from smartrouter_asgi.cli import demo\ndemo.TIME_SCALE = 0.1")


def content(stream: str) -> str:
    events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])


async def residents(served: Served) -> list[str]:
    return [resident["deployment"] for resident in (await served.get("/admin/vram")).json()["residents"]]


async def test_the_demo_streams_swaps_and_says_that_it_is_simulated():
    outer = {"ROUTER_PROVIDER": "openai", "ROUTER_CONFIG": "/nowhere.yaml", "ROUTER_VRAM_MAX_TOTAL_GB": "1"}
    async with serving("--demo", env=outer, program=FAST) as served:
        small, large = served.curls
        first = await served.request(small)
        after_first = await residents(served)
        second = await served.request(large)
        after_second = await residents(served)
        health = (await served.get("/health")).json()
        listed = (await served.get("/v1/models")).json()["data"]
        outcome = await served.stop()

    assert first.status_code == second.status_code == 200
    assert first.text.endswith("data: [DONE]\n\n")
    assert content(first.text)
    assert first.headers["x-smartrouter-backend"] == "simulated"
    assert after_first == ["simulated/sim-small:3b"]
    assert after_second == ["simulated/sim-large:27b"]
    assert health["backends"]["simulated"]["state"] == "up"
    assert {entry["id"] for entry in listed} == {model.name for model in demo_models()}
    assert "simulated engine, no model behind it" in served.text
    assert "GPU memory (simulated): 18.0 GiB" in served.text
    assert "gate: load simulated/sim-small:3b" in outcome.err
    assert "gate: unload simulated/sim-small:3b" in outcome.err
    assert "gate: load simulated/sim-large:27b" in outcome.err
    assert outcome.code == 0
