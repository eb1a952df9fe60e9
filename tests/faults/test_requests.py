"""What clients may send, and what they must not reach."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import time

import httpx
import pytest

from smartrouter_asgi import Catalog, ModelResolutionMiddleware, SmartRouter
from smartrouter_asgi._asgi import BodyLimits
from smartrouter_asgi.types import Secret

from ..harness.engines import ANSWER, chunk, good
from ..harness.routers import chat, router_over
from ..harness.servers import Exchange, RawServer, serve
from ..harness.sockets import connected, exchange, statuses_of

GOOD_BODY = json.dumps(chat()).encode()


async def post(body: bytes, headers: dict[str, str] | None = None) -> tuple[httpx.Response, int]:
    """Post bytes to a router over a healthy engine; return the answer and how often the engine was asked."""
    async with RawServer(good) as engine, serve(router_over(engine.base_url)) as url, httpx.AsyncClient() as client:
        response = await client.post(f"{url}/v1/chat/completions", content=body, headers=headers)
    return response, len(engine.exchanges)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b"nope", "invalid_json", None),
        (b"[]", "invalid_json", None),
        (b"\xef\xbb\xbf" + GOOD_BODY, "invalid_json", None),
        (gzip.compress(GOOD_BODY, mtime=0), "invalid_json", None),
        (rb'{"model": "\ud800", "messages": []}', "invalid_json", None),
        (GOOD_BODY[:-3], "invalid_json", None),
        (b'{"model": NaN, "messages": []}', "invalid_json", None),
        (b'{"a":' * 100_000, "invalid_json", None),
        (b'{"model": "chat", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json", None),
        (b'{"model": "chat", "messages": [{"role": "user", "content": "\xff"}]}', "invalid_json", None),
        (b'{"\xff": 1, "model": "chat", "messages": []}', "invalid_json", None),
        (b'{"model": "ch\xff", "messages": []}', "invalid_json", None),
        (b'{"messages": []}', "invalid_request", "model"),
        (b'{"model": "", "messages": []}', "invalid_request", "model"),
        (b'{"model": null, "messages": []}', "invalid_request", "model"),
        (b'{"model": 5, "messages": []}', "invalid_request", "model"),
        (b'{"model": ["chat"], "messages": []}', "invalid_request", "model"),
        (b'{"model": ' + b"9" * 5000 + b', "messages": []}', "invalid_request", "model"),
        (b'{"model": "chat"}', "invalid_request", "messages"),
        (b'{"model": "chat", "messages": "hi"}', "invalid_request", "messages"),
        (b'{"model": "chat", "messages": [], "stream": "yes"}', "invalid_request", "stream"),
        (b'{"model": "chat", "messages": [], "stream": 1}', "invalid_request", "stream"),
    ],
)
async def test_row_49_a_body_that_cannot_be_used_is_400_and_reaches_no_engine(
    body: bytes, code: str, param: str | None
):
    """Never 500, always fast, always naming the field."""
    started = time.monotonic()
    response, asked = await post(body)
    assert (response.status_code, response.json()["error"]["code"], response.json()["error"]["param"]) == (
        400,
        code,
        param,
    )
    assert asked == 0
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_row_49_a_content_type_does_not_matter(content_type: str):
    """The body is JSON or it is not; clients that say something else are many."""
    response, asked = await post(GOOD_BODY, {"content-type": content_type})
    assert (response.json(), asked) == (ANSWER, 1)


async def test_row_49_a_duplicated_key_cannot_split_what_is_checked_from_what_runs():
    """The last one counts, for the router and for the engine: only one goes on."""
    seen: list[bytes] = []

    async def script(exchange: Exchange) -> None:
        seen.append(exchange.body)
        await good(exchange)

    body = b'{"model": "secret-model", "messages": [], "model": "chat", "user": "a", "user": "b"}'
    async with RawServer(script) as engine, serve(router_over(engine.base_url)) as url, httpx.AsyncClient() as client:
        response = await client.post(f"{url}/v1/chat/completions", content=body)
    assert response.status_code == 200
    assert seen[0].count(b'"model"') == 1
    assert json.loads(seen[0]) == {"model": "engine-model", "messages": [], "user": "b"}


async def test_numbers_and_unknown_fields_reach_the_engine_as_they_were():
    """Values stay bytes: 1e400, 0.10 and long integers are nobody's business on the way."""
    body = (
        b'{"model":"chat","messages":[{"role":"user","content":"\\u00e9\\ud83d\\ude00"}],"seed":12345678901234567890123,'
        b'"temperature":0.10,"x_custom":{"deep":[1e400,null]}}'
    )
    seen: list[bytes] = []

    async def script(exchange: Exchange) -> None:
        seen.append(exchange.body)
        await good(exchange)

    async with RawServer(script) as engine, serve(router_over(engine.base_url)) as url, httpx.AsyncClient() as client:
        await client.post(f"{url}/v1/chat/completions", content=body)
    assert seen[0] == body.replace(b'"chat"', b'"engine-model"')


@pytest.mark.parametrize(
    "name", ["nope", "x" * 10_000, "../etc/passwd", "http://evil/x", "\x1b[31m", "<script>", "a\r\nb: c", "chat "]
)
async def test_row_50_an_unknown_model_is_404_and_its_name_goes_nowhere(name: str, caplog: pytest.LogCaptureFixture):
    """Looked up in a table, never sent upstream, and told to no log line but as `other`."""
    caplog.set_level(logging.DEBUG, "smartrouter_asgi")
    response, asked = await post(json.dumps(chat(name)).encode())
    lines = [record.getMessage() for record in caplog.records if record.name == "smartrouter_asgi.requests"]
    assert len(lines) == 1
    assert " chat other -> other 404 model_not_found " in lines[0]
    assert not any("\n" in record.getMessage() for record in caplog.records)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert len(response.content) < 1000
    assert asked == 0


async def test_an_unknown_model_names_near_ones():
    """A typo is told what was meant."""
    response, _ = await post(json.dumps(chat("chatt")).encode())
    assert "'chat'" in response.json()["error"]["message"]


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_row_48_a_client_that_is_still_sending_sees_the_413(http: str):
    """On a connection that is closed under it, it would see a reset, and send all of it again."""
    async with RawServer(good) as engine:
        async with serve(router_over(engine.base_url), http=http) as url, httpx.AsyncClient() as client:
            for _ in range(3):
                response = await client.post(f"{url}/v1/chat/completions", content=b"x" * 12_000_000)
                assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")
            assert (await client.post(f"{url}/v1/chat/completions", json=chat())).status_code == 200


@pytest.mark.parametrize("honest", [True, False])
async def test_row_48_a_body_over_the_limit_is_413_and_the_rest_is_not_read(honest: bool):
    """By its Content-Length at once, chunked as soon as it is over; the connection is then closed."""
    async with RawServer(good) as engine:
        router = router_over(engine.base_url, server={"max_body": "64KiB"})
        begin = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
        if honest:
            begin += b"content-length: 1000000000\r\n\r\n" + b"x" * 1000
        else:
            begin += b"transfer-encoding: chunked\r\n\r\n" + (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 2
        async with serve(router) as url:
            answer = await exchange(url, begin)
    assert statuses_of(answer) == [413]
    assert b"body_too_large" in answer
    assert engine.exchanges == []


async def test_row_47_a_body_that_drips_is_408():
    """A byte now and then wins no time, and nothing is held before the body is whole."""
    app = ModelResolutionMiddleware(_never, catalog=Catalog(), body=BodyLimits(timeout_s=0.3))
    async with serve(app) as url, connected(url) as (reader, writer):
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")

        async def drip() -> None:
            while True:
                writer.write(b"{")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        try:
            line = await asyncio.wait_for(reader.readline(), 5)
        finally:
            dripping.cancel()
        assert b" 408 " in line
        assert b"body_timeout" in await asyncio.wait_for(reader.read(), 5)


async def _never(scope, receive, send):
    raise AssertionError("no request gets here")


async def test_row_52_nothing_of_the_client_s_headers_reaches_the_engine():
    """Credentials are consumed, hop-by-hop headers and cookies dropped, the conversation id stripped."""
    async with RawServer(good) as engine, serve(router_over(engine.base_url)) as url, httpx.AsyncClient() as client:
        await client.post(
            f"{url}/v1/chat/completions",
            json=chat(),
            headers={
                "authorization": "Bearer client-canary",
                "x-api-key": "client-canary",
                "api-key": "client-canary",
                "cookie": "a=client-canary",
                "x-conversation-id": "client-canary",
                "x-forwarded-for": "client-canary",
                "connection": "authorization, x-foo",
                "x-foo": "client-canary",
                "keep-alive": "client-canary",
                "te": "client-canary",
                "proxy-authorization": "client-canary",
                "range": "bytes=7-canary",
                **{f"x-{number}": "client-canary" for number in range(1000)},
            },
        )
    assert b"client-canary" not in engine.exchanges[0].head
    assert b"authorization" not in engine.exchanges[0].head.lower()
    assert b"range" not in engine.exchanges[0].head.lower()
    assert len(engine.exchanges[0].head) < 1000


async def test_row_56_the_backend_s_key_shows_nowhere(caplog: pytest.LogCaptureFixture):
    """Not in errors, logs, metrics, health, admin or repr; nor does the engine's URL or the prompt."""
    caplog.set_level(logging.DEBUG, "smartrouter_asgi")
    begun = asyncio.Event()

    async def echoing(exchange: Exchange) -> None:
        key = exchange.header("authorization").removeprefix("Bearer ")
        error = {"error": {"message": f"bad {key} at {engine.base_url}/v1", "code": key, "param": f"\n{key}"}}
        if b'"stream": true' in exchange.body or b'"stream":true' in exchange.body:
            await exchange.start_stream()
            await exchange.chunk(chunk("Hel"))
            await begun.wait()
            await exchange.chunk(b"data: " + json.dumps(error).encode() + b"\n\n")
            await exchange.end_stream()
        else:
            await exchange.answer(400, json.dumps(error).encode())

    async with RawServer(echoing) as engine:
        router = router_over(engine.base_url)
        backend = router.settings.backends["b1"].model_copy(update={"api_keys": _secrets("canary7f3a9bQQ")})
        settings = router.settings.model_copy(update={"backends": {"b1": backend}})
        router = SmartRouter(settings)
        async with serve(router) as url, httpx.AsyncClient() as client:
            shown = [repr(router.backends), repr(settings)]
            for request in (chat(), chat(stream=True)):
                async with client.stream("POST", f"{url}/v1/chat/completions", json=request) as response:
                    text = ""
                    async for part in response.aiter_text():
                        text += part
                        begun.set()
                assert response.status_code == (200 if request.get("stream") else 400)
                assert "[key]" in text
                shown.append(text)
                begun.clear()
            for path in ("/health", "/metrics", "/admin/backends", "/admin/vram", "/v1/models"):
                shown.append((await client.get(f"{url}{path}")).text)
    assert b"Bearer canary7f3a9bQQ" in engine.exchanges[0].head
    everything = "\n".join([*shown, caplog.text])
    assert "canary7f3a9bQQ" not in everything
    assert engine.base_url.removeprefix("http://") not in "\n".join([*shown[2:], caplog.text])


def _secrets(*values: str):
    return tuple(Secret(value) for value in values)


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "hint"),
    [
        ("GET", "/v1/chat/completions", 405, "method_not_allowed", "POST"),
        ("DELETE", "/v1/models", 405, "method_not_allowed", "GET"),
        ("POST", "/v1/chat/completion", 404, "not_found", "/v1/chat/completions"),
        ("POST", "/v1/v1/chat/completions", 404, "not_found", "twice"),
        ("GET", "/v1/model", 404, "not_found", "/v1/models"),
        ("POST", "/", 404, "not_found", "/v1/chat/completions"),
        ("OPTIONS", "/v1/chat/completions", 405, "method_not_allowed", "POST"),
        ("PUT", "/v1/embeddings", 405, "method_not_allowed", "POST"),
    ],
)
async def test_row_54_a_wrong_path_or_method_names_the_right_one(
    method: str, path: str, status: int, code: str, hint: str
):
    """Always JSON in OpenAI's shape, and no engine is asked."""
    async with RawServer(good) as engine, serve(router_over(engine.base_url)) as url, httpx.AsyncClient() as client:
        response = await client.request(method, url + path)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert hint in error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    assert engine.exchanges == []
    if status == 405:
        assert hint in response.headers["allow"]


UPGRADE = (
    b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize(
    ("line", "extra", "statuses"),
    [
        (b"HEAD /v1/chat/completions", b"connection: close\r\n", {405}),
        (b"GET /v1/chat/completions", UPGRADE, {403}),
        (b"OPTIONS *", b"connection: close\r\n", {404}),
        (b"PRI *", b"connection: close\r\n", {404}),
    ],
    ids=["head", "websocket", "options *", "pri *"],
)
async def test_row_54_what_is_no_request_for_an_answer_reaches_no_engine(
    line: bytes, extra: bytes, statuses: set[int], http: str
):
    """Neither a head alone, nor a socket, nor the beginning of another protocol."""
    async with RawServer(good) as engine, serve(router_over(engine.base_url), http=http) as url:
        answer = await exchange(url, line + b" HTTP/1.1\r\nhost: x\r\n" + extra + b"\r\n")
    assert set(statuses_of(answer)) <= statuses | {400}, "the server may refuse by itself"
    assert answer
    assert engine.exchanges == []


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize(
    ("target", "hosts"),
    [
        (b"/admin/backends", b"host: localhost\r\nhost: evil.example\r\n"),
        (b"/admin/backends", b"host: evil.example\r\nhost: localhost\r\n"),
        (b"//admin/backends", b"host: evil.example\r\n"),
        (b"/v1/../admin/backends", b"host: evil.example\r\n"),
        (b"/%61dmin/backends", b"host: evil.example\r\n"),
        (b"admin/backends", b"host: evil.example\r\n"),
        (b"http://localhost/admin/backends", b"host: evil.example\r\n"),
    ],
)
async def test_row_51_no_way_of_writing_a_target_or_host_opens_what_is_closed(target: bytes, hosts: bytes, http: str):
    """Two hosts are none, and another way to the same path has the same guard."""
    async with RawServer(good) as engine, serve(router_over(engine.base_url), http=http) as url:
        answer = await exchange(url, b"GET " + target + b" HTTP/1.1\r\n" + hosts + b"connection: close\r\n\r\n")
    assert statuses_of(answer)[0] in (400, 403, 404)
    assert b'"b1"' not in answer


async def test_row_51_a_host_header_changes_no_decision():
    """Paths are decided on the path alone."""
    async with RawServer(good) as engine, serve(router_over(engine.base_url)) as url, httpx.AsyncClient() as client:
        for host in ("a/?x", "a/#", "evil.example"):
            response = await client.get(f"{url}/admin/backends", headers={"host": host})
            assert response.status_code == 403, host
            response = await client.post(f"{url}/v1/chat/completions", json=chat(), headers={"host": host})
            assert response.json() == ANSWER


async def test_a_request_id_is_kept_when_it_is_one():
    """Letters, digits, dot, dash, underscore, up to 128; anything else is replaced."""
    async with RawServer(good) as engine, serve(router_over(engine.base_url)) as url, httpx.AsyncClient() as client:
        for given, kept in (("abc-1.2_3", True), ("x" * 129, False), ("a b", False)):
            response = await client.post(f"{url}/v1/chat/completions", json=chat(), headers={"x-request-id": given})
            assert (response.headers["x-request-id"] == given) is kept
