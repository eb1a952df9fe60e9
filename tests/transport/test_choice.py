"""Which transport a router speaks with: a name in the settings, or the client it was handed."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import ModuleSpec
from typing import Any

import httpx
import pytest

from smartrouter_asgi import ConfigurationError, Settings, SmartRouter
from smartrouter_asgi.transport import choice
from smartrouter_asgi.transport.choice import choose_transport
from smartrouter_asgi.transport.direct.transport import DirectTransport
from smartrouter_asgi.transport.divided import DividedTransport
from smartrouter_asgi.transport.http import Transport
from smartrouter_asgi.transport.httpx_transport import HttpxTransport

from ..harness.engines import good
from ..harness.gateways import gateway_over
from ..harness.servers import RawServer


def kinds(transport: Transport) -> tuple[type, type]:
    """What carries clients' requests, and what control calls."""
    if isinstance(transport, DividedTransport):
        return type(transport.data), type(transport._make_control())
    return type(transport), type(transport)


DIVIDED = (DirectTransport, HttpxTransport)
WHOLE = (HttpxTransport, HttpxTransport)


@pytest.mark.parametrize(("name", "expected"), [("direct", DIVIDED), ("httpx", WHOLE)])
def test_the_settings_choose(name: str, expected: tuple[type, type]):
    """By name; a case slip is none."""
    router = SmartRouter(Settings.model_validate({"transport": name.upper()}))
    assert kinds(router._transport) == expected


@pytest.mark.parametrize(("auto", "expected"), [("direct", DIVIDED), ("httpx", WHOLE)])
def test_auto_is_one_constant(monkeypatch: pytest.MonkeyPatch, auto: str, expected: tuple[type, type]):
    """Whatever it is, the default is it."""
    monkeypatch.setattr(choice, "AUTO", auto)
    assert kinds(SmartRouter()._transport) == expected


def test_what_carries_control_calls_is_one_constant(monkeypatch: pytest.MonkeyPatch):
    """They may share the connections of the others."""
    monkeypatch.setattr(choice, "CONTROL", "direct")
    assert type(choose_transport("direct")) is DirectTransport


PROXIES = [name for scheme in ("http", "https", "all") for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY")]


@pytest.mark.parametrize("transport_name", ["direct", "httpx"], indirect=True)
async def test_proxies_of_the_environment_are_never_used(monkeypatch: pytest.MonkeyPatch):
    """Neither by clients' requests nor by control calls, over whichever transport."""
    async with RawServer(good) as engine, gateway_over(engine) as gateway:
        for name in PROXIES:  # after the client beside the gateway was made, which would use them
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        assert (await gateway.ask()).status_code == 200
        assert await gateway.router.backends["b1"].list_models()


@pytest.mark.parametrize("name", ["auto", "direct", "httpx"])
async def test_a_client_that_was_handed_in_is_used(monkeypatch: pytest.MonkeyPatch, name: str):
    """It may have proxies, certificates or mocks of its own."""
    async with httpx.AsyncClient() as client:
        transport = choose_transport(name, client)
        assert isinstance(transport, HttpxTransport)
        assert transport._client is client


def test_without_its_parser_the_direct_one_is_refused_by_name(monkeypatch: pytest.MonkeyPatch):
    """And `auto` goes without it."""

    def find_spec(name: str, *_: Any) -> ModuleSpec | None:
        assert name == "httptools"
        return None

    monkeypatch.setattr(choice, "find_spec", find_spec)
    with pytest.raises(ConfigurationError, match="pip install httptools"):
        choose_transport("direct")
    assert type(choose_transport("auto")) is HttpxTransport


async def test_control_calls_go_another_way_than_the_clients():
    """So two connections: one that has listed the models, one that has asked."""
    async with RawServer(good) as engine, gateway_over(engine, transport="direct") as gateway:
        transport = gateway.router._transport
        assert isinstance(transport, DividedTransport)
        await gateway.ask()
        assert transport.control is None
        await gateway.router.backends["b1"].list_models()
        await gateway.ask()
        assert transport.control is not None
        ways = [exchange.writer for exchange in engine.exchanges]
        assert engine.paths == ["/v1/chat/completions", "/v1/models", "/v1/chat/completions"]
        assert ways[0] is ways[2]
        assert ways[0] is not ways[1]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("auto", "transport: direct, for the settings say 'auto'"),
        ("httpx", "transport: httpx, for the settings say 'httpx'"),
    ],
)
def test_the_log_says_which_and_why(caplog: pytest.LogCaptureFixture, name: str, told: str):
    """For those who look: at level DEBUG."""
    caplog.set_level("DEBUG", "smartrouter_asgi")
    choose_transport(name)
    assert caplog.messages == [told]


def test_a_router_is_made_without_httpx():
    """It is imported by the first control call: a start does not wait for it."""
    code = "import sys; from smartrouter_asgi import SmartRouter; SmartRouter(); sys.exit('httpx' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
