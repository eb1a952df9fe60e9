"""Every OpenAI-compatible server with a preset, over real sockets: where it is asked, with which key, what is read.

The shapes are those of `facts/backends.md`, section 4 ("Other servers"); each script names its row.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from smartrouter_asgi.backends.base import BackendSpec
from smartrouter_asgi.backends.openai_compat import OpenAICompatBackend
from smartrouter_asgi.backends.presets import PRESETS
from smartrouter_asgi.backends.registry import create_backend, find_factory
from smartrouter_asgi.config.backends import BUILT_IN_TYPES
from smartrouter_asgi.deployment import Deployment
from smartrouter_asgi.exceptions import AttemptError, FailureKind, UnsupportedParameterError
from smartrouter_asgi.transport.choice import choose_transport
from smartrouter_asgi.types import Secret
from smartrouter_asgi.wire.call import Call, parse_call
from smartrouter_asgi.wire.stream import PieceKind

from .harness.engines import ANSWER, DONE, STREAM, chunk
from .harness.routers import MESSAGES
from .harness.servers import Exchange, RawServer, Script

KEY = "secret-key-1"
JSONValue = Any


@dataclass
class Engine:
    """A scripted server: JSON under GET paths, chat under its path, 404 under every other."""

    chat: str
    lists: dict[str, JSONValue] = field(default_factory=dict)
    stream: list[bytes] = field(default_factory=lambda: STREAM)
    error: tuple[int, JSONValue] = (400, {"error": {"message": "no", "type": "invalid_request_error", "code": None}})

    async def __call__(self, exchange: Exchange) -> None:
        path = exchange.path
        if path in self.lists:
            body = self.lists[path]
            await exchange.answer(200, b"" if body is None else json.dumps(body).encode())
        elif path != self.chat:
            await exchange.answer(404, b'{"detail":"Not Found"}')
        else:
            await self._answer(exchange, json.loads(exchange.body))

    async def _answer(self, exchange: Exchange, request: dict[str, Any]) -> None:
        if request["messages"] == []:
            status, body = self.error
            await exchange.answer(status, json.dumps(body).encode())
        elif request.get("stream"):
            await exchange.start_stream()
            for event in self.stream:
                await exchange.chunk(event)
            await exchange.end_stream()
        else:
            await exchange.answer(200, json.dumps(ANSWER).encode())


@asynccontextmanager
async def backend_at(
    type: str, script: Script, *, path: str = "", **spec: Any
) -> AsyncIterator[tuple[OpenAICompatBackend, RawServer]]:
    """A backend of a type over a scripted server, with one key."""
    async with RawServer(script) as server:
        transport = choose_transport("auto", connect_timeout_s=5.0)
        made = create_backend(
            BackendSpec(name="b", type=type, url=server.base_url + path, api_keys=(Secret(KEY),), **spec), transport
        )
        assert isinstance(made, OpenAICompatBackend)
        try:
            yield made, server
        finally:
            await made.aclose()
            await transport.aclose()


def call(**fields: Any) -> Call:
    body = {"model": "asked", "messages": MESSAGES, **fields}
    return parse_call("chat", json.dumps(body).encode())


TARGET = Deployment(backend="b", model="org/upstream-model")


async def ask(backend: OpenAICompatBackend, **fields: Any) -> bytes:
    upstream = await backend.open(call(**fields), TARGET)
    try:
        return (await upstream.read()).body
    finally:
        await upstream.aclose()


async def stream(backend: OpenAICompatBackend, **fields: Any) -> list[Any]:
    upstream = await backend.open(call(stream=True, **fields), TARGET)
    try:
        read: list[Any] = []
        async with aclosing(upstream.pieces()) as batches:
            async for pieces in batches:
                read += pieces
                if read and read[-1].kind >= PieceKind.END:
                    break  # as dispatch does
        return read
    finally:
        await upstream.aclose()


def listed(*ids: str, **extra: Any) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": one, "object": "model", **extra} for one in ids]}


@dataclass
class Row:
    """What the facts say of one server."""

    type: str
    engine: Engine
    ids: list[str]
    path: str = ""
    """What the configured address ends in."""
    listing: list[str] = field(default_factory=lambda: ["/v1/models"])
    """Paths asked for a list."""
    ping: list[str] = field(default_factory=lambda: ["/v1/models"])
    error: tuple[FailureKind, int] = (FailureKind.REJECTED, 400)
    auth: tuple[str, str] = ("authorization", f"Bearer {KEY}")


V1 = "/v1/chat/completions"
FLAT = {"object": "error", "message": "bad", "type": "BadRequestError", "param": None, "code": 400}
VLLM_LIST = listed("m", owned_by="vllm", root="m", parent=None, max_model_len=8192)

ROWS = [
    # OpenAI's own reference.
    Row("openai", Engine(V1, {"/v1/models": listed("gpt-4o")}), ["gpt-4o"], path="/v1"),
    # Section 1: Ollama's own /v1.
    Row("openai", Engine(V1, {"/v1/models": listed("llama3.1:8b", owned_by="library")}), ["llama3.1:8b"], path="/v1"),
    # 4.1 vLLM, the older flat error.
    Row(
        "vllm",
        Engine(V1, {"/v1/models": VLLM_LIST, "/health": None}, error=(400, FLAT)),
        ["m"],
        listing=["/v1/models", "/is_sleeping"],
        ping=["/health"],
    ),
    # 4.1 vLLM, the newer error; its address pasted with the version.
    Row(
        "vllm",
        Engine(
            V1,
            {"/v1/models": VLLM_LIST, "/health": None},
            error=(
                404,
                {
                    "error": {
                        "message": "The model `x` does not exist.",
                        "type": "NotFoundError",
                        "param": "model",
                        "code": 404,
                    }
                },
            ),
        ),
        ["m"],
        path="/v1",
        listing=["/v1/models", "/is_sleeping"],
        ping=["/health"],
        error=(FailureKind.MODEL_MISSING, 404),
    ),
    # Table: SGLang, /health is the cheap one.
    Row("sglang", Engine(V1, {"/v1/models": listed("m"), "/health": None}), ["m"], ping=["/health"]),
    # Table: TGI 3.3, `error_type` errors, /info.
    Row(
        "tgi",
        Engine(
            V1,
            {"/info": {"model_id": "org/m", "max_input_tokens": 3000, "max_total_tokens": 4096}},
            error=(422, {"error": "Input validation error: too many", "error_type": "validation"}),
        ),
        ["org/m"],
        listing=["/v1/models", "/info"],
        ping=["/info"],
        error=(FailureKind.REJECTED, 422),
    ),
    # Table: TGI overloaded.
    Row(
        "tgi",
        Engine(
            V1,
            {"/v1/models": listed("org/m"), "/info": {"model_id": "org/m"}},
            error=(429, {"error": "Model is overloaded", "error_type": "overloaded"}),
        ),
        ["org/m"],
        ping=["/info"],
        error=(FailureKind.RATE_LIMITED, 429),
    ),
    # Table: LocalAI.
    Row("localai", Engine(V1, {"/v1/models": listed("m")}), ["m"]),
    # Table: LM Studio, /api/v1/models.
    Row(
        "lmstudio",
        Engine(V1, {"/api/v1/models": {"models": [{"type": "llm", "key": "org/m", "loaded_instances": []}]}}),
        ["org/m"],
        listing=["/api/v1/models"],
        ping=["/api/v1/models"],
    ),
    # Table: LiteLLM proxy, whose code may be a string.
    Row(
        "litellm",
        Engine(
            V1,
            {"/v1/models": listed("m"), "/health/liveliness": "I'm alive!"},
            error=(400, {"error": {"message": "bad", "type": "None", "param": "None", "code": "400"}}),
        ),
        ["m"],
        ping=["/health/liveliness"],
    ),
    # Table: OpenRouter, a comment before the answer, 402 without credits.
    Row(
        "openrouter",
        Engine(
            "/api/v1/chat/completions",
            {"/api/v1/models": {"data": [{"id": "meta/llama", "name": "Llama", "context_length": 131072}]}},
            stream=[b": OPENROUTER PROCESSING\n\n", *STREAM],
            error=(402, {"error": {"code": 402, "message": "Insufficient credits"}}),
        ),
        ["meta/llama"],
        path="/api/v1",
        listing=["/api/v1/models"],
        ping=["/api/v1/models"],
        error=(FailureKind.AUTH, 502),
    ),
    # Table: Together, a bare array.
    Row(
        "together",
        Engine(V1, {"/v1/models": [{"id": "meta/llama", "type": "chat", "context_length": 8192, "pricing": {}}]}),
        ["meta/llama"],
    ),
    # 4.3: Anthropic.
    Row(
        "anthropic",
        Engine(
            V1,
            {"/v1/models?limit=1000": {"data": [{"id": "c", "type": "model"}], "has_more": False, "last_id": "c"}},
            error=(529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
        ),
        ["c"],
        listing=["/v1/models?limit=1000"],
        ping=["/v1/models?limit=1000"],
        error=(FailureKind.SERVER, 529),
    ),
    # Table: Azure v1; the first chunk has no choices, a filtered prompt is 400 content_filter.
    Row(
        "azure",
        Engine(
            "/openai/v1/chat/completions",
            {"/openai/v1/models": listed("gpt-4o")},
            stream=[b'data: {"choices":[],"prompt_filter_results":[{"prompt_index":0}]}\n\n', *STREAM],
            error=(400, {"error": {"code": "content_filter", "message": "filtered", "status": 400}}),
        ),
        [],
        listing=[],
        ping=["/openai/v1/models"],
        auth=("api-key", KEY),
    ),
    # Table: Bedrock's runtime path, without a list.
    Row(
        "bedrock",
        Engine("/openai/v1/chat/completions", error=(529, {"message": "busy"})),
        [],
        listing=["/openai/v1/models"],
        ping=["/openai/v1/models"],
        error=(FailureKind.SERVER, 529),
    ),
    # Table: Vertex's path, without a list.
    Row(
        "vertex",
        Engine("/v1/projects/p/locations/l/endpoints/openapi/chat/completions"),
        [],
        path="/v1/projects/p/locations/l/endpoints/openapi",
        listing=[],
        ping=["/v1/projects/p/locations/l/endpoints/openapi/models"],
    ),
]

each_row = pytest.mark.parametrize("row", ROWS, ids=[f"{row.type}-{n}" for n, row in enumerate(ROWS)])


def test_every_preset_has_a_row():
    """A new preset is shown here too."""
    assert {row.type for row in ROWS} == set(PRESETS)


@each_row
async def test_models_are_listed_where_they_are(row: Row):
    """Ids as the server spells them; the key goes along."""
    async with backend_at(row.type, row.engine, path=row.path) as (backend, server):
        assert [model.id for model in await backend.list_models()] == row.ids
    assert server.paths == row.listing


@each_row
async def test_health_is_asked_where_it_costs_nothing(row: Row):
    """One cheap question, and never one that runs a model."""
    async with backend_at(row.type, row.engine, path=row.path) as (backend, server):
        await backend.ping()
    assert server.paths == row.ping


@each_row
async def test_a_plain_chat_passes_as_its_bytes(row: Row):
    """The model's name is replaced, also where the engine does not look at it; the key is where it belongs."""
    async with backend_at(row.type, row.engine, path=row.path) as (backend, server):
        assert await ask(backend, temperature=0.25) == json.dumps(ANSWER).encode()
    (exchange,) = server.exchanges
    assert exchange.path == row.engine.chat
    assert json.loads(exchange.body) == {"model": TARGET.model, "messages": MESSAGES, "temperature": 0.25}
    name, value = row.auth
    assert exchange.header(name) == value
    others = {"authorization", "api-key", "x-api-key"} - {name}
    assert [exchange.header(other) for other in others] == [None, None]


@each_row
async def test_a_stream_passes_as_its_bytes(row: Row):
    """Comments and chunks without choices are no content; the end is the engine's."""
    async with backend_at(row.type, row.engine, path=row.path) as (backend, _):
        pieces = await stream(backend)
    assert b"".join(piece.data for piece in pieces) == b"".join(row.engine.stream)
    assert pieces[0].kind in (PieceKind.HELD, PieceKind.PING)
    assert pieces[-1].kind is PieceKind.END


@each_row
async def test_an_error_is_read_in_its_own_shape(row: Row):
    """Kind and status; the server's key is in no message."""
    async with backend_at(row.type, row.engine, path=row.path) as (backend, _):
        with pytest.raises(AttemptError) as caught:
            await ask(backend, messages=[])
    assert (caught.value.kind, caught.value.status) == row.error
    assert KEY not in caught.value.message


@pytest.mark.parametrize("type", BUILT_IN_TYPES)
def test_every_type_that_configuration_takes_has_an_adapter(type: str):
    """Nothing that the configuration accepts fails later for want of a class."""
    assert callable(find_factory(type))


@pytest.mark.parametrize("type", sorted(PRESETS))
def test_a_base_url_is_the_same_when_made_twice(type: str):
    """Configuration and adapter both put the version on."""
    preset = PRESETS[type]
    for given in ("http://h:1", "http://h:1/v1", "http://h:1/openai/v1/", "http://h:1/x/openai"):
        once = preset.base_url(given, {})
        assert preset.base_url(once, {}) == once
        assert "/v1/v1" not in once + "/chat/completions"


# -- OpenRouter


async def test_an_openrouter_error_inside_the_stream_is_an_error():
    """Table, OpenRouter: under 200, with a top-level `error` and finish_reason "error"."""
    broken = (
        b'data: {"id":"g","object":"chat.completion.chunk","error":{"code":502,"message":"Provider disconnected"},'
        b'"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}\n\n'
    )
    engine = Engine("/api/v1/chat/completions", stream=[b": OPENROUTER PROCESSING\n\n", chunk("Hel"), broken])
    headers = {"HTTP-Referer": Secret("https://example.com"), "X-Title": Secret("mine")}
    async with backend_at("openrouter", engine, path="/api/v1", headers=headers) as (backend, server):
        pieces = await stream(backend)
    assert [piece.kind for piece in pieces] == [PieceKind.PING, PieceKind.CONTENT, PieceKind.ERROR]
    assert server.exchanges[0].header("http-referer") == "https://example.com"
    assert server.exchanges[0].header("x-title") == "mine"


# -- context lengths


@pytest.mark.parametrize(
    ("type", "path", "answer", "length"),
    [
        ("vllm", "/v1/models", VLLM_LIST, 8192),
        ("together", "/v1/models", [{"id": "m", "context_length": 4096}], 4096),
        ("tgi", "/info", {"model_id": "m", "max_total_tokens": 2048}, 2048),
        ("lmstudio", "/api/v1/models", {"models": [{"key": "m", "type": "llm", "max_context_length": 1024}]}, 1024),
        ("lmstudio", "/api/v0/models", {"data": [{"id": "m", "type": "llm", "max_context_length": 512}]}, 512),
    ],
)
async def test_the_context_length_is_told_where_the_server_tells_it(type: str, path: str, answer: Any, length: int):
    """Under the name that each of them gives it."""
    async with backend_at(type, Engine(V1, {path: answer})) as (backend, _):
        (model,) = await backend.list_models()
    assert model.can is not None
    assert model.can.context_length == length


# -- Azure


async def test_an_entra_token_is_a_bearers_at_azure():
    """Table, Azure: `api-key`, or Bearer for a token (a JWT)."""
    token = "eyJhbGciOi.eyJhdWQi.c2ln"
    async with RawServer(Engine("/openai/v1/chat/completions")) as server:
        transport = choose_transport("auto", connect_timeout_s=5.0)
        spec = BackendSpec(name="b", type="azure", url=server.base_url, api_keys=(Secret(token),))
        await ask(OpenAICompatBackend(spec, transport))
        await transport.aclose()
    assert server.exchanges[0].header("authorization") == f"Bearer {token}"
    assert server.exchanges[0].header("api-key") is None


@pytest.mark.parametrize(("status", "alive"), [(404, True), (405, True), (401, False), (503, False)])
async def test_a_server_without_a_list_is_up_when_it_answers_at_all(status: int, alive: bool):
    """Vertex: there is no path to ask, but a refused token and a failure are told."""

    async def script(exchange: Exchange) -> None:
        await exchange.answer(status, b"<html>", "text/html")

    async with backend_at("vertex", script, path="/openapi") as (backend, _):
        if alive:
            await backend.ping()
        else:
            with pytest.raises(AttemptError):
                await backend.ping()


async def test_a_mantle_list_is_read():
    """Table, Bedrock: Mantle has models under /v1."""
    engine = Engine(V1, {"/v1/models": listed("openai.gpt-oss-120b")})
    async with backend_at("bedrock", engine, path="/v1") as (backend, _):
        assert [model.id for model in await backend.list_models()] == ["openai.gpt-oss-120b"]


# -- Anthropic


async def test_anthropics_list_is_read_page_by_page_with_its_own_header():
    """4.3 and the table: `has_more`, `last_id`; x-api-key and anthropic-version, no bearer."""
    pages = {
        "/v1/models?limit=1000": {"data": [{"id": "a"}, {"id": "b"}], "has_more": True, "last_id": "b"},
        "/v1/models?limit=1000&after_id=b": {"data": [{"id": "c"}], "has_more": False, "last_id": "c"},
    }
    async with backend_at("anthropic", Engine(V1, pages)) as (backend, server):
        assert [model.id for model in await backend.list_models()] == ["a", "b", "c"]
    for exchange in server.exchanges:
        assert exchange.header("x-api-key") == KEY
        assert exchange.header("anthropic-version") == "2023-06-01"
        assert exchange.header("authorization") is None


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"seed": 7}, "seed"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": -0.5}, "presence_penalty"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ({"n": 2}, "n"),
        ({"temperature": 1.5}, "temperature"),
        ({"stop": ["END", "\n"]}, "stop"),
        ({"messages": [{"role": "user", "content": [AUDIO]}]}, "messages[0].content"),
    ],
)
async def test_what_anthropic_would_drop_in_silence_is_refused(fields: dict[str, Any], param: str):
    """By `check`, before anything is queued, and by `open`, before anything is sent."""
    async with backend_at("anthropic", Engine(V1)) as (backend, server):
        with pytest.raises(UnsupportedParameterError) as caught:
            backend.check(call(**fields), TARGET)
        assert (caught.value.status, caught.value.param) == (400, param)
        with pytest.raises(UnsupportedParameterError):
            await backend.open(call(**fields), TARGET)
    assert server.exchanges == []


@pytest.mark.parametrize(
    ("fields", "ignored"),
    [
        ({"user": "u", "metadata": {}, "store": True, "service_tier": "auto"}, 4),
        ({"prediction": {"type": "content", "content": "x"}}, 1),
        ({"n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logprobs": False, "logit_bias": {}}, 5),
        ({"response_format": {"type": "text"}, "modalities": ["text"]}, 2),
        ({"seed": None, "response_format": None, "user": None}, 0),
        ({"temperature": 1, "top_p": 0.5, "stop": "END", "max_tokens": 5, "parallel_tool_calls": False}, 0),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, 0),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, 0),
    ],
)
async def test_what_has_no_effect_at_anthropic_is_listed(fields: dict[str, Any], ignored: int):
    """The request goes up as it is; the fields are named for `x-smartrouter-ignored`."""
    async with backend_at("anthropic", Engine(V1)) as (backend, server):
        upstream = await backend.open(call(**fields), TARGET)
        await upstream.read()
        await upstream.aclose()
    names = set(fields) if ignored else set()
    assert set(upstream.ignored) == names
    assert len(upstream.ignored) == ignored
    assert json.loads(server.exchanges[0].body) == {"messages": MESSAGES, **fields, "model": TARGET.model}


async def test_strict_and_names_are_listed_at_anthropic():
    """4.3: `strict` of a tool and the `name` of a message are ignored there."""
    tools = [{"type": "function", "function": {"name": "f", "strict": True}}]
    messages = [{"role": "user", "name": "ann", "content": "hi"}]
    async with backend_at("anthropic", Engine(V1)) as (backend, _):
        upstream = await backend.open(call(tools=tools, messages=messages), TARGET)
        await upstream.aclose()
    assert upstream.ignored == ("tools.function.strict", "messages.name")


async def test_anthropic_does_neither_embeddings_nor_completions():
    """Refused by its capabilities."""
    async with backend_at("anthropic", Engine(V1)) as (backend, _):
        for operation, body in (
            ("embeddings", b'{"model":"m","input":"a"}'),
            ("completions", b'{"model":"m","prompt":"a"}'),
        ):
            with pytest.raises(UnsupportedParameterError):
                backend.check(parse_call(operation, body), TARGET)  # type: ignore[arg-type]


# -- LM Studio


class LMStudio:
    """LM Studio 0.4: the table's row, with a model of which there may be several instances."""

    def __init__(self) -> None:
        self.instances: list[str] = []

    async def __call__(self, exchange: Exchange) -> None:
        body = json.loads(exchange.body or b"{}")
        if exchange.path == "/api/v1/models":
            rows = [
                {
                    "type": "llm",
                    "key": "org/m",
                    "publisher": "org",
                    "size_bytes": 4_000_000_000,
                    "loaded_instances": [{"id": one, "config": {"context_length": 4096}} for one in self.instances],
                    "max_context_length": 32768,
                    "capabilities": {"vision": False, "trained_for_tool_use": True},
                },
                {"type": "embedding", "key": "org/e", "loaded_instances": [], "max_context_length": 2048},
            ]
            await exchange.answer(200, json.dumps({"models": rows}).encode())
        elif exchange.path == "/api/v1/models/load":
            self.instances.append(f"{body['model']}:{len(self.instances) + 1}")
            await exchange.answer(200, json.dumps({"status": "loaded", "instance_id": self.instances[-1]}).encode())
        elif exchange.path == "/api/v1/models/unload":
            self.instances.remove(body["instance_id"])
            await exchange.answer(200, json.dumps({"instance_id": body["instance_id"]}).encode())
        else:
            await Engine(V1)(exchange)


async def test_lm_studio_loads_once_and_unloads_every_instance():
    """A second load would make a second instance; unload goes by instance, not by model."""
    engine = LMStudio()
    async with backend_at("lmstudio", engine, num_ctx=8192) as (backend, server):
        llm, embedder = await backend.list_models()
        assert (llm.size_bytes, llm.capabilities, llm.owned_by) == (4_000_000_000, ("trained_for_tool_use",), "org")
        assert llm.can is not None
        assert embedder.can is not None
        assert (llm.can.vision, llm.can.chat, embedder.can.chat) == (False, True, False)
        assert backend.capabilities.can_load
        assert await backend.running() == ()
        await backend.load("org/m")
        await backend.load("org/m")
        assert engine.instances == ["org/m:1"]
        engine.instances.append("org/m:2")
        assert [model.id for model in await backend.running()] == ["org/m"]
        llm = (await backend.list_models())[0]
        assert llm.can is not None
        assert llm.can.context_length == 4096  # what it is loaded with, not what it could be
        await backend.unload("org/m")
        assert await backend.running() == ()
    loads = [json.loads(e.body) for e in server.exchanges if e.path.endswith("/load")]
    assert loads == [{"model": "org/m", "context_length": 8192}]


@pytest.mark.parametrize("unknown", [{}, {"/api/v1/models": {"error": "Unexpected endpoint or method."}}])
async def test_an_older_lm_studio_tells_what_is_loaded_but_cannot_be_told_to(unknown: dict[str, Any]):
    """Table: /api/v0/models with `state`; what it does not know it may answer with an error under 200."""
    rows = [{"id": "a", "type": "llm", "state": "loaded"}, {"id": "b", "type": "vlm", "state": "not-loaded"}]
    async with backend_at("lmstudio", Engine(V1, {"/api/v0/models": {"data": rows}, **unknown})) as (backend, _):
        assert [model.id for model in await backend.list_models()] == ["a", "b"]
        assert [model.id for model in await backend.running()] == ["a"]
        assert not backend.capabilities.can_load


@pytest.mark.parametrize(
    ("spec", "fields", "sent"),
    [
        ({"options": {"ttl": 600.0}}, {}, 600),
        ({"options": {"ttl": 600.0}}, {"ttl": 5}, 5),
        ({"keep_alive_s": 90.0}, {}, 90),
        ({"keep_alive_s": -1.0}, {}, None),
        ({}, {}, None),
    ],
)
async def test_lm_studios_ttl_comes_from_the_options(spec: dict[str, Any], fields: dict[str, Any], sent: int | None):
    """The client's own wins; else the option, else a positive keep_alive."""
    async with backend_at("lmstudio", Engine(V1), **spec) as (backend, server):
        await ask(backend, **fields)
    assert json.loads(server.exchanges[0].body).get("ttl") == sent


# -- LocalAI


@pytest.mark.parametrize("older", [False, True], ids=["with /system", "older"])
async def test_localai_loads_and_shuts_down(older: bool):
    """Table, LocalAI: /backend/load, /backend/shutdown, /backend/monitor?model= (0 not started, 1 busy, 2 ready).

    `/system` with `loaded_models` is of LocalAI's own source (core/http/endpoints/localai/system.go).
    """
    state = 0

    async def script(exchange: Exchange) -> None:
        nonlocal state
        path = exchange.path
        if path == "/backend/monitor?model=org%2Fm":
            await exchange.answer(200, json.dumps({"state": state, "memory": {"total": 5}}).encode())
        elif path == "/system" and older:
            await exchange.answer(404, b'{"error":{"code":404,"message":"Resource not found"}}')
        elif path == "/system":
            rows = [{"id": "org/m"}, {"id": "stopped"}] if state else []
            await exchange.answer(200, json.dumps({"backends": [], "loaded_models": rows}).encode())
        elif path in ("/backend/load", "/backend/shutdown"):
            assert json.loads(exchange.body) == {"model": "org/m"}
            state = 2 if path.endswith("load") else 0
            await exchange.answer(200, b"{}")
        else:
            await exchange.answer(500, b'{"error":{"code":500,"message":"backend x is not currently loaded"}}')

    async with backend_at("localai", script) as (backend, _):
        assert await backend.running() == ()
        await backend.load("org/m")
        assert [model.id for model in await backend.running()] == ["org/m"]
        assert await backend.is_idle("org/m") is True
        state = 1
        assert await backend.is_idle("org/m") is False
        assert await backend.is_idle("other") is None
        await backend.unload("org/m")
        assert await backend.running() == ()
        state = 2  # loaded by somebody else
        assert [model.id for model in await backend.running()] == ([] if older else ["org/m"])


async def test_a_localai_that_cannot_load_beforehand_loads_by_the_request():
    """Releases before /backend/load answer 404: nothing is wrong with the model."""
    async with backend_at("localai", Engine(V1)) as (backend, _):
        await backend.load("m")


async def test_a_load_that_fails_is_the_models_failure():
    """A rejected load says nothing of the server."""

    def refuse(status: int, message: str) -> Callable[[Exchange], Any]:
        async def script(exchange: Exchange) -> None:
            await exchange.answer(status, json.dumps({"error": {"message": message}}).encode())

        return script

    for status, message, found in (
        (500, "could not load model", (FailureKind.MODEL_FAILED, 503)),
        (500, "CUDA out of memory", (FailureKind.MODEL_FAILED, 503)),
        (503, "starting", (FailureKind.SERVER, 503)),
    ):
        async with backend_at("localai", refuse(status, message)) as (backend, _):
            with pytest.raises(AttemptError) as caught:
                await backend.load("m")
        assert (caught.value.kind, caught.value.status) == found


# -- the rest


def test_a_done_event_is_what_streams_end_with():
    """The scripts above are whole."""
    assert all(row.engine.stream[-1] == DONE for row in ROWS)
