"""TLS on the direct lane: verified always, by the authorities that httpx trusts."""

from __future__ import annotations

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


def at_server(name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(name).configure_cert(context)
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
@pytest.mark.parametrize(("name", "trusting"), [("127.0.0.1", False), ("other.example", True)], ids=["whose", "name"])
async def test_row_3_a_certificate_that_does_not_fit_is_never_taken(name: str, trusting: bool):
    """Neither one that nobody vouches for nor one for another name."""
    async with RawServer(writing(HELLO), tls=at_server(name)) as server:
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
