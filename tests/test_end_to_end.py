"""The main job over real sockets: a client, uvicorn, the router, an engine."""

from __future__ import annotations

import json

import httpx
import pytest

from .harness.engines import ANSWER, STREAM, good
from .harness.routers import chat, router_over
from .harness.servers import RawServer, serve


async def test_plain_answer_passes_byte_for_byte():
    """What the engine answers is what the client gets."""
    async with RawServer(good) as engine, serve(router_over(engine.base_url)) as url, httpx.AsyncClient() as client:
        response = await client.post(f"{url}/v1/chat/completions", json=chat())
    assert response.status_code == 200
    assert response.content == json.dumps(ANSWER).encode()
    assert response.headers["x-smartrouter-backend"] == "b1"
    assert response.headers["x-smartrouter-model"] == "engine-model"
    assert response.headers["x-smartrouter-attempts"] == "1"
    assert response.headers["x-request-id"]


async def test_stream_passes_byte_for_byte():
    """The engine's events reach the client as the bytes they were."""
    async with RawServer(good) as engine, serve(router_over(engine.base_url)) as url, httpx.AsyncClient() as client:
        response = await client.post(f"{url}/v1/chat/completions", json=chat(stream=True))
    assert response.status_code == 200
    assert response.content == b"".join(STREAM)
    assert response.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize("prefix", ["/v1", ""])
async def test_paths_work_with_and_without_version(prefix: str):
    """`/v1` is optional."""
    async with RawServer(good) as engine, serve(router_over(engine.base_url)) as url, httpx.AsyncClient() as client:
        response = await client.post(f"{url}{prefix}/chat/completions", json=chat())
        listed = await client.get(f"{url}{prefix}/models")
    assert response.status_code == 200
    assert [m["id"] for m in listed.json()["data"]] == ["chat"]
