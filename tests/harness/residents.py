"""Engines that hold a card's memory and can be told to let go of it, as scripts for `RawServer`."""

from __future__ import annotations

import asyncio
import json

from .cards import Card, OutOfMemoryError
from .engines import good
from .servers import Exchange

OOM = b'{"error": {"message": "CUDA out of memory", "type": "InternalServerError", "code": 500}}'


class SleepingVLLM:
    """A vLLM server of one model, started with its sleep mode: it holds `size_bytes` of the card while it is awake.

    `wrong` lists what a real one would have suffered from: a request while it slept, a sleep while it worked. A
    request gets its answer once `free` is set, it wakes once `may_wake` is; they are, unless a test clears them.
    """

    def __init__(self, card: Card, size_bytes: int, *, model: str = "engine-model", name: str = "vllm") -> None:
        self.card = card
        self.size_bytes = size_bytes
        self.model = model
        self.name = name
        self.awake = False
        self.busy = 0
        self.log: list[str] = []
        self.wrong: list[str] = []
        self.free = asyncio.Event()
        self.free.set()
        self.may_wake = asyncio.Event()
        self.may_wake.set()
        self.waking = False
        self.refuses_to_sleep = False

    async def __call__(self, exchange: Exchange) -> None:
        path = exchange.path.partition("?")[0]
        if path == "/health":
            await exchange.answer(200, b"")
        elif path == "/v1/models":
            listed = {"object": "list", "data": [{"id": self.model, "object": "model", "owned_by": "vllm"}]}
            await exchange.answer(200, json.dumps(listed).encode())
        elif path == "/is_sleeping":
            await exchange.answer(200, b'{"is_sleeping": %s}' % (b"false" if self.awake else b"true"))
        elif path == "/wake_up":
            await self._wake(exchange)
        elif path == "/sleep":
            await self._sleep(exchange)
        else:
            await self._serve(exchange)

    async def _wake(self, exchange: Exchange) -> None:
        self.log.append("wake")
        self.waking = True
        await self.may_wake.wait()
        self.waking = False
        try:
            self.card.take(self.name, self.size_bytes)
        except OutOfMemoryError:
            await exchange.answer(500, OOM)
            return
        self.awake = True
        await exchange.answer(200, b"")

    async def _sleep(self, exchange: Exchange) -> None:
        self.log.append("sleep")
        if self.busy:
            self.wrong.append("put to sleep at work")
        if self.refuses_to_sleep:
            await exchange.answer(500, b'{"error": {"message": "cannot sleep"}}')
            return
        self.awake = False
        self.card.give_back(self.name)
        await exchange.answer(200, b"")

    async def _serve(self, exchange: Exchange) -> None:
        self.log.append("chat")
        if not self.awake:
            self.wrong.append("asked while asleep")
        self.busy += 1
        try:
            await self.free.wait()
            await good(exchange)
        finally:
            self.busy -= 1


class Service:
    """An in-house engine: an ASGI app that answers, and the callbacks that bring its models in and out."""

    def __init__(self, card: Card, sizes: dict[str, int]) -> None:
        self.card = card
        self.sizes = sizes
        self.loaded: set[str] = set()
        self.log: list[str] = []

    async def load(self, model: str) -> None:
        self.log.append(f"load {model}")
        self.card.take(f"service {model}", self.sizes[model])
        self.loaded.add(model)

    async def unload(self, model: str) -> None:
        self.log.append(f"unload {model}")
        self.loaded.discard(model)
        self.card.give_back(f"service {model}")

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        model = scope["path"].rpartition("/")[2]
        status = 200 if model in self.loaded else 500
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})
