"""Every message that the README's Troubleshooting quotes is one that the gateway, a client or `check` really prints."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from smartrouter_asgi import SmartRouter
from smartrouter_asgi.backends.ollama import OllamaBackend
from smartrouter_asgi.cli import main
from smartrouter_asgi.config import load_settings
from smartrouter_asgi.testing.ollama import GIB, Fault, SimulatedModel, SimulatedOllama

from .harness.routers import chat
from .harness.servers import Exchange, RawServer, serve

README = (Path(__file__).parent.parent / "README.md").read_text()
SECTION = README.partition("\n## Troubleshooting\n")[2].partition("\n## ")[0]
ENTRIES = {
    title.strip(): re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    for title, _, text in (entry.partition("\n") for entry in SECTION.split("\n### ")[1:])
}

OLLAMA_URL = "http://127.0.0.1:11434"
CLOUD_URL = "https://api.example.com"
KEY = "sk-canary-0123456789"


class Rig:
    """A configuration of two backends, what a router over it answers, and what `check` says; nothing is made up."""

    def __init__(
        self, folder: Path, *, local: str = "", cloud: str = "", model: str = "sim:8b", more: str = ""
    ) -> None:
        self.local, self.cloud = local, cloud
        backends = [f'  local: {{type: ollama, url: "{local}"}}\n'] if local else []
        backends += [f'  cloud: {{type: openai, url: "{cloud}/v1", api_key: "{KEY}"}}\n'] if cloud else []
        deployment = f"{{backend: {'local' if local else 'cloud'}, model: '{model}', vram: 14GiB}}"
        other = deployment.replace(model, "sim:4b").replace("14GiB", "12GiB")
        models = f"models:\n  - {{name: chat, deployments: [{deployment}]}}\n"
        models += f"  - {{name: other, deployments: [{other}]}}\n" if local else ""
        retry = "retry: {base_delay: 1ms, max_delay: 1ms}"
        self.file = folder / "router.yaml"
        self.file.write_text(
            f"backends:\n{''.join(backends)}{models}"
            + (more or "vram: {monitor_enabled: false}\n")
            + ("" if "resilience" in more else f"resilience: {{{retry}}}\n")
        )
        self.told: list[str] = []

    def normal(self, text: str) -> str:
        """The text with the addresses and figures that the README shows in place of those of this run."""
        for url, shown in ((self.local, OLLAMA_URL), (self.cloud, CLOUD_URL)):
            text = text.replace(url, shown) if url else text
        text = re.sub(r"\b\d+ ms\b", "3 ms", text)
        return re.sub(r"within \d+\.\d s", "within 30.0 s", text)

    @contextlib.asynccontextmanager
    async def router(self) -> AsyncIterator[tuple[str, httpx.AsyncClient]]:
        router = SmartRouter(load_settings(file=self.file, environ={}))
        async with serve(router) as url, httpx.AsyncClient(timeout=20, trust_env=False) as client:
            yield url, client

    def note(self, response: httpx.Response) -> None:
        """Write down an answer as the README quotes it."""
        error = response.json()["error"]
        self.told.append(f"{error['code']} ({response.status_code}): {self.normal(error['message'])}")
        if "retry-after" in response.headers:
            self.told.append(f"Retry-After: {response.headers['retry-after']}")

    async def ask(self, model: str = "chat", **fields: Any) -> None:
        async with self.router() as (url, client):
            self.note(await client.post(f"{url}/v1/chat/completions", json=chat(model, **fields)))

    async def check(self) -> None:
        """Run the command, in this process but in a thread and event loop of its own."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            await asyncio.to_thread(main, ["check", "--config", str(self.file)])
        assert KEY not in out.getvalue()
        self.told += self.normal(out.getvalue()).splitlines()


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ROUTER_CONFIG", "ROUTER_PROVIDER", "ROUTER_OLLAMA_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(OllamaBackend, "unload_settle_s", 0.05)


@contextlib.contextmanager
def dead_url() -> Iterator[str]:
    """The URL of a port that is bound and refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def engine(**how: Any) -> SimulatedOllama:
    models = [
        SimulatedModel(name, size * GIB, kv_bytes=0, overhead_bytes=0, load_s=1.0, answer_tokens=200)
        for name, size in (("sim:8b", 14), ("sim:4b", 12))
    ]
    return SimulatedOllama(models, gpu_bytes=24 * GIB, time_scale=0.05, **how)


def always(status: int, body: bytes, extra: str = "") -> Callable[[Exchange], Awaitable[None]]:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(status, body, extra=extra)

    return script


async def connection(folder: Path) -> list[str]:
    with dead_url() as gone:
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                await client.get(gone)
        except httpx.ConnectError as exc:
            told = [f"httpx.ConnectError: {exc}"]
        client = openai.AsyncOpenAI(base_url=f"{gone}/v1", api_key="unused", max_retries=0)
        try:
            await client.models.list()
        except openai.APIConnectionError as exc:
            told.append(f"openai.APIConnectionError: {exc}")
        await client.close()
        rig = Rig(folder, local=gone)
        await rig.ask()
        await rig.ask("sim:1b")
        await rig.check()
    return told + rig.told


async def breaker(folder: Path) -> list[str]:
    with dead_url() as gone:
        rig = Rig(
            folder, local=gone, more="resilience: {circuit_breaker: {failure_threshold: 1}, retry: {enabled: false}}\n"
        )
        async with rig.router() as (url, client):
            for _ in range(2):
                response = await client.post(f"{url}/v1/chat/completions", json=chat())
            rig.note(response)
    return rig.told


async def missing(folder: Path) -> list[str]:
    async with engine() as ollama:
        rig = Rig(folder, local=ollama.base_url, model="sim:70b")
        await rig.ask()
        await rig.ask("sim:7b")
        await rig.check()
    return rig.told


async def slow(folder: Path) -> list[str]:
    async with engine() as ollama:
        rig = Rig(
            folder,
            local=ollama.base_url,
            more="resilience:\n  retry: {enabled: false}\n"
            "  timeouts: {first_token: 150ms, first_token_cold: 150ms, idle: 150ms}\n"
            "vram: {max_total: 20GiB}\n",
        )
        async with rig.router() as (url, client):
            assert (await client.post(f"{url}/v1/chat/completions", json=chat(max_tokens=1))).status_code == 200
            ollama.faults.once(Fault(stall="first_token"), path="/api/chat")
            rig.note(await client.post(f"{url}/v1/chat/completions", json=chat(stream=True)))
            ollama.faults.clear()
            ollama.faults.once(Fault(stall="mid_stream", after_tokens=1), path="/api/chat")
            response = await client.post(f"{url}/v1/chat/completions", json=chat(stream=True))
            rig.told.append(response.text.strip().splitlines()[-1])
            ollama.faults.clear()
        await rig.check()
    return rig.told


async def limited(folder: Path) -> list[str]:
    body = {"error": {"message": "Rate limit reached for requests", "type": "requests", "code": "rate_limit_exceeded"}}
    async with RawServer(always(429, json.dumps(body).encode(), "retry-after: 60\r\n")) as cloud:
        rig = Rig(folder, cloud=cloud.base_url)
        await rig.ask()
        await rig.check()
    return rig.told


async def container(folder: Path) -> list[str]:
    with dead_url() as gone:
        rig = Rig(folder, local=gone)
        await rig.ask()
        await rig.check()
    async with RawServer(always(403, b"")) as ollama:
        other = Rig(folder, local=ollama.base_url)
        await other.ask()
        await other.check()
    return rig.told + other.told


async def key(folder: Path) -> list[str]:
    body = b'{"error": {"message": "Incorrect API key provided: sk-canary-0123456789", "code": "invalid_api_key"}}'
    async with RawServer(always(401, body)) as cloud:
        rig = Rig(folder, cloud=cloud.base_url)
        await rig.ask()
        await rig.check()
    return rig.told


async def exhausted(folder: Path) -> list[str]:
    async with engine() as ollama:
        rig = Rig(folder, local=ollama.base_url, more="vram: {max_total: 8GiB}\n")
        await rig.ask()
        await rig.check()
    return rig.told


async def waited(folder: Path) -> list[str]:
    async with engine() as ollama:
        rig = Rig(folder, local=ollama.base_url, more="vram: {max_total: 20GiB, max_wait: 200ms}\n")
        async with rig.router() as (url, client):
            ollama.faults.once(Fault(stall="mid_stream", after_tokens=1), path="/api/chat")
            async with client.stream("POST", f"{url}/v1/chat/completions", json=chat(stream=True)) as first:
                lines = first.aiter_lines()  # kept: an iterator that is dropped closes its stream
                await anext(lines)
                rig.note(await client.post(f"{url}/v1/chat/completions", json=chat("other")))
            ollama.faults.clear()
        await rig.check()
    return rig.told


SCENARIOS: dict[str, Callable[[Path], Awaitable[list[str]]]] = {
    "All connection attempts failed": connection,
    "The breaker is open": breaker,
    "The model does not exist (404)": missing,
    "Slow answers, no first token (504)": slow,
    "Rate limits (429)": limited,
    "In a container": container,
    "The engine refuses the key (502)": key,
    "It does not fit into GPU memory (503 vram_exhausted)": exhausted,
    "Waiting for GPU memory took too long (503 vram_queue_timeout)": waited,
}


def test_each_entry_is_played():
    assert list(ENTRIES) == list(SCENARIOS)


@pytest.mark.parametrize("title", SCENARIOS)
async def test_what_is_quoted_is_what_is_printed(title: str, tmp_path: Path):
    """Line by line, but for addresses and figures."""
    told = await SCENARIOS[title](tmp_path)
    quoted = [line for block in ENTRIES.get(title, []) for line in block.splitlines() if not line.startswith("$ ")]
    missing = [line for line in quoted if line not in told]
    assert quoted, "\n".join(told)
    assert not missing, "\n".join(["quoted, not printed:", *missing, "printed:", *told])
