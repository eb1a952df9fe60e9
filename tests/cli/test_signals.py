"""Signals under `serve`: what runs gets its time, is told when that is over, and the command ends in time."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from smartrouter_asgi import Settings, SmartRouter
from smartrouter_asgi.cli.signals import SIGNALS, DrainingOnSignals, _SignalledDrain
from smartrouter_asgi.types import Receive, Scope, Send

from ..harness.engines import ROLE, STREAM, chunk, good
from ..harness.routers import chat
from ..harness.servers import Exchange, RawServer
from .commands import Served, serving

BOUND_S = 20.0
END = b"".join(STREAM[2:])


class Engine:
    """Short answers end once `finish` is set; long ones go on talking, idle ones say no more."""

    def __init__(self) -> None:
        self.finish = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        wanted = json.loads(exchange.body or b"{}").get("user")
        if wanted is None:
            await good(exchange)
            return
        await exchange.start_stream()
        await exchange.chunk(ROLE + chunk("Hel"))
        if wanted == "short":
            await self.finish.wait()
            await exchange.chunk(END)
            await exchange.end_stream()
        elif wanted == "long":
            while not exchange.writer.is_closing():
                await exchange.chunk(chunk(" and on"))
                await asyncio.sleep(0.05)
        else:
            await exchange.gone()


class Clients:
    """Streams that run, each on a connection of its own."""

    def __init__(self, client: httpx.AsyncClient, url: str) -> None:
        self.client = client
        self.url = f"{url}/v1/chat/completions"
        self.tasks: list[asyncio.Task[bytes]] = []

    async def begin(self, *users: str) -> None:
        """Return once all have had the beginning of their answer."""
        began = asyncio.Semaphore(0)

        async def read(user: str) -> bytes:
            body, waiting = b"", True
            fields = {"stream": True, "user": user}
            async with self.client.stream("POST", self.url, json=chat("engine-model", **fields)) as response:
                assert response.status_code == 200
                async for data in response.aiter_raw():
                    body += data
                    if waiting and b"Hel" in body:
                        waiting = False
                        began.release()
            return body

        self.tasks += [asyncio.create_task(read(user)) for user in users]
        async with asyncio.timeout(BOUND_S):
            for _ in users:
                await began.acquire()

    async def bodies(self) -> list[bytes]:
        return await asyncio.wait_for(asyncio.gather(*self.tasks), BOUND_S)


def config(tmp_path: Path, engine: RawServer, drain: str) -> str:
    file = tmp_path / "router.yaml"
    file.write_text(
        f'backends: {{box: {{type: openai, url: "{engine.base_url}/v1"}}}}\nresilience: {{drain: {{{drain}}}}}\n'
    )
    return str(file)


def patient_client() -> httpx.AsyncClient:
    """Each request on a connection of its own, as different clients have them."""
    return httpx.AsyncClient(
        trust_env=False, timeout=BOUND_S, limits=httpx.Limits(max_connections=100, max_keepalive_connections=0)
    )


async def not_ready(client: httpx.AsyncClient, url: str) -> httpx.Response:
    """Wait for readiness to end."""
    async with asyncio.timeout(BOUND_S):
        while (response := await client.get(f"{url}/readyz")).status_code == 200:
            await asyncio.sleep(0.01)
    return response


def told_once(body: bytes) -> bool:
    *_, last = body.decode().strip().split("\n\n")
    return (
        json.loads(last.removeprefix("data: "))["error"]["code"] == "gateway_draining"
        and body.count(b'"error"') == 1
        and b"[DONE]" not in body
    )


@pytest.mark.parametrize("workers", [1, 2])
async def test_row_59_sigterm_with_50_streams(workers: int, tmp_path: Path):
    """Readiness 503, nobody new, short ones finish, the others are told, exit in time with code 0."""
    script = Engine()
    async with RawServer(script) as engine:
        file = config(tmp_path, engine, "timeout: 2s, delay: 1s")
        async with serving("--config", file, "--workers", str(workers)) as served, patient_client() as client:
            clients = Clients(client, served.url)
            await clients.begin(*["short", "long", "idle"] * 16, "short", "long")
            began = time.monotonic()
            served.process.send_signal(signal.SIGTERM)
            ready = await not_ready(client, served.url)
            # each worker has heard by the time that many in a row are refused
            refused = [await ask_until_refused(client, served.url) for _ in range(2 * workers)]
            script.finish.set()
            bodies = await clients.bodies()
            outcome = await served.stop(signal.SIGCONT)
            took_s = time.monotonic() - began
    short, others = bodies[::3], [*bodies[1::3], *bodies[2::3]]
    assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
    for response in refused:
        assert (response.status_code, response.json()["error"]["code"]) == (503, "gateway_draining")
        assert int(response.headers["retry-after"]) >= 1
        assert response.headers["connection"] == "close"
    assert len(short) == 17
    assert all(body == b"".join(STREAM) for body in short)
    assert len(others) == 33
    assert all(told_once(body) for body in others)
    assert outcome.code == 0
    assert "Traceback" not in outcome.err
    assert took_s < 10  # the aim is 2 s, uvicorn's own limit would come after 8


async def ask_until_refused(client: httpx.AsyncClient, url: str) -> httpx.Response:
    """The supervisor tells its workers one after the other."""
    async with asyncio.timeout(BOUND_S):
        while True:
            response = await client.post(f"{url}/v1/chat/completions", json=chat("engine-model"))
            if response.status_code != 200:
                return response


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_second_signal_ends_it_at_once(workers: int, tmp_path: Path):
    async with RawServer(Engine()) as engine:
        file = config(tmp_path, engine, "timeout: 60s, delay: 60s")
        async with serving("--config", file, "--workers", str(workers)) as served, patient_client() as client:
            clients = Clients(client, served.url)
            await clients.begin("idle")
            served.process.send_signal(signal.SIGTERM)
            await all_not_ready(client, served, workers)
            began = time.monotonic()
            outcome = await served.stop(signal.SIGTERM)
            took_s = time.monotonic() - began
            ends = await asyncio.gather(*clients.tasks, return_exceptions=True)
    assert outcome.code == 0
    assert "Traceback" not in outcome.err
    assert took_s < 10
    assert isinstance(ends[0], httpx.RemoteProtocolError)


async def all_not_ready(client: httpx.AsyncClient, served: Served, workers: int) -> None:
    """Wait until every worker has heard: enough answers in a row say so."""
    in_a_row = 0
    async with asyncio.timeout(BOUND_S):
        while in_a_row < 10 * workers:
            response = await client.get(f"{served.url}/readyz")
            in_a_row = in_a_row + 1 if response.status_code == 503 else 0


INT, TERM = signal.SIGINT, signal.SIGTERM


@pytest.mark.parametrize(
    ("heard", "passed_on"),
    [
        ([TERM], []),
        ([INT], []),
        ([TERM, TERM], [TERM, INT]),
        ([TERM, INT], [TERM, INT]),
        ([INT, INT], [INT, INT]),
        ([INT, TERM], []),
        ([INT, TERM, INT], [INT, INT]),
    ],
)
async def test_what_the_server_hears_during_the_delay(heard: list[signal.Signals], passed_on: list[signal.Signals]):
    """Nothing of the first signal, all of one that insists.

    Ctrl-C at a supervisor is a SIGINT and then a SIGTERM to its workers: nobody insists.
    """
    router = SmartRouter(Settings.model_validate({"resilience": {"drain": {"delay": "60s"}}}))
    told: list[int] = []
    drain = _SignalledDrain(router, lambda number, _: told.append(number))
    try:
        for number in heard:
            drain.handle(number, None)
            await asyncio.sleep(0)
        assert router.draining
        assert told == passed_on
        assert drain.forced == bool(passed_on)
    finally:
        drain.close()
        await router.aclose()


async def test_the_servers_handlers_are_put_back():
    """Taken for the lifespan, and no longer."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    during = {}

    async def router(scope: Scope, receive: Receive, send: Send) -> None:
        during.update({number: signal.getsignal(number) for number in SIGNALS})

    app = DrainingOnSignals(cast(SmartRouter, router))
    await app({"type": "lifespan"}, no_message, no_message)
    assert all(during[number] != before[number] for number in SIGNALS)
    assert {number: signal.getsignal(number) for number in SIGNALS} == before
    await app({"type": "http"}, no_message, no_message)
    assert during == before


async def no_message(*message: Any) -> Any:
    raise AssertionError


async def test_it_listens_for_the_delay_though_nothing_runs(tmp_path: Path):
    """Probes and balancers are told; then it ends, though the drain would have had more time."""
    async with RawServer(good) as engine:
        file = config(tmp_path, engine, "timeout: 60s, delay: 1s")
        async with serving("--config", file) as served, patient_client() as client:
            began = time.monotonic()
            served.process.send_signal(signal.SIGTERM)
            await not_ready(client, served.url)
            answers = 0
            try:
                while time.monotonic() - began < BOUND_S:
                    assert (await client.get(f"{served.url}/readyz")).status_code == 503
                    answers += 1
                    await asyncio.sleep(0.05)
            except httpx.TransportError:
                listened_s = time.monotonic() - began
            outcome = await served.stop(signal.SIGCONT)
    assert answers >= 3
    assert listened_s >= 0.9
    assert listened_s < 10
    assert outcome.code == 0
    assert "Traceback" not in outcome.err
