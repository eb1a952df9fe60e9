"""The ASGI apps under test: nothing at all, proxies as people write them, the router."""

from __future__ import annotations

import asyncio
from typing import Any

from .answers import ANSWER, CHAT_PATH, ENGINE_MODEL, LAST_EVENTS, MODEL, ROLE_EVENT, stamped_event, wanted

_PLAIN_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]
_STREAM_HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]


async def _body(receive: Any) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _until_gone(receive: Any, cancel_scope: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    cancel_scope.cancel()


def hello(engine: str) -> Any:
    """Make an app that answers by itself what the engine would: the floor of any Python gateway under uvicorn."""
    from time import monotonic_ns

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        stream = wanted(await _body(receive))
        if stream is None:
            await send({"type": "http.response.start", "status": 200, "headers": _PLAIN_HEADERS})
            await send({"type": "http.response.body", "body": ANSWER})
            return
        chunks, pace_s = stream
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        await send({"type": "http.response.body", "body": ROLE_EVENT, "more_body": True})
        gone = asyncio.create_task(receive())
        for number in range(chunks):
            if pace_s and number:
                await asyncio.sleep(pace_s)
                if gone.done():
                    return
            await send({"type": "http.response.body", "body": stamped_event(monotonic_ns()), "more_body": True})
        gone.cancel()
        await send({"type": "http.response.body", "body": LAST_EVENTS})

    return app


def proxy(engine: str) -> Any:
    """Make the smallest proxy over httpx: read, replace the name, relay, stop when the client leaves. No layers."""
    import anyio
    import httpx
    import msgspec

    fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
    client = httpx.AsyncClient(
        trust_env=False, timeout=None, limits=httpx.Limits(max_connections=None, max_keepalive_connections=100)
    )
    headers = [(b"content-type", b"application/json"), (b"accept-encoding", b"identity")]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = msgspec.json.encode({**fields.decode(await _body(receive)), "model": ENGINE_MODEL})
        request = httpx.Request("POST", engine + scope["path"], headers=headers, content=body)
        with anyio.CancelScope() as cancel_scope:
            watcher = asyncio.create_task(_until_gone(receive, cancel_scope))
            response = await client.send(request, stream=True)
            try:
                kept = [(k.lower(), v) for k, v in response.headers.raw if k.lower() != b"transfer-encoding"]
                await send({"type": "http.response.start", "status": response.status_code, "headers": kept})
                async for chunk in response.aiter_raw():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            finally:
                with anyio.CancelScope(shield=True):
                    await response.aclose()
            watcher.cancel()
            await send({"type": "http.response.body", "body": b""})

    return app


def openai_endpoint(engine: str) -> Any:
    """Make a proxy as people write it: the openai client inside a Starlette endpoint."""
    import openai
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    client = openai.AsyncOpenAI(base_url=engine + "/v1", api_key="unused")

    async def chat(request: Request) -> Response:
        answer: Any = await client.chat.completions.create(**{**await request.json(), "model": ENGINE_MODEL})
        if isinstance(answer, openai.AsyncStream):
            return StreamingResponse(_events(answer), media_type="text/event-stream")
        return JSONResponse(answer.model_dump())

    async def _events(stream: Any) -> Any:
        async for chunk in stream:
            yield f"data: {chunk.model_dump_json()}\n\n"
        yield "data: [DONE]\n\n"

    return Starlette(routes=[Route(CHAT_PATH, chat, methods=["POST"])])


def router_settings(engine: str, **settings: Any) -> dict[str, Any]:
    """Return the settings of a router with one remote OpenAI-compatible backend and defaults elsewhere."""
    return {
        "backends": {"engine": {"type": "openai", "url": engine + "/v1"}},
        "models": [{"name": MODEL, "deployments": [{"backend": "engine", "model": ENGINE_MODEL}]}],
        **settings,
    }


def router(engine: str, **settings: Any) -> Any:
    """Make the router with its defaults and one remote OpenAI-compatible backend."""
    from smartrouter_asgi import Settings, SmartRouter

    return SmartRouter(Settings.model_validate(router_settings(engine, **settings)))


def router_direct(engine: str) -> Any:
    """Make the router with connections of its own."""
    return router(engine, transport="direct")


def router_httpx(engine: str) -> Any:
    """Make the router over httpx."""
    return router(engine, transport="httpx")


def configured(settings: str) -> Any:
    """Make a router with settings, given as JSON."""
    import json

    from smartrouter_asgi import Settings, SmartRouter

    return SmartRouter(Settings.model_validate(json.loads(settings)))


def router_log(engine: str) -> Any:
    """Make the same router with its one INFO line for each request, written to nowhere."""
    import logging
    import os

    handler = logging.StreamHandler(open(os.devnull, "w"))  # noqa: SIM115 - open as long as the process
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger = logging.getLogger("smartrouter_asgi")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    return router(engine)
