"""The contract that every backend keeps, over this one, and what is this one's own."""

from __future__ import annotations

import json

import pytest
from smartrouter_wordcount import WordCountBackend

from smartrouter_asgi import BackendSpec, ConfigurationError, Deployment, HttpxTransport
from smartrouter_asgi.testing.contract import BackendContract, chat_call


def made(**options: object) -> WordCountBackend:
    return WordCountBackend(BackendSpec(name="words", type="wordcount", url="", options=options), HttpxTransport())


class TestWordCountBackend(BackendContract):
    @pytest.fixture
    def backend(self) -> WordCountBackend:
        return made()

    @pytest.fixture
    def model(self) -> str:
        return "word-count"

    @pytest.fixture
    def refused_fields(self) -> list[dict[str, object]]:
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
        return [
            {"n": 2},
            {"tools": []},
            {"response_format": {"type": "json_object"}},
            {"messages": [{"role": "user", "content": [image]}]},
        ]


async def test_it_counts():
    """In the unit of its options."""
    call = chat_call("word-count", messages=[{"role": "user", "content": "one two  three"}])
    upstream = await made(unit="things").open(call, Deployment(backend="words", model="word-count"))
    answer = json.loads((await upstream.read()).body)
    assert answer["choices"][0]["message"]["content"] == "3 things"


def test_an_option_it_does_not_know():
    """Is refused when the router starts, not when the first request comes."""
    with pytest.raises(ConfigurationError, match=r"backends\.words\.options: wordcount knows no untis"):
        made(untis="words")
