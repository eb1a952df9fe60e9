"""The Ollama backend against the simulated engine, over real sockets."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from smartrouter_asgi.backends import ollama as ollama_module
from smartrouter_asgi.backends.base import Backend, BackendSpec
from smartrouter_asgi.backends.http_exchange import HTTPUpstream
from smartrouter_asgi.backends.ollama import OllamaBackend
from smartrouter_asgi.backends.registry import create_backend
from smartrouter_asgi.deployment import Deployment
from smartrouter_asgi.exceptions import AttemptError, FailureKind, FramingError, UnsupportedParameterError
from smartrouter_asgi.testing.ollama import GIB, OOM_ON_LOAD, RUNNER_STOPPED, Fault, SimulatedModel, SimulatedOllama
from smartrouter_asgi.transport.choice import choose_transport
from smartrouter_asgi.transport.http import Transport
from smartrouter_asgi.types import Operation
from smartrouter_asgi.wire.call import parse_call
from smartrouter_asgi.wire.ollama_request import translate_request
from smartrouter_asgi.wire.stream import PieceKind, Usage

CHAT, THINKER, EMBEDDER = "chat:8b", "thinker:14b", "embedder:latest"
DIGEST = "ab" * 32
MODELS = [
    SimulatedModel(CHAT, 5 * GIB, capabilities=("completion", "tools"), load_s=1, digest=DIGEST),
    SimulatedModel("alias:8b", 5 * GIB, capabilities=("completion", "tools"), load_s=1, digest=DIGEST),
    SimulatedModel("callers:8b", GIB, capabilities=("completion", "tools"), load_s=1, tool_calls_in="final"),
    SimulatedModel(THINKER, 6 * GIB, capabilities=("completion", "thinking"), load_s=1),
    SimulatedModel(EMBEDDER, GIB, capabilities=("embedding",), load_s=1, embedding_length=16),
]
HELLO = [{"role": "user", "content": "Hé there"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    for name in ("weather", "time")
]


@pytest.fixture
async def engine() -> AsyncIterator[SimulatedOllama]:
    async with SimulatedOllama(MODELS, time_scale=0.002) as running:
        yield running


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    made = choose_transport("auto")
    yield made
    await made.aclose()


@pytest.fixture
def backend(engine: SimulatedOllama, transport: Transport) -> OllamaBackend:
    return make(engine, transport)


def make(engine: SimulatedOllama, transport: Transport, **settings: Any) -> OllamaBackend:
    spec = BackendSpec(name="local", type="ollama", url=engine.base_url, **settings)
    return OllamaBackend(spec, transport)


async def start(backend: OllamaBackend, operation: Operation, model: str, **fields: Any) -> HTTPUpstream:
    call = parse_call(operation, json.dumps({"model": model, **fields}).encode())
    return await backend.open(call, Deployment(backend=backend.name, model=model))


async def ask(backend: OllamaBackend, operation: Operation, model: str, **fields: Any) -> dict[str, Any]:
    upstream = await start(backend, operation, model, **fields)
    try:
        decoded: dict[str, Any] = json.loads((await upstream.read()).body)
        return decoded
    finally:
        await upstream.aclose()


async def stream(backend: OllamaBackend, operation: Operation, model: str, **fields: Any) -> list[Any]:
    """Return the events of a stream, decoded, errors as they are."""
    upstream = await start(backend, operation, model, stream=True, **fields)
    events: list[Any] = []
    try:
        async for pieces in upstream.pieces():
            for piece in pieces:
                if piece.kind is PieceKind.ERROR:
                    events.append(piece.error)
                for event in piece.data.decode().split("\n\n")[:-1]:
                    data = event.removeprefix("data: ")
                    events.append(data if data == "[DONE]" else json.loads(data))
    finally:
        await upstream.aclose()
    return events


def joined(events: list[Any], member: str) -> str:
    return "".join(event["choices"][0]["delta"].get(member) or "" for event in events if event != "[DONE]")


# -- answers


async def test_a_chat_is_answered_plain_and_streamed_alike(backend: OllamaBackend) -> None:
    asked = {"messages": HELLO, "seed": 1, "max_tokens": 20}
    plain = await ask(backend, "chat", CHAT, **asked)
    *events, end = await stream(backend, "chat", CHAT, **asked)
    assert end == "[DONE]"
    assert plain["model"] == events[0]["model"] == CHAT
    assert plain["choices"][0]["message"]["content"] == joined(events, "content")
    assert "«Hé there»" in joined(events, "content")
    assert plain["choices"][0]["finish_reason"] == events[-1]["choices"][0]["finish_reason"] == "length"
    assert plain["usage"]["completion_tokens"] == 20


@pytest.mark.parametrize("size", [1, 7])
async def test_a_stream_cut_in_the_middle_of_characters_is_the_same(
    backend: OllamaBackend, engine: SimulatedOllama, size: int
) -> None:
    asked = {"messages": [{"role": "user", "content": "日本語 🙂"}], "seed": 1}
    whole = joined(await stream(backend, "chat", CHAT, **asked), "content")
    engine.faults.once(Fault(split_bytes=size))
    assert joined(await stream(backend, "chat", CHAT, **asked), "content") == whole
    assert "日本語 🙂" in whole


async def test_the_usage_chunk_and_the_metrics_agree(backend: OllamaBackend) -> None:
    asked = {"messages": HELLO, "max_tokens": 3, "stream": True, "stream_options": {"include_usage": True}}
    upstream = await start(backend, "chat", CHAT, **asked)
    data = b""
    async for pieces in upstream.pieces():
        data += b"".join(piece.data for piece in pieces)
    await upstream.aclose()
    usage = json.loads(data.split(b"\n\n")[-3].removeprefix(b"data: "))
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 3
    assert upstream.usage == Usage(prompt_tokens=usage["usage"]["prompt_tokens"], completion_tokens=3)


@pytest.mark.parametrize("model", [CHAT, "callers:8b"])
async def test_tool_calls_come_whole_from_either_place_in_the_stream(backend: OllamaBackend, model: str) -> None:
    asked = {"messages": [{"role": "user", "content": "the weather and the time"}], "tools": TOOLS}
    choice = (await ask(backend, "chat", model, **asked))["choices"][0]
    *events, end = await stream(backend, "chat", model, **asked)
    streamed = [call for event in events for call in event["choices"][0]["delta"].get("tool_calls", [])]
    assert choice["finish_reason"] == events[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert end == "[DONE]"
    assert [call["index"] for call in streamed] == [0, 1]
    for calls in (choice["message"]["tool_calls"], streamed):
        assert [call["function"]["name"] for call in calls] == ["weather", "time"]
        assert all(json.loads(call["function"]["arguments"]) == {"city": "simulated"} for call in calls)
        assert len({call["id"] for call in calls}) == 2


async def test_a_tool_result_goes_back_to_the_model(backend: OllamaBackend, engine: SimulatedOllama) -> None:
    question = {"role": "user", "content": "the weather"}
    first = await ask(backend, "chat", CHAT, messages=[question], tools=TOOLS)
    turn = first["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": turn["tool_calls"][0]["id"], "content": "22 degrees"}
    second = await ask(backend, "chat", CHAT, messages=[question, turn, result], tools=TOOLS)
    assert "«22 degrees»" in second["choices"][0]["message"]["content"]
    sent = engine.log[-1].body["messages"]
    assert sent[1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "simulated"}}
    assert sent[2]["tool_name"] == "weather"


async def test_thinking_is_reasoning_and_an_effort_of_none_switches_it_off(backend: OllamaBackend) -> None:
    message = (await ask(backend, "chat", THINKER, messages=HELLO))["choices"][0]["message"]
    assert message["reasoning_content"].startswith("Simulated reasoning")
    events = await stream(backend, "chat", THINKER, messages=HELLO)
    assert joined(events, "reasoning_content") == message["reasoning_content"]
    quiet = await ask(backend, "chat", THINKER, messages=HELLO, reasoning_effort="none")
    assert "reasoning_content" not in quiet["choices"][0]["message"]


async def test_an_effort_is_ignored_once_the_model_is_known_not_to_think(backend: OllamaBackend) -> None:
    asked = {"messages": HELLO, "reasoning_effort": "high"}
    with pytest.raises(AttemptError) as caught:
        await ask(backend, "chat", CHAT, **asked)
    assert (caught.value.kind, caught.value.param) == (FailureKind.UNSUPPORTED, "reasoning_effort")
    await backend.list_models()
    upstream = await start(backend, "chat", CHAT, **asked)
    await upstream.read()
    await upstream.aclose()
    assert upstream.ignored == ("reasoning_effort",)


async def test_a_json_schema_shapes_the_answer(backend: OllamaBackend) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    shape = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    answer = await ask(backend, "chat", CHAT, messages=HELLO, response_format=shape)
    assert isinstance(json.loads(answer["choices"][0]["message"]["content"])["a"], int)


async def test_a_completion_is_answered_plain_and_streamed_alike(backend: OllamaBackend) -> None:
    asked = {"prompt": "Once upon", "seed": 1, "max_tokens": 8, "logprobs": 1}
    plain = await ask(backend, "completions", CHAT, **asked)
    *events, end = await stream(backend, "completions", CHAT, **asked)
    choices = [event["choices"][0] for event in events]
    assert end == "[DONE]"
    assert plain["object"] == events[0]["object"] == "text_completion"
    assert plain["choices"][0]["text"] == "".join(choice["text"] for choice in choices)
    streamed = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    for member in ("tokens", "text_offset"):
        assert plain["choices"][0]["logprobs"][member] == [one for part in streamed for one in part[member]]
    assert choices[-1]["finish_reason"] == "length"


async def test_embeddings_come_as_floats_and_as_base64(backend: OllamaBackend) -> None:
    floats = await ask(backend, "embeddings", EMBEDDER, input=["a", "b"])
    packed = await ask(backend, "embeddings", EMBEDDER, input=["a", "b"], encoding_format="base64")
    assert [item["index"] for item in floats["data"]] == [0, 1]
    assert floats["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
    for plain, encoded in zip(floats["data"], packed["data"], strict=True):
        numbers = struct.unpack("<16f", base64.b64decode(encoded["embedding"]))
        assert numbers == pytest.approx(plain["embedding"], abs=1e-6)


async def test_a_refused_field_never_reaches_the_engine(backend: OllamaBackend, engine: SimulatedOllama) -> None:
    with pytest.raises(UnsupportedParameterError):
        await ask(backend, "chat", CHAT, messages=HELLO, n=2)
    assert engine.log == []


# -- memory


async def test_every_path_pins_one_context_and_one_timer_so_nothing_reloads(
    engine: SimulatedOllama, transport: Transport
) -> None:
    backend = make(engine, transport, keep_alive_s=-1.0, num_ctx=2048)
    await backend.load(CHAT)
    await ask(backend, "chat", CHAT, messages=HELLO, max_tokens=1)
    await ask(backend, "completions", CHAT, prompt="x", max_tokens=1)
    await ask(backend, "embeddings", CHAT, input="x")
    assert engine.stats.loads == 1
    assert {exchange.body["options"]["num_ctx"] for exchange in engine.log} == {2048}
    assert {exchange.body["keep_alive"] for exchange in engine.log} == {-1}


async def test_load_and_unload_move_a_model_in_and_out_of_memory(
    backend: OllamaBackend, engine: SimulatedOllama
) -> None:
    assert await backend.running() == ()
    await backend.load(CHAT)
    (loaded,) = await backend.running()
    assert (loaded.id, loaded.digest) == (CHAT, DIGEST)
    assert loaded.vram_bytes == loaded.size_bytes
    assert (loaded.vram_bytes or 0) > 5 * GIB
    await backend.unload(CHAT)
    assert not engine.loaded
    assert not await backend.running()


async def test_a_model_that_only_embeds_is_loaded_through_embed(
    backend: OllamaBackend, engine: SimulatedOllama
) -> None:
    await backend.load(EMBEDDER)
    assert engine.loaded == (EMBEDDER,)
    assert [exchange.path for exchange in engine.log] == ["/api/generate", "/api/embed"]
    await backend.unload(EMBEDDER)
    assert not engine.loaded


async def test_a_timer_of_zero_does_not_turn_a_load_into_an_unload(
    engine: SimulatedOllama, transport: Transport
) -> None:
    await make(engine, transport, keep_alive_s=0.0).load(CHAT)
    assert engine.loaded == (CHAT,)


async def test_an_unload_waits_until_the_last_request_is_done(backend: OllamaBackend, engine: SimulatedOllama) -> None:
    engine.faults.set(Fault(stall="mid_stream", after_tokens=1), path="/api/chat")
    upstream = await start(backend, "chat", CHAT, messages=HELLO, stream=True)
    gone = False

    async def unload() -> None:
        nonlocal gone
        await backend.unload(CHAT)
        gone = True

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(unload)
        await engine.wait_for(lambda e: sum(one.path == "/api/ps" for one in e.log) >= 2)
        assert not gone
        await upstream.aclose()
    assert gone
    assert not engine.loaded


async def test_an_unload_that_does_not_happen_is_a_failure(
    backend: OllamaBackend, engine: SimulatedOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ollama_module, "UNLOAD_TIMEOUT_S", 0.1)
    monkeypatch.setattr(ollama_module, "UNLOAD_POLL_S", 0.01)
    engine.faults.set(Fault(stall="mid_stream", after_tokens=1), path="/api/chat")
    upstream = await start(backend, "chat", CHAT, messages=HELLO, stream=True)
    with pytest.raises(AttemptError, match="still holds 'chat:8b'") as caught:
        await backend.unload(CHAT)
    await upstream.aclose()
    assert (caught.value.status, caught.value.engine_busy) == (504, True)


async def test_an_unload_under_another_tag_waits_for_the_shared_weights(
    backend: OllamaBackend, engine: SimulatedOllama
) -> None:
    await backend.list_models()
    await backend.load(CHAT)
    await backend.unload("alias:8b")
    assert not engine.loaded


async def test_unloading_a_model_that_is_not_there_is_no_failure(backend: OllamaBackend) -> None:
    await backend.unload("nobody:1b")
    await backend.unload(CHAT)


@pytest.mark.parametrize(
    ("fault", "kind", "status", "code"),
    [
        (Fault(load_error=OOM_ON_LOAD), FailureKind.MODEL_FAILED, 503, "vram_exhausted"),
        (Fault(load_error="llama-server process has terminated"), FailureKind.MODEL_FAILED, 503, "model_load_failed"),
        (Fault(load_error="a text nobody foresaw"), FailureKind.MODEL_FAILED, 502, "upstream_error"),
        (Fault(busy=True), FailureKind.SERVER, 503, "upstream_error"),
        (Fault(status=200, body={"error": OOM_ON_LOAD}), FailureKind.MODEL_FAILED, 503, "vram_exhausted"),
    ],
)
async def test_a_failed_load_says_whether_the_model_or_the_server_failed(
    backend: OllamaBackend, engine: SimulatedOllama, fault: Fault, kind: FailureKind, status: int, code: str
) -> None:
    engine.faults.set(fault)
    with pytest.raises(AttemptError) as caught:
        await backend.load(CHAT)
    assert (caught.value.kind, caught.value.status, caught.value.code) == (kind, status, code)


async def test_a_load_that_never_ends_fails_the_model(
    backend: OllamaBackend, engine: SimulatedOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ollama_module, "LOAD_TIMEOUT_S", 0.1)
    engine.faults.set(Fault(load_stall=True))
    with pytest.raises(AttemptError) as caught:
        await backend.load(CHAT)
    assert (caught.value.kind, caught.value.status) == (FailureKind.MODEL_FAILED, 504)


async def test_loading_an_unknown_model_says_that_it_is_missing(backend: OllamaBackend) -> None:
    with pytest.raises(AttemptError) as caught:
        await backend.load("nobody:1b")
    assert caught.value.kind is FailureKind.MODEL_MISSING


# -- failures


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("fault", "kind", "status"),
    [
        (Fault(busy=True), FailureKind.SERVER, 503),
        (Fault(load_error=OOM_ON_LOAD), FailureKind.MODEL_FAILED, 503),
        (Fault(crash="error"), FailureKind.MODEL_FAILED, 500),
        (Fault(status=400, body={"error": "model is required"}), FailureKind.MODEL_MISSING, 404),
        (Fault(status=403), FailureKind.AUTH, 502),
        (Fault(status=307, headers=(("location", "/"),)), FailureKind.PROTOCOL, 502),
    ],
)
async def test_a_failure_before_the_first_token_has_its_status(
    backend: OllamaBackend, engine: SimulatedOllama, fault: Fault, kind: FailureKind, status: int, streamed: bool
) -> None:
    engine.faults.set(fault)
    with pytest.raises(AttemptError) as caught:
        await start(backend, "chat", CHAT, messages=HELLO, stream=streamed)
    assert (caught.value.kind, caught.value.status) == (kind, status)


async def test_an_unknown_model_is_missing_on_every_surface(backend: OllamaBackend) -> None:
    needed: list[tuple[Operation, dict[str, Any]]] = [
        ("chat", {"messages": HELLO}),
        ("completions", {"prompt": "x"}),
        ("embeddings", {"input": "x"}),
    ]
    for operation, fields in needed:
        with pytest.raises(AttemptError) as caught:
            await start(backend, operation, "nobody:1b", **fields)
        assert (caught.value.kind, caught.value.status) == (FailureKind.MODEL_MISSING, 404)


@pytest.mark.parametrize(
    ("operation", "model", "fields", "param"),
    [
        ("chat", THINKER, {"messages": HELLO, "tools": TOOLS}, "tools"),
        ("chat", EMBEDDER, {"messages": HELLO}, "model"),
        ("completions", EMBEDDER, {"prompt": "x"}, "model"),
        ("completions", CHAT, {"prompt": "x", "suffix": "y"}, "suffix"),
    ],
)
async def test_what_a_model_cannot_do_names_the_field(
    backend: OllamaBackend, operation: Operation, model: str, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(AttemptError) as caught:
        await start(backend, operation, model, **fields)
    assert (caught.value.kind, caught.value.status, caught.value.param) == (FailureKind.UNSUPPORTED, 400, param)
    assert caught.value.code == "unsupported_parameter"


async def test_an_error_in_the_middle_of_a_stream_ends_it_without_done(
    backend: OllamaBackend, engine: SimulatedOllama
) -> None:
    engine.faults.set(Fault(crash="error", after_tokens=3))
    *events, error = await stream(backend, "chat", CHAT, messages=HELLO)
    assert isinstance(error, AttemptError)
    assert error.message == RUNNER_STOPPED
    assert all(event["choices"][0]["finish_reason"] is None for event in events)
    assert joined(events, "content")


async def test_a_stream_that_just_ends_was_truncated(backend: OllamaBackend, engine: SimulatedOllama) -> None:
    engine.faults.set(Fault(crash="eof", after_tokens=3))
    with pytest.raises(FramingError) as caught:
        await stream(backend, "chat", CHAT, messages=HELLO)
    assert caught.value.code == "upstream_truncated"


async def test_a_plain_answer_that_just_ends_was_truncated(backend: OllamaBackend, engine: SimulatedOllama) -> None:
    engine.faults.set(Fault(crash="eof", after_tokens=3))
    with pytest.raises(AttemptError) as caught:
        await ask(backend, "chat", CHAT, messages=HELLO)
    assert caught.value.code == "upstream_truncated"


@pytest.mark.parametrize("crash", ["close", "reset"])
async def test_a_connection_that_dies_amid_a_stream_is_a_reset(
    backend: OllamaBackend, engine: SimulatedOllama, crash: Any
) -> None:
    engine.faults.set(Fault(crash=crash, after_tokens=3))
    with pytest.raises(AttemptError) as caught:
        await stream(backend, "chat", CHAT, messages=HELLO)
    assert caught.value.kind is FailureKind.RESET


async def test_closing_a_stream_stops_the_engine(backend: OllamaBackend, engine: SimulatedOllama) -> None:
    engine.faults.set(Fault(stall="mid_stream", after_tokens=1))
    upstream = await start(backend, "chat", CHAT, messages=HELLO, stream=True)
    await upstream.aclose()
    await engine.wait_for(lambda e: e.stats.aborted_generations == 1 and e.stats.active_generations == 0)


# -- what it is


async def test_the_list_tells_what_the_engine_tells(backend: OllamaBackend) -> None:
    listed = {model.id: model for model in await backend.list_models()}
    assert set(listed) == {model.name for model in MODELS}
    chat = listed[CHAT]
    assert (chat.size_bytes, chat.digest, chat.owned_by) == (5 * GIB, DIGEST, "library")
    assert chat.capabilities == ("completion", "tools")
    assert chat.created == 1767225600


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"models": None}, []),
        ({"models": [{"name": "a:b", "size": 5}, {"size": 1}, "x"]}, [("a:b", ())]),
        (
            {"models": [{"model": "big:cloud", "remote_host": "https://ollama.com", "capabilities": ["thinking"]}]},
            [("big:cloud", ("thinking",))],
        ),
    ],
)
async def test_a_list_is_read_leniently(
    backend: OllamaBackend, engine: SimulatedOllama, body: dict[str, Any], expected: list[Any]
) -> None:
    engine.faults.set(Fault(status=200, body=body), path="/api/tags")
    assert [(model.id, model.capabilities) for model in await backend.list_models()] == expected


@pytest.mark.parametrize("body", [{}, [], {"models": 5}])
async def test_what_is_no_list_fails_and_is_never_an_empty_guess(
    backend: OllamaBackend, engine: SimulatedOllama, body: Any
) -> None:
    for path in ("/api/tags", "/api/ps"):
        engine.faults.set(Fault(status=200, body=json.dumps(body)), path=path)
    for ask_for in (backend.list_models, backend.running):
        with pytest.raises(AttemptError) as caught:
            await ask_for()
        assert caught.value.kind is FailureKind.PROTOCOL


async def test_ping_is_content_with_a_version_and_fails_when_nothing_answers(
    backend: OllamaBackend, engine: SimulatedOllama
) -> None:
    await backend.ping()
    await engine.refuse_connections()
    with pytest.raises(AttemptError) as caught:
        await backend.ping()
    assert caught.value.kind is FailureKind.CONNECT


async def test_a_url_that_ends_in_v1_works_too(engine: SimulatedOllama, transport: Transport) -> None:
    spec = BackendSpec(name="local", type="ollama", url=engine.base_url + "/v1")
    backend = create_backend(spec, transport)
    assert isinstance(backend, Backend)
    await backend.ping()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama3", "llama3:latest"),
        ("llama3:8b", "llama3:8b"),
        ("library/llama3", "llama3:latest"),
        ("registry.ollama.ai/library/llama3:8b", "llama3:8b"),
        ("someone/model", "someone/model:latest"),
        ("host:5000/someone/model", "host:5000/someone/model:latest"),
        ("hf.co/org/repo:Q4_K_M", "hf.co/org/repo:Q4_K_M"),
    ],
)
async def test_a_name_is_canonical_with_its_tag(backend: OllamaBackend, name: str, expected: str) -> None:
    assert backend.canonical(name) == expected


async def test_it_cannot_tell_whether_it_is_idle(backend: OllamaBackend) -> None:
    assert await backend.is_idle(CHAT) is None
    assert backend.capabilities.can_load
    assert backend.capabilities.can_report_loaded
    assert backend.capabilities.loads_on_demand
    assert not backend.capabilities.can_report_idle


async def test_a_call_is_translated_once_for_the_check_and_all_attempts(
    backend: OllamaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def counting(*args: Any, **kwargs: Any) -> Any:
        made.append(args)
        return translate_request(*args, **kwargs)

    monkeypatch.setattr("smartrouter_asgi.backends.ollama.translate_request", counting)
    call = parse_call("chat", b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}')
    one, other = Deployment(backend="b", model="one:latest"), Deployment(backend="b", model="other:latest")
    backend.check(call, one)
    backend.prepare(call, one)
    backend.prepare(call, one)
    assert len(made) == 1
    assert b'"other:latest"' in backend.prepare(call, other).body
