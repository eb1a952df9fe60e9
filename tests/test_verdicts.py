"""What the table of verdicts says of each field of a chat request, every backend does."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from typing import Any

import httpx
import msgspec
import pytest

from smartrouter_asgi import Settings, SmartRouter
from smartrouter_asgi.backends.base import BackendSpec
from smartrouter_asgi.backends.http import HTTPBackend
from smartrouter_asgi.backends.http_exchange import Exchange
from smartrouter_asgi.backends.registry import create_backend
from smartrouter_asgi.config.backends import BUILT_IN_TYPES
from smartrouter_asgi.deployment import Capabilities, Deployment
from smartrouter_asgi.exceptions import RequestError, UnsupportedParameterError
from smartrouter_asgi.middleware.resolution import able
from smartrouter_asgi.routing.plan import RoutePlan
from smartrouter_asgi.testing.ollama import GIB, SimulatedModel, SimulatedOllama
from smartrouter_asgi.transport.http import HTTPRequest
from smartrouter_asgi.types import Headers, Secret
from smartrouter_asgi.wire.call import decode_fields, parse_call
from smartrouter_asgi.wire.verdicts import (
    ENGINES,
    FAMILIES,
    LACKING,
    OLLAMA,
    VALUES,
    Case,
    Rule,
    Verdict,
    rule_of,
    verdict_of,
)

from .harness.routers import chat
from .harness.servers import serve

SPEC_FIELDS = frozenset(
    (
        *("audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs"),
        *("max_completion_tokens", "max_tokens", "messages", "metadata", "modalities", "model", "moderation", "n"),
        *("parallel_tool_calls", "prediction", "presence_penalty", "prompt_cache_key", "prompt_cache_options"),
        *("prompt_cache_retention", "reasoning_effort", "response_format", "safety_identifier", "seed", "service_tier"),
        *("stop", "store", "stream", "stream_options", "temperature", "tool_choice", "tools", "top_logprobs", "top_p"),
        *("user", "verbosity", "web_search_options"),
    )
)
"""The properties of `CreateChatCompletionRequest` and what it is made of, in OpenAI's OpenAPI description."""

TYPES = sorted(set(BUILT_IN_TYPES) - {"auto"})
"""Every type that speaks for itself; `auto` becomes one of them."""

MODEL = "upstream"


class Tags:
    """A transport whose one answer lists the model with these capabilities, as Ollama's /api/tags does."""

    def __init__(self, capabilities: list[str]) -> None:
        self._capabilities = capabilities
        self.status = 200
        self.headers: Headers = [(b"content-type", b"application/json")]

    async def open(self, request: HTTPRequest) -> Tags:
        return self

    async def read(self, limit: int) -> bytes:
        row = {"name": MODEL, "model": f"{MODEL}:latest", "capabilities": self._capabilities}
        return json.dumps({"models": [row]}).encode()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        yield await self.read(0)

    async def aclose(self) -> None:
        pass


async def backend_of(backend_type: str, *, thinks: bool | None = None) -> HTTPBackend:
    transport = Tags(["completion", "tools", "vision", *(["thinking"] if thinks else [])])
    spec = BackendSpec(
        name="engine", type=backend_type, url="http://127.0.0.1:9/v1", api_keys=(Secret("sk-0123456789"),)
    )
    backend = create_backend(spec, transport)
    assert isinstance(backend, HTTPBackend)
    if thinks is not None:
        await backend.list_models()
    return backend


async def prepared(backend: HTTPBackend, fields: dict[str, str]) -> Exchange:
    """What `open` would send for a body with these fields, after `check` has had its say."""
    body = "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"
    call = parse_call("chat", body.encode())
    deployment = Deployment(backend="engine", model=MODEL)
    backend.check(call, deployment)
    return backend.prepare(call, deployment)


def names(name: str, found: str | None) -> bool:
    """Whether a `param` or an ignored name is this field or lies inside it."""
    return found is not None and (found == name or found.startswith((f"{name}.", f"{name}[")))


def every_case() -> Iterator[Any]:
    for backend_type in TYPES:
        for name in VALUES:
            rule = rule_of(backend_type, name)
            assert rule is not None, (backend_type, name)
            for position, case in enumerate(rule.cases):
                yield pytest.param(
                    backend_type, name, case, id=f"{backend_type}-{name}-{position}-{case.verdict.value}"
                )


@pytest.mark.parametrize(("backend_type", "name", "case"), list(every_case()))
async def test_the_verdict_is_what_happens(backend_type: str, name: str, case: Case):
    """Passes: the same bytes. Translated: the members it becomes. Refused: named. Ignored: listed."""
    backend = await backend_of(backend_type, thinks=case.thinks)
    given = {"model": '"asked"', "messages": VALUES["messages"], **case.beside, name: case.value}
    if case.verdict is Verdict.REFUSED:
        with pytest.raises(UnsupportedParameterError) as refused:
            await prepared(backend, given)
        assert refused.value.status == 400
        assert names(name, refused.value.param)
        return
    exchange = await prepared(backend, given)
    sent = decode_fields(exchange.body)
    listed = [ignored for ignored in exchange.ignored if names(name, ignored)]
    assert listed == [name] if case.verdict is Verdict.IGNORED else listed == list(case.ignores)
    if case.verdict is Verdict.PASSES:
        assert bytes(sent[name]) == case.value.encode()
    elif case.verdict is Verdict.IGNORED:
        without = {key: value for key, value in given.items() if key != name}
        other = await prepared(await backend_of(backend_type, thinks=case.thinks), without)
        mine, others = msgspec.json.decode(exchange.body), msgspec.json.decode(other.body)
        assert {k: v for k, v in mine.items() if k != name} == others, "it changes what the engine is asked"
    else:
        for member, value in json.loads(case.becomes).items():
            assert (msgspec.json.decode(sent[member]) if member in sent else None) == value


def test_every_field_of_the_description_has_a_verdict_everywhere():
    """A field that OpenAI adds fails here until each family has its rule."""
    assert set(VALUES) == SPEC_FIELDS
    for family, rules in FAMILIES.items():
        assert set(rules) == SPEC_FIELDS, family
    assert set(ENGINES) == set(TYPES)
    for backend_type in TYPES:
        assert set(ENGINES[backend_type].differs) <= SPEC_FIELDS
        assert all(verdict_of(backend_type, name) for name in SPEC_FIELDS)


def test_a_rule_that_depends_says_on_what():
    """Each verdict among its cases has its condition in words; one verdict for all needs none."""
    for backend_type in TYPES:
        for name in VALUES:
            rule = rule_of(backend_type, name)
            assert isinstance(rule, Rule)
            if rule.verdict is Verdict.DEPENDS:
                told = {case.verdict for case in rule.cases if case.when}
                assert told == {case.verdict for case in rule.cases}, (backend_type, name)


async def test_a_field_nobody_knows():
    """Pass-through hands it on, Ollama refuses it by name."""
    assert verdict_of("openai", "frobnicate") is None
    given = {"model": '"asked"', "messages": VALUES["messages"], "frobnicate": '{"a": 1}'}
    exchange = await prepared(await backend_of("openai"), given)
    assert bytes(decode_fields(exchange.body)["frobnicate"]) == b'{"a": 1}'
    with pytest.raises(UnsupportedParameterError) as refused:
        await prepared(await backend_of("ollama"), given)
    assert refused.value.param == "frobnicate"


@pytest.mark.parametrize("name", sorted(SPEC_FIELDS - {"model", "messages"}))
async def test_null_is_absent(name: str):
    """A null is sent by many clients for every field they do not use."""
    plain = {"model": '"asked"', "messages": VALUES["messages"]}
    without = await prepared(await backend_of("ollama"), plain)
    exchange = await prepared(await backend_of("ollama"), {**plain, name: "null"})
    assert (exchange.body, exchange.ignored) == (without.body, ())


async def test_include_usage_asks_for_the_last_chunk():
    """The part of `stream_options` that the engine's request does not show."""
    line = b'{"model":"m","message":{"role":"assistant","content":"Hi"},"done":true,"eval_count":2}\n'
    for wanted in (True, False):
        given = {"model": '"asked"', "messages": VALUES["messages"], "stream": "true"}
        given["stream_options"] = json.dumps({"include_usage": wanted})
        exchange = await prepared(await backend_of("ollama"), given)
        told = b"".join(piece.data for piece in exchange.codec().feed(line))
        assert (b'"completion_tokens":2' in told) is wanted


async def test_top_logprobs_need_logprobs():
    """As OpenAI has it; a wrong request, not an unsupported field."""
    given = {"model": '"asked"', "messages": VALUES["messages"], "top_logprobs": "3"}
    with pytest.raises(RequestError) as refused:
        await prepared(await backend_of("ollama"), given)
    assert (refused.value.param, refused.value.code) == ("top_logprobs", "invalid_request")


def test_the_readme_shows_what_the_issue_promises():
    """The fields that serve accounts and caches are listed, never refused, never passed to Ollama."""
    for name in ("user", "metadata", "store", "service_tier"):
        assert OLLAMA[name].verdict is Verdict.IGNORED
    assert verdict_of("ollama", "n") is Verdict.DEPENDS


@pytest.mark.parametrize("capability", LACKING)
def test_what_a_model_lacks_is_refused_whichever_its_engine(capability: str):
    """The last candidate that lacks it says so; one that has it is taken instead."""
    name, case = LACKING[capability]
    body = f'{{"model":"asked","messages":{VALUES["messages"]},"{name}":{case.value}}}'
    call = parse_call("chat", body.encode())
    able_one = Deployment(backend="a", model="m", capabilities=Capabilities())
    lacking = Deployment(backend="b", model="m", capabilities=replace(Capabilities(), **{capability: False}))
    with pytest.raises(UnsupportedParameterError) as refused:
        able(RoutePlan(model="m", candidates=(lacking,)), call)
    assert names(name, refused.value.param)
    assert able(RoutePlan(model="m", candidates=(lacking, able_one)), call).candidates == (able_one,)


async def test_a_client_is_told():
    """Over real sockets: what was ignored stands in a header, what is refused in the error; nothing was asked then."""
    async with SimulatedOllama([SimulatedModel("sim:1b", GIB)], time_scale=0.01) as engine:
        settings = Settings.model_validate({"backends": {"local": {"type": "ollama", "url": engine.base_url}}})
        async with serve(SmartRouter(settings)) as url, httpx.AsyncClient() as client:
            path = f"{url}/v1/chat/completions"
            taken = await client.post(path, json=chat("sim:1b", user="a", store=True, n=1, max_tokens=3))
            refused = await client.post(path, json=chat("sim:1b", n=2))
            assert engine.stats.generations == 1
    assert taken.status_code == 200
    assert set(taken.headers["x-smartrouter-ignored"].split(", ")) == {"user", "store", "n"}
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, "unsupported_parameter", "n")
