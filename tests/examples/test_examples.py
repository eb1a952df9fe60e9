"""Every example, run: over real sockets, against engines that only the environment names."""

from __future__ import annotations

import asyncio
import re
import runpy
from pathlib import Path

import httpx
import pytest

from smartrouter_asgi import load_settings
from smartrouter_asgi.testing.ollama import SimulatedOllama, demo_models

from ..harness.engines import ANSWER, STREAM, good
from ..harness.servers import RawServer, serve
from .answers import CHAT, ask, streamed_text_of, text_of
from .conftest import EXAMPLES

NUMBERED = sorted(path.stem for path in EXAMPLES.glob("[0-9][0-9]_*.py"))


@pytest.fixture
async def ollama():
    async with SimulatedOllama(demo_models(), time_scale=0.01) as engine:
        yield engine


async def test_01_standalone(example, monkeypatch, ollama):
    """The file's engines serve the model: the local one, and the cloud's while that one is down."""
    async with RawServer(good) as cloud, httpx.AsyncClient() as client:
        monkeypatch.setenv("OLLAMA_URL", ollama.base_url)
        monkeypatch.setenv("LOCAL_MODEL", "sim-small:3b")
        monkeypatch.setenv("CLOUD_URL", f"{cloud.base_url}/v1")
        async with serve(example("01_standalone").create_app()) as url:
            plain = await client.post(url + CHAT, json=ask(model="gpt-4o"))
            streamed = await client.post(url + CHAT, json=ask(stream=True))
            models = await client.get(f"{url}/v1/models")
            await ollama.refuse_connections()
            fallen_back = await client.post(url + CHAT, json=ask())
    assert text_of(plain)
    assert plain.headers["x-smartrouter-backend"] == "local"
    assert streamed_text_of(streamed)
    assert {"chat", "gpt-4o", "sim-chat:8b", "engine-model"} <= {model["id"] for model in models.json()["data"]}
    assert fallen_back.json() == ANSWER
    assert fallen_back.headers["x-smartrouter-backend"] == "cloud"


def test_01_its_configuration_stands_on_its_own(monkeypatch):
    """Nothing in it is unknown, missing or doubtful, with no variable set."""
    for name in ("OLLAMA_URL", "LOCAL_MODEL", "CLOUD_URL", "CLOUD_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    settings = load_settings(file=EXAMPLES / "config.example.yaml", environ={})
    assert settings.warnings == []
    assert list(settings.backends) == ["local", "cloud"]


async def test_02_mounted_fastapi(example, monkeypatch, ollama):
    """The router answers below its mount, the app answers beside it, and both lifespans have run."""
    monkeypatch.setenv("ROUTER_OLLAMA_URL", ollama.base_url)
    monkeypatch.setenv("ROUTER_VRAM_MAX_TOTAL_GB", "24")
    app = example("02_mounted_fastapi").create_app()
    async with serve(app) as url, httpx.AsyncClient() as client:
        hello = await client.get(f"{url}/hello")
        plain = await client.post(f"{url}/llm{CHAT}", json=ask(model="sim-small:3b"))
        streamed = await client.post(f"{url}/llm{CHAT}", json=ask(model="sim-small:3b", stream=True))
        unknown = await client.post(url + CHAT, json=ask())
        health = await client.get(f"{url}/llm/health")
    assert hello.json() == {"says": "hello"}
    assert text_of(plain)
    assert streamed_text_of(streamed)
    assert unknown.json() == {"detail": "Not Found"}
    assert health.status_code == 200
    assert app.state.greeting == "bye"


async def test_03_middleware_in_front(example, monkeypatch):
    """Inference is taken, plain and streamed; the app's own routes and errors are as they were."""
    async with RawServer(good) as engine, httpx.AsyncClient() as client:
        monkeypatch.setenv("ENGINE_URL", f"{engine.base_url}/v1")
        async with serve(example("03_middleware_in_front").create_app()) as url:
            home = await client.get(url)
            echo = await client.post(f"{url}/echo", content=b"x" * 1000)
            missing = await client.get(f"{url}/nothing")
            other_method = await client.get(url + CHAT)
            plain = await client.post(url + CHAT, json=ask(model="gpt-4o"))
            streamed = await client.post(url + CHAT, json=ask(stream=True))
            wrong = await client.post(url + CHAT, json=ask(model="chta"))
    assert (home.status_code, home.text) == (200, "the app's own page")
    assert echo.json() == {"length": 1000}
    assert (missing.status_code, missing.text) == (404, "Not Found")
    assert (other_method.status_code, other_method.text) == (404, "Not Found")
    assert not any(name.startswith("x-") for answer in (home, echo, missing) for name in answer.headers)
    assert plain.json() == ANSWER
    assert streamed.content == b"".join(STREAM)
    assert wrong.status_code == 404
    assert "'chat'" in wrong.json()["error"]["message"]


async def test_03_retries_the_engine(example, monkeypatch):
    """One 503 of the engine is not the client's business."""

    async def flaky(exchange):
        if len(engine.exchanges) == 1:
            await exchange.answer(503, b'{"error": {"message": "busy"}}')
        else:
            await good(exchange)

    async with RawServer(flaky) as engine, httpx.AsyncClient() as client:
        monkeypatch.setenv("ENGINE_URL", f"{engine.base_url}/v1")
        async with serve(example("03_middleware_in_front").create_app()) as url:
            answer = await client.post(url + CHAT, json=ask())
    assert answer.json() == ANSWER
    assert answer.headers["x-smartrouter-attempts"] == "2"


async def test_04_in_house_service(example):
    """Two models that do not fit together take turns, and the service never runs one that is not in memory."""
    module = example("04_in_house_service")
    async with serve(module.create_app()) as url, httpx.AsyncClient() as client:

        async def run(model: str, text: str) -> httpx.Response:
            return await client.post(f"{url}/models/{model}/run", content=text)

        first = await run("painter", "red fox")
        second = await run("speaker", "good morning")
        both = await asyncio.gather(*(run(model, "a b") for model in ("painter", "speaker") * 4))
        unknown = await run("writer", "x")
        memory = (await client.get(f"{url}/memory")).json()
    assert (first.status_code, first.text) == (200, "der xof ")
    assert (second.status_code, second.text) == (200, "doog gninrom ")
    assert [answer.text for answer in both] == ["a b "] * 8
    assert (unknown.status_code, unknown.json()) == (404, {"detail": "no model writer"})
    assert memory["history"][:3] == ["load painter", "unload painter", "load speaker"]
    assert len(memory["loaded"]) == 1
    assert re.fullmatch(r"(load (\w+),unload \2,)*load \w+", ",".join(memory["history"]))


async def test_05_custom_backend(example):
    """A backend from outside the package serves plain and streamed answers, under its model's name and an alias."""
    async with serve(example("05_custom_backend").create_app()) as url, httpx.AsyncClient() as client:
        models = await client.get(f"{url}/v1/models")
        plain = await client.post(url + CHAT, json=ask(model="word-count"))
        streamed = await client.post(url + CHAT, json=ask(model="counter", stream=True))
    assert {"word-count", "counter"} == {model["id"] for model in models.json()["data"]}
    assert text_of(plain) == "one two three (3 words)"
    assert plain.headers["x-smartrouter-backend"] == "mine"
    assert streamed_text_of(streamed) == "one two three (3 words)"


async def test_07_openai_sdk(example, monkeypatch):
    """The SDK's stream comes over one connection of ours, with the key it was given."""
    async with RawServer(good) as engine:
        monkeypatch.setenv("ENGINE_URL", f"{engine.base_url}/v1")
        monkeypatch.setenv("ENGINE_API_KEY", "its-key")
        assert await example("07_openai_sdk").main() == "Hello"
        assert (engine.paths, engine.connections) == (["/v1/chat/completions"], 1)
        assert engine.exchanges[0].header("authorization") == "Bearer its-key"


@pytest.mark.parametrize("name", [name for name in NUMBERED if name < "06"])
def test_it_is_a_script(name, monkeypatch):
    """Run as a script, an example serves its app on loopback."""
    import uvicorn

    served = []
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: served.append((app, options)))
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    [(app, options)] = served
    assert callable(app)
    assert options["host"] == "127.0.0.1"


def test_every_example_has_a_test():
    """A new example comes with its test: one here that has its name, or a test module that names its file."""
    tests = Path(__file__).parents[1]
    texts = "".join(path.read_text() for path in tests.rglob("test_*.py"))
    assert NUMBERED
    assert [name for name in NUMBERED if f"def test_{name}" not in texts and f"{name}.py" not in texts] == []
