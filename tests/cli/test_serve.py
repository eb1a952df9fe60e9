"""`serve` as people meet it: what it prints is true, and it ends when it is told to."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from pathlib import Path

import httpx
import pytest

from smartrouter_asgi.testing.ollama import GIB, SimulatedModel, SimulatedOllama

from ..harness.engines import ROLE, STREAM, good
from ..harness.servers import Exchange, RawServer
from .commands import looking_at, patched, run, serving

CANARY = "sk-canary-0123456789"


def env_of(engine: RawServer, **more: str) -> dict[str, str]:
    return {"ROUTER_PROVIDER": "openai", "ROUTER_OPENAI_BASE_URL": f"{engine.base_url}/v1", **more}


async def test_it_serves_and_the_curl_it_prints_works():
    began = time.monotonic()
    async with (
        RawServer(good) as engine,
        serving(env=env_of(engine, ROUTER_OPENAI_API_KEY=CANARY)) as served,
    ):
        response = await served.request(served.curls[0])
        took_s = time.monotonic() - began
        outcome = await served.stop()
    assert response.status_code == 200
    assert response.content == b"".join(STREAM)
    assert took_s < 10
    assert "up  openai  openai at http://127.0.0.1:" in served.text
    assert "1 model" in served.text
    assert "local models are not gated: no backend here loads and unloads models" in served.text
    assert f"export OPENAI_BASE_URL={served.url}/v1 " in served.text
    assert outcome.code == 0
    # The signal may come while the server still winds up what the client has got whole already.
    lines = [line for line in outcome.err.splitlines() if "draining: 1 requests run" not in line]
    assert [line for line in lines if "engine-model -> openai 200 ok" in line] == lines != []
    assert engine.exchanges[-1].header("authorization") == f"Bearer {CANARY}"
    assert CANARY not in outcome.text


async def test_logs_are_json_objects_when_asked_for():
    async with (
        RawServer(good) as engine,
        serving("--log-level", "debug", env=env_of(engine, ROUTER_LOG_FORMAT="json")) as served,
    ):
        await served.request(served.curls[0])
        outcome = await served.stop()
    records = [json.loads(line) for line in outcome.err.splitlines()]
    assert any(record["logger"] == "smartrouter_asgi.requests" and record["level"] == "INFO" for record in records)
    assert "http://" not in outcome.err
    assert "Say hello" not in outcome.err


async def test_the_command_line_goes_before_the_environment():
    async with (
        RawServer(good) as engine,
        serving("--host", "localhost", env=env_of(engine, ROUTER_HOST="::1")) as served,
    ):
        assert served.url.startswith("http://localhost:")
        assert (await served.get("/healthz")).status_code == 200


async def test_a_file_is_served(tmp_path: Path):
    async with RawServer(good) as engine:
        file = tmp_path / "router.yaml"
        file.write_text(
            f'backends: {{box: {{type: openai, url: "{engine.base_url}/v1", devices: [0, 1]}}}}\n'
            "models: [{name: chat, deployments: [{backend: box, model: engine-model}]}]\n"
        )
        async with serving("--config", str(file)) as served:
            assert '"model":"chat"' in served.text
            assert "GPU memory: local models are not gated" in served.text
            assert (await served.request(served.curls[0])).headers["x-smartrouter-backend"] == "box"


async def stranger(exchange: Exchange) -> None:
    await exchange.answer(404, b"<html>", "text/html")


async def test_it_looks_around_and_tells_engines_by_their_answers():
    """Two OpenAI-compatible engines, an Ollama and a web server, none of them at its usual port."""
    model = SimulatedModel("sim:1b", GIB)
    async with RawServer(good) as one, RawServer(good) as two, RawServer(stranger) as other:
        async with SimulatedOllama([model]) as ollama:
            ports = [int(server.base_url.rpartition(":")[2]) for server in (one, two, other)]
            async with serving(program=looking_at(*ports, ollama.port)) as served:
                health = (await served.get("/health")).json()["backends"]
                listed = (await served.get("/v1/models")).json()["data"]
    assert {name: state["type"] for name, state in health.items()} == {
        f"openai-{ports[0]}": "openai",
        f"openai-{ports[1]}": "openai",
        "ollama": "ollama",
    }
    assert {entry["id"] for entry in listed} == {"engine-model", "sim:1b"}
    assert f"found openai on port {ports[0]}, openai on port {ports[1]}, ollama on port" in served.text
    assert f"port {ports[2]} is taken by something that is no engine known here" in served.text
    assert "1 model, 0 in memory" in served.text


async def silent(exchange: Exchange) -> None:
    await exchange.gone()


async def test_nothing_found_keeps_the_default_and_starts_all_the_same():
    async with RawServer(silent) as hanging:
        port = int(hanging.base_url.rpartition(":")[2])
        began = time.monotonic()
        async with serving(program=looking_at(free_port(), port)) as served:
            took_s = time.monotonic() - began
            answer = await served.get("/health")
            outcome = await served.stop()
    assert "guessing Ollama at http://localhost:11434" in served.text
    assert f"port {port} is taken" in served.text
    assert "ollama" in answer.json()["backends"]
    assert took_s < 10
    assert outcome.code == 0


async def test_a_backend_that_hangs_does_not_hold_up_the_start():
    async with RawServer(silent) as engine:
        began = time.monotonic()
        async with serving(env=env_of(engine)) as served:
            took_s = time.monotonic() - began
            alive = await served.get("/healthz")
    assert took_s < 10
    assert alive.status_code == 200
    assert "waiting  openai" in served.text
    assert "no model answers yet" in served.text


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
async def test_an_address_that_others_reach_is_refused(host: str):
    outcome = await run("serve", "--port", "0", "--host", host)
    assert outcome.code == 2
    assert "no client keys are configured" in outcome.err
    assert "--allow-unauthenticated" in outcome.err
    assert outcome.out == ""


async def test_an_address_that_others_reach_is_served_when_asked_for():
    async with (
        RawServer(good) as engine,
        serving("--host", "0.0.0.0", "--allow-unauthenticated", env=env_of(engine)) as served,
    ):
        assert served.url.startswith("http://0.0.0.0:")
        assert served.curls[0][2].startswith("http://127.0.0.1:")
        assert (await served.request(served.curls[0])).status_code == 200


@pytest.mark.parametrize(
    ("args", "env", "said"),
    [
        (("--config", "/nowhere/router.yaml"), {}, "cannot be read"),
        (("--port", "abc"), {}, "command line: server.port: 'abc'"),
        (("--log-level", "loud"), {}, "command line: logging.level: 'loud'"),
        (("--workers", "0"), {}, "server.workers"),
        ((), {"ROUTER_PROVIDER": "olama"}, "did you mean 'ollama'"),
        (("--demo", "--config", "x.yaml"), {}, "--demo brings its own engine"),
        (("--demo", "--workers", "2"), {}, "--demo brings its own engine"),
        (("--prot", "1"), {}, "unrecognized arguments"),
    ],
)
async def test_bad_configuration_ends_with_2_and_no_traceback(args: tuple[str, ...], env: dict[str, str], said: str):
    outcome = await run("serve", *args, env=env)
    assert outcome.code == 2
    assert said in outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.out == ""


async def test_a_port_in_use_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = await run("serve", "--port", str(port))
    assert outcome.code == 1
    assert outcome.err.splitlines() == [
        f"smartrouter-asgi: port {port} of 127.0.0.1 is in use: stop what listens there, or choose another with --port"
    ]


async def test_without_uvicorn_it_says_what_to_install():
    outcome = await run("serve", program=patched("sys.modules['uvicorn'] = None"))
    assert outcome.code == 1
    assert outcome.err == "smartrouter-asgi: serving needs uvicorn: pip install 'smartrouter-asgi[server]'\n"


async def test_a_start_that_fails_passes_uvicorns_exit_code_on():
    code = """
from smartrouter_asgi import SmartRouter
async def fail(self): raise RuntimeError("no")
SmartRouter._warm_up = fail
"""
    async with RawServer(good) as engine:
        outcome = await run("serve", "--port", "0", program=patched(code), env=env_of(engine))
    assert outcome.code == 3


async def test_workers_share_the_address():
    async with RawServer(good) as engine:
        port = int(engine.base_url.rpartition(":")[2])
        async with serving("--workers", "2", program=looking_at(port)) as served:
            async with asyncio.timeout(15):
                response = await served.request(served.curls[0])
            outcome = await served.stop()
    assert response.content == b"".join(STREAM)
    assert response.headers["x-smartrouter-backend"] == "openai"
    assert outcome.code == 0
    assert "Traceback" not in outcome.err


async def test_workers_are_refused_where_memory_is_gated():
    async with SimulatedOllama([SimulatedModel("sim:1b", GIB)]) as engine:
        env = {"ROUTER_OLLAMA_URL": engine.base_url, "ROUTER_VRAM_MAX_TOTAL_GB": "8"}
        outcome = await run("serve", "--port", "0", "--workers", "2", env=env)
    assert outcome.code == 2
    assert "--workers 2 does not go with gated backends (ollama)" in outcome.err


async def endless(exchange: Exchange) -> None:
    if not exchange.path.endswith("chat/completions"):
        await good(exchange)
        return
    await exchange.start_stream()
    await exchange.chunk(ROLE)
    await exchange.chunk(STREAM[1])
    await exchange.gone()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_in_order_though_a_stream_runs(number: signal.Signals, tmp_path: Path):
    """The drain is bounded, the stream is told, the exit code is 0 and nobody sees a traceback."""
    async with RawServer(endless) as engine:
        file = tmp_path / "router.yaml"
        file.write_text(
            f'backends: {{box: {{type: openai, url: "{engine.base_url}/v1"}}}}\n'
            "resilience: {drain: {timeout: 1s}}\n"
        )
        async with serving("--config", str(file)) as served, httpx.AsyncClient(trust_env=False) as client:
            body = {"model": "engine-model", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
            async with client.stream("POST", f"{served.url}/v1/chat/completions", json=body, timeout=20) as response:
                chunks = response.aiter_raw()
                await anext(chunks)
                began = time.monotonic()
                outcome = await served.stop(number)
                took_s = time.monotonic() - began
                rest = b"".join([chunk async for chunk in chunks])
    assert rest.count(b'"code":"gateway_draining"') == 1
    assert b"[DONE]" not in rest
    assert outcome.code == 0
    assert "Traceback" not in outcome.err
    assert took_s < 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_the_looking_around(number: signal.Signals):
    code = (
        "import os, signal\nfrom smartrouter_asgi.cli import lookaround\n"
        f"async def look(ports):\n    os.kill(os.getpid(), {int(number)})\n    return ()\n"
        "lookaround.look_around = look"
    )
    outcome = await run("serve", "--port", "0", program=patched(code))
    assert outcome.code == 0
    assert "Traceback" not in outcome.err


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
