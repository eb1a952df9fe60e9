"""Which transport a router speaks with: a name in the settings, or the client it was handed."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from typing import Any

import httpx
import pytest

from smartrouter_asgi import ConfigurationError, Settings, SmartRouter
from smartrouter_asgi.transport import choice
from smartrouter_asgi.transport.choice import choose_transport
from smartrouter_asgi.transport.direct.transport import DirectTransport
from smartrouter_asgi.transport.httpx_transport import HttpxTransport


@pytest.mark.parametrize(("name", "kind"), [("direct", DirectTransport), ("httpx", HttpxTransport)])
def test_the_settings_choose(name: str, kind: type):
    """By name; a case slip is none."""
    router = SmartRouter(Settings.model_validate({"transport": name.upper()}))
    assert type(router._transport) is kind


@pytest.mark.parametrize(("auto", "kind"), [("direct", DirectTransport), ("httpx", HttpxTransport)])
def test_auto_is_one_constant(monkeypatch: pytest.MonkeyPatch, auto: str, kind: type):
    """Whatever it is, the default is it."""
    monkeypatch.setattr(choice, "AUTO", auto)
    assert type(SmartRouter()._transport) is kind


@pytest.mark.parametrize("name", ["auto", "direct", "httpx"])
async def test_a_client_that_was_handed_in_is_used(monkeypatch: pytest.MonkeyPatch, name: str):
    """It may have proxies, certificates or mocks of its own."""
    monkeypatch.setattr(choice, "AUTO", "direct")
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
    monkeypatch.setattr(choice, "AUTO", "direct")
    with pytest.raises(ConfigurationError, match=r"smartrouter-asgi\[server\]"):
        choose_transport("direct")
    assert type(choose_transport("auto")) is HttpxTransport
