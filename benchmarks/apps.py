"""The ASGI apps under test: nothing at all, the smallest proxy, the router."""

from __future__ import annotations

import asyncio
from typing import Any

from .answers import ANSWER, ENGINE_MODEL, LAST_EVENTS, MODEL, ROLE_EVENT, stamped_event, wanted

_PLAIN_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]
_STREAM_HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]


async def _body(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body


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


def router(engine: str) -> Any:
    """Make the router with its defaults and one remote OpenAI-compatible backend."""
    from smartrouter_asgi import Settings, SmartRouter

    settings = Settings.model_validate(
        {
            "backends": {"engine": {"type": "openai", "url": engine + "/v1"}},
            "models": [{"name": MODEL, "deployments": [{"backend": "engine", "model": ENGINE_MODEL}]}],
        }
    )
    return SmartRouter(settings)


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
