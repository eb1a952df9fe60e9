"""The direct lane as a transport of httpx: for an `AsyncClient`, and for the openai SDK that is given one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest

from smartrouter_asgi import DirectHTTPXTransport
from smartrouter_asgi.transport.direct import dial

from ..harness.engines import ANSWER, good, silent
from ..harness.routers import MESSAGES
from ..harness.servers import Exchange, RawServer
from ..harness.waiting import until
from .lanes import HELLO, writing


@asynccontextmanager
async def clients(**options: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=DirectHTTPXTransport(), **options) as client:
        yield client


async def test_the_openai_sdk_speaks_through_it():
    """Plain and streamed, over one connection; what the SDK closes early is closed."""
    async with RawServer(good) as server:
        async with clients() as http_client:
            sdk = openai.AsyncOpenAI(
                base_url=f"{server.base_url}/v1", api_key="k", http_client=http_client, max_retries=0
            )
            answer = await sdk.chat.completions.create(model="chat", messages=MESSAGES)
            assert answer.choices[0].message.content == ANSWER["choices"][0]["message"]["content"]
            stream = await sdk.chat.completions.create(model="chat", messages=MESSAGES, stream=True)
            assert "".join([piece.choices[0].delta.content or "" async for piece in stream]) == "Hello"
            assert [model.id async for model in sdk.models.list()] == ["engine-model"]
            assert server.connections == 1
            assert server.exchanges[0].header("authorization") == "Bearer k"

            async def endless(exchange: Exchange) -> None:
                await exchange.start_stream()
                await exchange.chunk(b'data: {"choices":[]}\n\n')
                await exchange.gone()

            server.script = endless
            async with await sdk.chat.completions.create(model="chat", messages=MESSAGES, stream=True) as stream:
                await anext(stream)
            await asyncio.wait_for(server.exchanges[-1].closed.wait(), 5)
            server.script = good
            await sdk.models.list()
            assert server.open_connections == 1
        await until(lambda: server.open_connections == 0, within_s=2)  # long before it is too old


async def test_it_sends_what_httpx_would():
    """Target, headers and body, and content that comes in pieces as one."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"some "
        yield b"text"

    async with RawServer(writing(HELLO)) as server, clients() as direct, httpx.AsyncClient() as plain:
        for client in (direct, plain):
            url = httpx.URL(f"{server.base_url}/a b/%2F?q=ü", username="user", password="secret")
            assert (await client.put(url, json={"a": 1}, headers={"X-Own": "1"})).text == "hello"
            assert (await client.get(f"{server.base_url}/?x", headers={"connection": "close"})).text == "hello"
        assert (await direct.post(server.base_url, content=pieces())).text == "hello"
        ours, theirs = ([exchange.head.lower() for exchange in server.exchanges[at : at + 2]] for at in (0, 2))
        assert [sorted(head.split(b"\r\n")) for head in ours] == [sorted(head.split(b"\r\n")) for head in theirs]
        assert [exchange.body for exchange in server.exchanges] == [b'{"a":1}', b"", b'{"a":1}', b"", b"some text"]


def hung(server: RawServer) -> str:
    server.script = silent
    return server.base_url


def closing(server: RawServer) -> str:
    server.script = writing(then="fin")
    return server.base_url


def cutting(server: RawServer) -> str:
    server.script = writing(HELLO[:-2], then="fin")
    return server.base_url


def babbling(server: RawServer) -> str:
    server.script = writing(b"no HTTP\r\n\r\n")
    return server.base_url


def stalling(server: RawServer) -> str:
    async def script(exchange: Exchange) -> None:
        await exchange.write(HELLO[:-2])
        await exchange.gone()

    server.script = script
    return server.base_url


def absent(server: RawServer) -> str:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        return f"http://127.0.0.1:{gone.getsockname()[1]}"


@pytest.mark.parametrize(
    ("where", "error"),
    [
        (hung, httpx.ReadTimeout),
        (stalling, httpx.ReadTimeout),
        (closing, httpx.ReadError),
        (cutting, httpx.ReadError),
        (babbling, httpx.RemoteProtocolError),
        (absent, httpx.ConnectError),
    ],
)
async def test_what_fails_is_raised_as_httpx_does(where: Callable[[RawServer], str], error: type[httpx.HTTPError]):
    """With the request, and nothing is left of it."""
    transport = DirectHTTPXTransport(connect_timeout_s=0.2)
    async with RawServer(silent) as server:
        async with httpx.AsyncClient(transport=transport, timeout=0.1) as client:
            with pytest.raises(error) as caught:
                await client.post(where(server))
            assert type(caught.value) is error
            assert caught.value.request.method == "POST"
            await until(lambda: not transport._transport.busy)


@pytest.mark.parametrize("where", [hung, stalling])
async def test_a_request_that_is_cancelled_leaves_nothing(where: Callable[[RawServer], str]):
    """In whatever way, before its head and in its body."""
    transport = DirectHTTPXTransport()
    async with RawServer(silent) as server, httpx.AsyncClient(transport=transport, timeout=20) as client:
        for number in range(20):
            before = len(server.exchanges)
            task = asyncio.create_task(client.post(where(server)))
            if number % 2:
                await server.seen(before + 1)
            await asyncio.sleep(0.001 * (number % 5))
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
        await until(lambda: not transport._transport.busy)
        await until(lambda: server.open_connections == 0)


async def test_a_connection_that_takes_too_long_is_a_connect_timeout(monkeypatch: pytest.MonkeyPatch):
    """Which may be tried again, for nothing was sent."""

    async def never(host: str, port: int) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(dial, "resolve", never)
    async with httpx.AsyncClient(transport=DirectHTTPXTransport(connect_timeout_s=0.05)) as client:
        with pytest.raises(httpx.ConnectTimeout):
            await client.get("http://engine/")
