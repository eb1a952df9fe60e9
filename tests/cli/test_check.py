"""`check` and `models`: what they say and their exit codes."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from smartrouter_asgi.testing.ollama import GIB, SimulatedModel, SimulatedOllama

from ..harness.engines import good
from ..harness.servers import Exchange, RawServer
from .commands import run

CANARY = "sk-canary-0123456789"
MODELS = [SimulatedModel("sim:1b", GIB), SimulatedModel("sim:3b", 3 * GIB)]


@pytest.fixture
def dead_url() -> Iterator[str]:
    """The URL of a port that is bound and refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def written(path: Path, ollama: str, cloud: str, model: str = "sim:1b") -> str:
    file = path / "router.yaml"
    file.write_text(
        f"""\
backends:
  local: {{type: ollama, url: "{ollama}"}}
  cloud: {{type: openai, url: "{cloud}/v1", api_key: "${{KEY}}"}}
models:
  - name: chat
    deployments: [{{backend: local, model: "{model}"}}, {{backend: cloud, model: unlisted, order: 2}}]
aliases: {{gpt-4o: chat}}
vram: {{max_total: 8GiB}}
"""
    )
    return str(file)


async def test_all_is_well(tmp_path: Path):
    async with SimulatedOllama(MODELS) as ollama, RawServer(good) as cloud:
        file = written(tmp_path, ollama.base_url, cloud.base_url)
        told = await run("check", "--config", file, env={"KEY": CANARY})
        answer = await run("check", "--json", "--config", file, env={"KEY": CANARY})
    assert told.code == answer.code == 0
    assert told.out.endswith("all is well\n")
    assert told.err == answer.err == ""
    assert "'cloud' does not list it; it may serve it all the same" in told.out
    assert "8.0 GiB (declared) shared by the models of local" in told.out
    report = json.loads(answer.out)
    assert report["status"] == "ok"
    assert report["backends"]["local"]["state"] == "up"
    assert report["backends"]["local"]["models"] == 2
    assert report["backends"]["local"]["latency_ms"] > 0
    assert report["vram"] == {
        "gated": True,
        "backends": ["local"],
        "budget_bytes": 8 * GIB,
        "text": "8.0 GiB (declared) shared by the models of local",
    }
    assert [(one["backend"], one["listed"]) for one in report["deployments"]] == [("local", True), ("cloud", False)]
    assert CANARY not in told.text + answer.text


async def refused(exchange: Exchange) -> None:
    await exchange.answer(401, b'{"error": {"message": "bad key %s"}}' % CANARY.encode())


async def test_something_does_not_answer(tmp_path: Path, dead_url: str):
    async with RawServer(refused) as cloud:
        file = written(tmp_path, dead_url, cloud.base_url)
        told = await run("check", "--config", file, env={"KEY": CANARY})
        answer = await run("check", "--json", "--config", file, env={"KEY": CANARY})
    assert told.code == answer.code == 1
    assert "start it with `ollama serve`, or correct its URL" in told.out
    assert "refused the gateway's key: check its api key" in told.out
    report = json.loads(answer.out)
    assert report["status"] == "problems"
    assert {name: backend["state"] for name, backend in report["backends"].items()} == {
        "local": "down",
        "cloud": "down",
    }
    assert CANARY not in told.text + answer.text


async def test_a_model_that_its_engine_does_not_have_is_a_problem(tmp_path: Path):
    async with SimulatedOllama(MODELS) as ollama, RawServer(good) as cloud:
        file = written(tmp_path, ollama.base_url, cloud.base_url, model="sim:70b")
        told = await run("check", "--config", file, env={"KEY": CANARY})
    assert told.code == 1
    assert "'local' does not have it: correct the name, or `ollama pull sim:70b` there" in told.out


@pytest.mark.parametrize("command", ["check", "models"])
async def test_bad_configuration_is_2(tmp_path: Path, command: str):
    file = tmp_path / "router.yaml"
    file.write_text("backends: {a: {type: olama}}\nmodls: []\n")
    told = await run(command, "--config", str(file))
    answer = await run(command, "--json", "--config", str(file))
    assert told.code == answer.code == 2
    assert "did you mean 'ollama'" in told.err
    assert "Traceback" not in told.err
    report = json.loads(answer.out)
    assert report["status"] == "bad_configuration"
    assert any("modls" in problem for problem in report["problems"])


async def test_models_lists_names_aliases_and_what_is_in_memory(tmp_path: Path, dead_url: str):
    async with SimulatedOllama(MODELS, time_scale=0.01) as ollama:
        file = written(tmp_path, ollama.base_url, dead_url)
        async with RawServer(good):
            told = await run("models", "--config", file, env={"KEY": CANARY})
            answer = await run("models", "--json", "--config", file, env={"KEY": CANARY})
    assert told.code == answer.code == 0
    assert [line.split()[0] for line in told.out.splitlines()] == ["NAME", "chat", "sim:1b", "sim:3b", "gpt-4o"]
    assert "alias of chat" in told.out
    assert "3.0 GiB" in told.out
    assert "cloud is left out: backend 'cloud' cannot be reached" in told.err
    entries = {entry["name"]: entry for entry in json.loads(answer.out)["models"]}
    assert entries["gpt-4o"]["alias_of"] == "chat"
    assert entries["sim:3b"]["deployments"] == [
        {"backend": "local", "model": "sim:3b", "up": True, "size_bytes": 3 * GIB, "loaded": False}
    ]


async def test_models_is_1_when_nothing_answers(dead_url: str):
    outcome = await run("models", env={"ROUTER_OLLAMA_URL": dead_url})
    assert outcome.code == 1
    assert outcome.out == "no models\n"


async def test_version_and_help():
    version, text, nothing = await run("--version"), await run("serve", "--help"), await run()
    assert version.code == text.code == 0
    assert version.out.startswith("smartrouter-asgi ")
    assert "--allow-unauthenticated" in text.out
    assert nothing.code == 2
    assert "first steps" in nothing.out
