"""The connections alone: an OpenAI SDK client that speaks over the ones the gateway uses, without the gateway.

    ENGINE_URL=http://127.0.0.1:11434/v1 MODEL=llama3.1:8b python examples/07_openai_sdk.py

Any `httpx.AsyncClient` takes `DirectHTTPXTransport` as its `transport`: HTTP/1.1 over asyncio's own connections, for a
fraction of what httpx's cost. There is no HTTP/2 and no proxy in it.
"""

from __future__ import annotations

import asyncio
import os

import httpx
from openai import AsyncOpenAI

from smartrouter_asgi import DirectHTTPXTransport


async def main() -> str:
    base_url = os.environ.get("ENGINE_URL", "http://127.0.0.1:11434/v1")
    model = os.environ.get("MODEL", "llama3.1:8b")
    text = ""
    async with httpx.AsyncClient(transport=DirectHTTPXTransport(connect_timeout_s=5.0)) as http_client:
        client = AsyncOpenAI(
            base_url=base_url, api_key=os.environ.get("ENGINE_API_KEY", "none"), http_client=http_client
        )
        stream = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Say hello."}], stream=True
        )
        async for chunk in stream:  # leave this loop early, and the engine stops: the connection is closed
            for choice in chunk.choices:
                text += choice.delta.content or ""
    return text


if __name__ == "__main__":
    print(asyncio.run(main()))
