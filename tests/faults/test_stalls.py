"""The loop stands still for a while, or the whole process does: time in which nobody listened speaks against nobody."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path

import httpx

from ..cli.commands import serving
from ..harness.engines import DONE, ROLE, chunk, streaming
from ..harness.gateways import TOUCHY, gateway_over
from ..harness.routers import chat
from ..harness.servers import Exchange, RawServer
from ..harness.waiting import until

SHORT = {"first_token": "300ms", "idle": "300ms"}
STALL_S = 1.0
BEAT_S = 0.04
WORDS = [ROLE, *(chunk(f"{number} ") for number in range(20)), chunk(finish="stop"), DONE]


class Steady:
    """A healthy engine: thinks for two beats, then says a word at each."""

    def __init__(self) -> None:
        self.begun = 0
        """Streams that have had their second word."""

    async def __call__(self, exchange: Exchange) -> None:
        if not json.loads(exchange.body or b"{}").get("stream"):
            await exchange.answer(200, b'{"object": "list", "data": []}')
            return
        await asyncio.sleep(2 * BEAT_S)
        await exchange.start_stream()
        for number, event in enumerate(WORDS):
            self.begun += number == 3
            await exchange.chunk(event)
            await asyncio.sleep(BEAT_S)
        await exchange.end_stream()


async def test_row_68_a_blocked_loop_trips_no_clock_of_a_healthy_engine():
    """Streams that wait for their first token, and streams that run: all go on, and no breaker hears of it."""
    loop = asyncio.get_running_loop()
    steady = Steady()
    async with RawServer(steady) as one, RawServer(Steady()) as two:
        resilience = {"timeouts": SHORT, "retry": {"enabled": False}}
        async with gateway_over(one, two, resilience=resilience, serves_on=False) as gateway:
            streams = [asyncio.create_task(gateway.ask(stream=True)) for _ in range(8)]
            await one.seen(8)  # none of them has its first token
            loop.call_soon(time.sleep, STALL_S)
            await until(lambda: steady.begun == 8)  # all of them have one
            loop.call_soon(time.sleep, STALL_S)
            answers = await asyncio.gather(*streams)
            assert [answer.content for answer in answers] == [b"".join(WORDS)] * 8
            assert two.exchanges == []
            assert gateway.breaker("b1", "stream") == "closed"


async def test_row_68_an_engine_that_is_silent_besides_is_cut_off_all_the_same():
    """A stall is a grace, no pardon."""
    loop = asyncio.get_running_loop()
    async with RawServer(streaming(ROLE, chunk("Hel"), end="hang")) as engine:
        async with gateway_over(engine, resilience={"timeouts": SHORT}, serves_on=False) as gateway:
            url = f"{gateway.url}/v1/chat/completions"
            async with gateway.client.stream("POST", url, json=chat(stream=True)) as response:
                parts = response.aiter_text()
                text = await anext(parts)
                loop.call_soon(time.sleep, STALL_S)
                async with asyncio.timeout(5 * (STALL_S + 1.3)):
                    text += "".join([part async for part in parts])
            assert json.loads(text.split("data: ")[-1])["error"]["code"] == "upstream_idle_timeout"
            assert gateway.breaker("b1", "stream") == "open"


async def test_row_67_a_stopped_process_wakes_up_without_a_storm(tmp_path: Path, transport_name: str):
    """Its streams go on, its breakers are closed, and it asks its engines no more than it would have."""
    async with RawServer(Steady()) as engine:
        file = tmp_path / "router.yaml"
        settings = {
            "backends": {"b1": {"type": "openai", "url": f"{engine.base_url}/v1"}},
            "models": [{"name": "chat", "deployments": [{"backend": "b1", "model": "engine-model"}]}],
            "discovery": {"ttl": "200ms"},
            "transport": transport_name,
            "resilience": {"timeouts": SHORT, "retry": {"enabled": False}, "circuit_breaker": TOUCHY},
        }
        file.write_text(json.dumps(settings))
        async with serving("--config", str(file)) as served:
            async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
                before = len(engine.exchanges)
                streams = [
                    asyncio.create_task(client.post(f"{served.url}/v1/chat/completions", json=chat(stream=True)))
                    for _ in range(8)
                ]
                async with asyncio.timeout(10):
                    await engine.seen(before + 8)
                served.process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(STALL_S)
                served.process.send_signal(signal.SIGCONT)
                answers = await asyncio.gather(*streams)
                assert [answer.content for answer in answers] == [b"".join(WORDS)] * 8
                metrics = (await client.get(f"{served.url}/metrics")).text
                assert 'smartrouter_breaker_state{backend="b1",operation="stream"} 0.0' in metrics
                assert len(engine.exchanges) - before <= 8 + 3  # lists of models among them
