"""TLS on the direct lane: verified always, by the authorities that httpx trusts."""

from __future__ import annotations

import datetime
import ssl
from typing import Any

import httpx
import pytest
import trustme

from smartrouter_asgi.exceptions import AttemptError, FailureKind
from smartrouter_asgi.transport.direct.tls import default_context

from ..harness.loops import on_both_loops
from ..harness.servers import Exchange, RawServer
from ..harness.waiting import until
from .lanes import HELLO, fetch, lane, writing

AUTHORITY = trustme.CA()


def at_server(name: str = "127.0.0.1", **certificate: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(name, **certificate).configure_cert(context)
    return context


def at_client() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


def test_it_trusts_whom_httpx_trusts(monkeypatch: pytest.MonkeyPatch, tmp_path: Any):
    """Whatever the environment says; certificate and host name are checked."""
    own = tmp_path / "own.pem"
    AUTHORITY.cert_pem.write_to_path(str(own))
    monkeypatch.setenv("SSL_CERT_FILE", str(own))
    default_context.cache_clear()
    ours, theirs = default_context(), httpx.create_ssl_context(trust_env=False)
    assert ours.get_ca_certs(binary_form=True) == theirs.get_ca_certs(binary_form=True)
    assert (ours.verify_mode, ours.check_hostname) == (ssl.CERT_REQUIRED, True)


@on_both_loops
async def test_a_connection_is_used_again_under_tls():
    """And closed when it is given up, idle or not."""
    async with RawServer(writing(HELLO), tls=at_server()) as server:
        async with lane(tls=at_client()) as transport:
            for body in (b"{}", b"x" * 3_000_000):
                assert await fetch(transport, server.base_url, body) == b"hello"
                assert server.exchanges[-1].body == body
            assert server.connections == 1
        await until(lambda: server.open_connections == 0)


@on_both_loops
async def test_much_comes_whole_under_tls():
    """Reading is paused and resumed there too."""
    body = bytes(range(256)) * 20_000
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    async with RawServer(writing(answer), tls=at_server()) as server, lane(tls=at_client()) as transport:
        assert await fetch(transport, server.base_url) == body
        assert await fetch(transport, server.base_url) == body


async def plain_words(exchange: Exchange) -> None:
    await exchange.reader.read(1)
    await exchange.answer(400, b"no")
    exchange.writer.close()


async def fin(exchange: Exchange) -> None:
    exchange.writer.close()


async def rst(exchange: Exchange) -> None:
    exchange.reset()


@on_both_loops
@pytest.mark.parametrize("greet", [plain_words, fin, rst])
async def test_row_3_a_handshake_that_fails_is_upstream_tls(greet: Any):
    """However it fails, nothing was sent."""
    async with RawServer(writing(HELLO), greet=greet) as server, lane(tls=at_client()) as transport:
        with pytest.raises(AttemptError) as caught:
            await fetch(transport, server.base_url.replace("http:", "https:"))
        assert (caught.value.kind, caught.value.code) == (FailureKind.CONNECT, "upstream_tls")
        assert server.exchanges == []


@on_both_loops
@pytest.mark.parametrize(
    ("certificate", "trusting"),
    [
        ({}, False),
        ({"name": "other.example"}, True),
        ({"not_after": datetime.datetime(2020, 1, 1), "not_before": datetime.datetime(2019, 1, 1)}, True),
        ({"not_before": datetime.datetime(2100, 1, 1), "not_after": datetime.datetime(2101, 1, 1)}, True),
    ],
    ids=["whose", "name", "expired", "not yet"],
)
async def test_row_3_a_certificate_that_does_not_fit_is_never_taken(certificate: dict[str, Any], trusting: bool):
    """Neither one that nobody vouches for, nor one for another name or another time."""
    async with RawServer(writing(HELLO), tls=at_server(**certificate)) as server:
        async with lane(tls=at_client() if trusting else None) as transport:
            for _ in range(2):
                with pytest.raises(AttemptError) as caught:
                    await fetch(transport, server.base_url)
                assert (caught.value.kind, caught.value.code) == (FailureKind.CONNECT, "upstream_tls")
            assert server.exchanges == []


@on_both_loops
async def test_the_clock_of_connecting_covers_the_handshake():
    """A server that takes the connection and says nothing."""

    async def mute(exchange: Exchange) -> None:
        await exchange.gone()

    async with RawServer(writing(HELLO), greet=mute) as server:
        async with lane(tls=at_client(), connect_timeout_s=0.1) as transport:
            with pytest.raises(AttemptError) as caught:
                await fetch(transport, server.base_url.replace("http:", "https:"))
            assert caught.value.code == "upstream_connect_timeout"
        await until(lambda: server.open_connections == 0)


def cut_short(*pieces: bytes) -> Any:
    """Say something and end the connection as anybody on the way could: without TLS's words of farewell."""

    async def script(exchange: Exchange) -> None:
        for piece in pieces:
            await exchange.write(piece)
        exchange.writer.transport.abort()

    return script


@on_both_loops
async def test_row_14_an_end_that_anybody_could_have_made_ends_no_answer():
    """Only a farewell under TLS ends what has no other end; what tells its length needs none."""
    head = b"HTTP/1.1 200 OK\r\nx: y\r\n\r\n"
    async with RawServer(cut_short(head, b"half of the"), tls=at_server()) as server:
        async with lane(tls=at_client()) as transport:
            with pytest.raises(AttemptError) as caught:
                await fetch(transport, server.base_url)
            assert (caught.value.kind, caught.value.code) == (FailureKind.RESET, "upstream_disconnected")
            server.script = writing(head, b"all of it", then="fin")
            assert await fetch(transport, server.base_url) == b"all of it"
            server.script = cut_short(HELLO)
            assert await fetch(transport, server.base_url) == b"hello"
            server.script = writing(HELLO)
            assert await fetch(transport, server.base_url) == b"hello"


@on_both_loops
async def test_row_6_a_connection_under_tls_that_was_closed_is_not_taken_again():
    """Whichever way it was closed."""
    async with RawServer(writing(HELLO), tls=at_server()) as server, lane(tls=at_client()) as transport:
        await fetch(transport, server.base_url)
        server.exchanges[0].writer.close()
        await until(lambda: server.open_connections == 0)
        assert await fetch(transport, server.base_url) == b"hello"
        server.exchanges[1].writer.transport.abort()
        await until(lambda: server.open_connections == 0)
        assert await fetch(transport, server.base_url) == b"hello"
        assert server.connections == 3
