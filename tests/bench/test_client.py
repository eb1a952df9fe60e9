"""One connection of the load, over real sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time

import pytest
import trustme

from smartrouter_asgi.bench import client
from smartrouter_asgi.bench.client import CutOffError, Line, Target
from smartrouter_asgi.bench.reading import read
from smartrouter_asgi.exceptions import AttemptError

from ..harness.engines import DONE, ROLE, STREAM, chunk, good, silent, streaming
from ..harness.servers import Exchange, RawServer

BOUND_S = 20.0
BODY = b'{"stream": true}'


def target(base_url: str) -> Target:
    return Target(url=f"{base_url}/v1/chat/completions", headers=[(b"authorization", b"Bearer sk-1")], model="m")


async def test_it_keeps_its_connection_and_reads_whole_streams():
    async with RawServer(good) as server:
        line = Line(target(server.base_url))
        answers = [await line.ask(BODY, timeout_s=BOUND_S) for _ in range(3)]
        line.close()
    assert server.connections == 1
    assert [exchange.body for exchange in server.exchanges] == [BODY] * 3
    assert server.exchanges[0].header("authorization") == "Bearer sk-1"
    for answer in answers:
        assert answer.body == b"".join(STREAM)
        assert answer.sent_at < answer.parts[0][0] <= answer.ended_at
        assert read(answer, target("http://engine")).events == 2


async def test_times_are_those_of_arrival():
    """Each part has the time at which it came, though all are read at the end."""
    go_on = asyncio.Event()
    spoken_at = []

    async def script(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.chunk(ROLE)
        await go_on.wait()
        for word in ("a", "b"):
            await asyncio.sleep(0.02)  # what is measured is time that passes
            spoken_at.append(time.perf_counter())
            await exchange.chunk(chunk(word))
        await exchange.chunk(DONE)
        await exchange.end_stream()

    async with RawServer(script) as server:
        line = Line(target(server.base_url))
        asked = asyncio.create_task(line.ask(BODY, timeout_s=BOUND_S))
        await server.seen(1)
        go_on.set()
        answer = await asked
        line.close()
    found = read(answer, target("http://engine"))
    assert found.ttft_s >= spoken_at[0] - answer.sent_at
    assert found.gaps_s[0] >= 0.01
    assert found.total_s >= found.ttft_s + found.gaps_s[0]


async def test_a_connection_that_was_closed_meanwhile_is_replaced():
    """The engine's right, and no failure: the clock starts anew on a fresh one."""
    closed = []

    async def once(exchange: Exchange) -> None:
        await good(exchange)
        closed.append(exchange)
        exchange.writer.close()

    async with RawServer(once) as server:
        line = Line(target(server.base_url))
        for _ in range(3):
            assert (await line.ask(BODY, timeout_s=BOUND_S)).status == 200
        line.close()
    assert server.connections == 3


async def test_a_connection_that_has_waited_is_made_anew(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client, "IDLE_S", 0.0)
    async with RawServer(good) as server:
        line = Line(target(server.base_url))
        for _ in range(2):
            await line.ask(BODY, timeout_s=BOUND_S)
        line.close()
    assert server.connections == 2


@pytest.mark.parametrize("end", ["half", "rst"])
async def test_an_answer_that_breaks_off_is_an_error(end: str):
    async with RawServer(streaming(ROLE, chunk("Hel"), end=end)) as server:
        line = Line(target(server.base_url))
        with pytest.raises(CutOffError):
            await line.ask(BODY, timeout_s=BOUND_S)
        line.close()


async def test_a_server_that_only_closes_is_asked_once():
    async def hang_up(exchange: Exchange) -> None:
        exchange.writer.close()

    async with RawServer(hang_up) as server:
        line = Line(target(server.base_url))
        with pytest.raises(CutOffError):
            await line.ask(BODY, timeout_s=BOUND_S)
    assert len(server.exchanges) == 1


async def test_an_engine_that_says_nothing_is_given_up_and_let_go():
    async with RawServer(silent) as server:
        line = Line(target(server.base_url))
        with pytest.raises(TimeoutError):
            await line.ask(BODY, timeout_s=0.05)
        exchange = await server.seen(1)
        await asyncio.wait_for(exchange.closed.wait(), BOUND_S)


async def test_nobody_there_is_an_error_in_words():
    with socket.socket() as bound:  # and it does not listen
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(AttemptError, match="cannot be reached"):
            await Line(target(url)).ask(BODY, timeout_s=BOUND_S)


async def test_engines_behind_tls():
    """By the authorities that the router trusts; here by one of the test's own."""
    authority = trustme.CA()
    at_server, at_client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(at_server)
    authority.configure_trust(at_client)
    async with RawServer(good, tls=at_server) as server:
        line = Line(target(server.base_url), tls=at_client)
        assert (await line.ask(BODY, timeout_s=BOUND_S)).body == b"".join(STREAM)
        line.close()
        with pytest.raises(AttemptError, match="TLS"):
            await Line(target(server.base_url)).ask(BODY, timeout_s=BOUND_S)


def test_a_target_does_not_show_its_key():
    assert "sk-1" not in repr(target("http://engine"))
