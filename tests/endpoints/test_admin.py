"""Who may use the admin endpoints, and what the others say."""

from __future__ import annotations

import httpx
import pytest

from ..harness.engines import good
from ..harness.routers import chat, router_over
from ..harness.servers import RawServer, serve

KEY = "admin-key-canary"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": f"Bearer {KEY}"}, 200),
        ({"authorization": f"bearer {KEY}"}, 200),
        ({"authorization": f"Bearer {KEY}x"}, 401),
        ({"authorization": f"Basic {KEY}"}, 401),
        ({"authorization": KEY}, 401),
        ({"x-api-key": KEY}, 401),
        ({}, 401),
    ],
)
async def test_with_a_key_only_the_key_opens(headers: dict[str, str], status: int):
    """From anywhere, also from this machine; missing and wrong look alike."""
    async with RawServer(good) as engine, serve(router_over(engine.base_url, admin={"api_key": KEY})) as url:
        async with httpx.AsyncClient() as client:
            response = await client.get(f"{url}/admin/backends", headers=headers)
    assert response.status_code == status
    if status == 401:
        assert response.json()["error"]["code"] == "invalid_api_key"
    assert KEY not in response.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:1"}, 200),
        ({"host": "[::1]:80"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"x-forwarded-for": "1.2.3.4"}, 403),
        ({"forwarded": "for=1.2.3.4"}, 403),
        ({"x-real-ip": "1.2.3.4"}, 403),
    ],
)
async def test_without_a_key_only_this_machine_may(headers: dict[str, str], status: int):
    """By its own name and not through a proxy: a page whose name resolves to loopback does not get in."""
    async with RawServer(good) as engine, serve(router_over(engine.base_url)) as url, httpx.AsyncClient() as client:
        response = await client.get(f"{url}/admin/backends", headers=headers)
    assert response.status_code == status


async def test_health_tells_states_and_reasons_without_addresses():
    """200 while one answers, 503 when none does."""
    async with RawServer(good) as engine:
        async with serve(router_over(engine.base_url, "http://127.0.0.1:1")) as url, httpx.AsyncClient() as client:
            response = await client.get(f"{url}/health")
        async with serve(router_over("http://127.0.0.1:1")) as url, httpx.AsyncClient() as client:
            down = await client.get(f"{url}/health")
            alive = await client.get(f"{url}/healthz")
    assert response.status_code == 200
    states = response.json()["backends"]
    assert (states["b1"]["state"], states["b2"]["state"]) == ("up", "down")
    assert "cannot be reached" in states["b2"]["reason"]
    assert "127.0.0.1" not in response.text
    assert down.status_code == 503
    assert alive.status_code == 200


async def test_draining_takes_no_new_inference_and_says_so():
    """Readiness 503, new requests 503 with Retry-After; the rest goes on."""
    async with RawServer(good) as engine, serve(router_over(engine.base_url)) as url, httpx.AsyncClient() as client:
        assert (await client.get(f"{url}/readyz")).status_code == 200
        assert (await client.post(f"{url}/admin/drain")).json() == {"draining": True, "running": 0}
        assert (await client.get(f"{url}/readyz")).status_code == 503
        refused = await client.post(f"{url}/v1/chat/completions", json=chat())
        assert (await client.get(f"{url}/v1/models")).status_code == 200
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "gateway_draining")
    assert refused.headers["retry-after"]
    assert engine.paths == []


async def test_metrics_have_bounded_labels():
    """Names from configuration only: what clients send never becomes a series."""
    async with RawServer(good) as engine, serve(router_over(engine.base_url)) as url, httpx.AsyncClient() as client:
        for name in ("chat", "nope-1", "nope-2", "<script>"):
            await client.post(f"{url}/v1/chat/completions", json=chat(name))
        await client.get(f"{url}/some/path")
        text = (await client.get(f"{url}/metrics")).text
    assert 'smartrouter_requests_total{backend="b1",endpoint="chat",model="chat",outcome="ok"} 1.0' in text
    assert (
        'smartrouter_requests_total{backend="other",endpoint="chat",model="other",outcome="model_not_found"} 3.0'
        in text
    )
    assert 'smartrouter_attempts_total{backend="b1",operation="chat",outcome="ok"} 1.0' in text
    assert 'smartrouter_tokens_total{backend="b1",kind="completion",model="chat"} 1.0' in text
    assert 'smartrouter_inflight{backend="b1"} 0.0' in text
    for unknown in ("nope", "script", "some"):
        assert unknown not in text


async def test_an_engine_that_cannot_unload_says_so():
    """200 with a reason, not an error."""
    async with RawServer(good) as engine, serve(router_over(engine.base_url)) as url, httpx.AsyncClient() as client:
        response = await client.post(f"{url}/admin/models/chat/unload")
    assert response.status_code == 200
    assert response.json()["unloaded"] is False
    assert response.json()["reason"]


async def test_model_ids_with_slashes_work():
    """`org/model` in a path is one id."""
    async with RawServer(good) as engine:
        router = router_over(engine.base_url, aliases={"org/model": "chat"})
        async with serve(router) as url, httpx.AsyncClient() as client:
            for path in ("/v1/models/org/model", "/v1/models/org%2Fmodel", "/models/chat"):
                response = await client.get(url + path)
                assert response.status_code == 200, path
                assert response.json()["object"] == "model"
            missing = await client.get(f"{url}/v1/models/org/none")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_refresh_shows_a_new_model_at_once():
    """Without waiting for the list to grow old."""
    async with RawServer(good) as engine:
        router = router_over(engine.base_url, discovery={"enabled": True, "ttl": "1h"})
        async with serve(router) as url, httpx.AsyncClient() as client:
            response = await client.post(f"{url}/admin/models/refresh")
    assert response.json()["models"] == ["chat", "engine-model"]


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"x-forwarded-proto": "https"},
        {"cf-connecting-ip": "1.2.3.4"},
    ],
)
async def test_a_page_in_the_operator_s_browser_cannot_drain_the_gateway(headers: dict[str, str]):
    """A request that another site makes comes from this machine too, and is refused all the same."""
    async with RawServer(good) as engine, serve(router_over(engine.base_url)) as url, httpx.AsyncClient() as client:
        assert (await client.post(f"{url}/admin/drain", headers=headers)).status_code == 403
        assert (await client.get(f"{url}/readyz")).status_code == 200
        assert (await client.get(f"{url}/admin/backends", headers={"origin": url})).status_code == 200
