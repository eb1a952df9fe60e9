"""The openai SDK in front of the router: what its users call, and what they get to see when something fails."""

from __future__ import annotations

import array
import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import openai
import pytest

from smartrouter_asgi import Settings, SmartRouter

from ..harness.engines import ANSWER, DONE, ROLE, STREAM, chunk, good
from ..harness.routers import MESSAGES, router_over
from ..harness.servers import Exchange, RawServer, Script, serve

T = TypeVar("T")

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Weather in a city — heute",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "number", "maximum": 1e3}},
                "required": ["city", "days"],
                "additionalProperties": False,
            },
        },
    }
]


class Counted:
    """An app around the router that counts the requests that reach it."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.requests = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests += scope["type"] == "http"
        await self._app(scope, receive, send)


@asynccontextmanager
async def sdk(app: Any, **options: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    """The async client of a served router; it retries nothing unless told to."""
    options = {"max_retries": 0, "api_key": "client-key", **options}
    async with serve(app) as url, openai.AsyncOpenAI(base_url=f"{url}/v1", **options) as client:
        yield client


async def in_thread(app: Any, use: Callable[[openai.OpenAI], T]) -> T:
    """Let a thread use the sync client of a served router."""

    def run(url: str) -> T:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="client-key", max_retries=0) as client:
            return use(client)

    async with serve(app) as url:
        return await asyncio.to_thread(run, url)


def answering(status: int, body: bytes | dict[str, Any], extra: str = "") -> Script:
    """An engine that always gives this answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def script(exchange: Exchange) -> None:
        await exchange.answer(status, data, extra=extra)

    return script


def streaming(*events: bytes) -> Script:
    """An engine that always streams these events."""

    async def script(exchange: Exchange) -> None:
        await exchange.start_stream()
        for event in events:
            await exchange.chunk(event)
        await exchange.end_stream()

    return script


async def silent(exchange: Exchange) -> None:
    """Say nothing until the other side gives up."""
    await exchange.gone()


def refused(
    message: str, *, type: str = "invalid_request_error", code: Any = None, param: Any = None
) -> dict[str, Any]:
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


# What it is for


async def test_async_client_gets_the_engines_answer():
    """Nothing the SDK models is lost, and the response headers say who answered."""
    async with RawServer(good) as engine, sdk(router_over(engine.base_url)) as client:
        raw = await client.chat.completions.with_raw_response.create(model="chat", messages=MESSAGES)
    completion = raw.parse()
    assert completion.to_dict() == ANSWER
    assert raw.headers["x-smartrouter-backend"] == "b1"
    assert raw.request_id


async def test_sync_client_gets_the_engines_answer():
    """The blocking client from a thread."""
    async with RawServer(good) as engine:
        completion = await in_thread(
            router_over(engine.base_url), lambda client: client.chat.completions.create(model="chat", messages=MESSAGES)
        )
    assert completion.to_dict() == ANSWER


async def test_async_stream_gives_every_chunk():
    """Chunks in order, the iterator ends by itself."""
    async with RawServer(good) as engine, sdk(router_over(engine.base_url)) as client:
        stream = await client.chat.completions.create(model="chat", messages=MESSAGES, stream=True)
        chunks = [chunk async for chunk in stream]
    assert [c.choices[0].delta.content for c in chunks] == ["", "Hel", "lo", None]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_sync_stream_gives_every_chunk():
    """The same from the blocking client."""

    def use(client: openai.OpenAI) -> list[str | None]:
        with client.chat.completions.create(model="chat", messages=MESSAGES, stream=True) as stream:
            return [chunk.choices[0].delta.content for chunk in stream]

    async with RawServer(good) as engine:
        assert await in_thread(router_over(engine.base_url), use) == ["", "Hel", "lo", None]


async def test_usage_chunk_arrives():
    """`stream_options` reaches the engine, its last chunk with no choices reaches the client."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    last = b"data: " + json.dumps({**ANSWER, "object": "chat.completion.chunk", "choices": [], "usage": usage}).encode()
    async with (
        RawServer(streaming(*STREAM[:-1], last + b"\n\n", DONE)) as engine,
        sdk(router_over(engine.base_url)) as client,
    ):
        stream = await client.chat.completions.create(
            model="chat", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert json.loads(engine.exchanges[0].body)["stream_options"] == {"include_usage": True}
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.to_dict() == usage


async def test_streaming_response_gives_the_engines_lines():
    """`with_streaming_response` sees the event stream itself."""
    async with RawServer(good) as engine, sdk(router_over(engine.base_url)) as client:
        async with client.chat.completions.with_streaming_response.create(
            model="chat", messages=MESSAGES, stream=True
        ) as response:
            lines = [line async for line in response.iter_lines()]
            assert response.headers["content-type"].startswith("text/event-stream")
            assert response.headers["x-accel-buffering"] == "no"
    assert "".join(f"{line}\n" for line in lines).encode().rstrip(b"\n") == b"".join(STREAM).rstrip(b"\n")


async def test_closing_a_stream_early_frees_the_upstream():
    """`stream.close()` is a client that leaves: the engine's connection is closed, not drained."""

    async def script(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.chunk(ROLE + chunk("Hel"))
        await exchange.gone()

    async with RawServer(script) as engine, sdk(router_over(engine.base_url)) as client:
        stream = await client.chat.completions.create(model="chat", messages=MESSAGES, stream=True)
        async for _ in stream:
            break
        await stream.close()
        async with asyncio.timeout(0.5):  # the aim is 0.1 s
            await engine.exchanges[0].closed.wait()


async def test_leaving_a_sync_stream_early_frees_the_upstream():
    """Leaving the `with` block of the blocking client does the same."""

    async def script(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.chunk(ROLE + chunk("Hel"))
        await exchange.gone()

    def use(client: openai.OpenAI) -> float:
        with client.chat.completions.create(model="chat", messages=MESSAGES, stream=True) as stream:
            next(iter(stream))
        left_at = time.monotonic()
        asyncio.run_coroutine_threadsafe(engine.exchanges[0].closed.wait(), loop).result(timeout=10)
        return time.monotonic() - left_at

    loop = asyncio.get_running_loop()
    async with RawServer(script) as engine:
        assert await in_thread(router_over(engine.base_url), use) < 0.5  # the aim is 0.1 s


async def test_cancelling_the_call_frees_the_upstream():
    """A cancelled task closes its connection; the engine is told, though it has not answered yet."""
    async with RawServer(silent) as engine, sdk(router_over(engine.base_url)) as client:
        call = asyncio.create_task(client.chat.completions.create(model="chat", messages=MESSAGES))
        exchange = await engine.seen(1)
        call.cancel()
        async with asyncio.timeout(0.5):
            await exchange.closed.wait()
        await asyncio.gather(call, return_exceptions=True)


# Tools


async def test_tool_request_passes_untouched():
    """Tools, choice, an assistant's calls and a tool's answer: the engine gets what the SDK wrote, in its order."""
    messages: list[Any] = [
        *MESSAGES,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Zürich"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": '{"temp": 1.50}'},
    ]
    sent: list[bytes] = []

    async def note(request: Any) -> None:
        sent.append(request.content)

    http_client = openai.DefaultAsyncHttpxClient(event_hooks={"request": [note]})
    async with RawServer(good) as engine, sdk(router_over(engine.base_url), http_client=http_client) as client:
        await client.chat.completions.create(
            model="chat",
            messages=messages,
            tools=TOOLS,
            tool_choice={"type": "function", "function": {"name": "weather"}},
            parallel_tool_calls=False,
            extra_body={"top_k": 40, "chat_template_kwargs": {"enable_thinking": False}},
        )
    received = engine.exchanges[0].body
    assert received == sent[0].replace(b'"model":"chat"', b'"model":"engine-model"')
    assert json.loads(received)["tools"] == TOOLS


def tool_delta(index: int, *, arguments: str, **extra: Any) -> bytes:
    call: dict[str, Any] = {"index": index, **extra}
    call["function"] = {**call.get("function", {}), "arguments": arguments}
    body = {**ANSWER, "object": "chat.completion.chunk"}
    del body["usage"]
    body["choices"] = [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]
    return b"data: " + json.dumps(body).encode() + b"\n\n"


async def test_streamed_tool_calls_are_reassembled():
    """Two parallel calls whose arguments come in pieces: the SDK's own accumulator makes them whole."""
    events = [
        chunk(role="assistant"),
        tool_delta(0, arguments="", id="c1", type="function", function={"name": "weather"}),
        tool_delta(0, arguments='{"city":"Zü'),
        tool_delta(0, arguments='rich","days":2}'),
        tool_delta(1, arguments="", id="c2", type="function", function={"name": "weather"}),
        tool_delta(1, arguments='{"city":"Oslo","days":1}'),
        chunk(finish="tool_calls"),
        DONE,
    ]
    async with RawServer(streaming(*events)) as engine, sdk(router_over(engine.base_url)) as client:
        async with client.chat.completions.stream(model="chat", messages=MESSAGES, tools=TOOLS) as stream:
            kinds = [event.type async for event in stream]
            completion = await stream.get_final_completion()
    calls = completion.choices[0].message.tool_calls
    assert calls is not None
    assert [(call.id, call.function.name, call.function.parsed_arguments) for call in calls] == [
        ("c1", "weather", {"city": "Zürich", "days": 2}),
        ("c2", "weather", {"city": "Oslo", "days": 1}),
    ]
    assert completion.choices[0].finish_reason == "tool_calls"
    assert kinds.count("tool_calls.function.arguments.done") == 2


# The other operations


async def test_embeddings_come_in_the_sdks_base64():
    """The SDK asks for base64 unless told otherwise; what it decodes are the engine's floats."""
    vectors = [[0.5, -1.25, 3.0], [0.0, 1.0, -2.0]]
    data = [
        {"object": "embedding", "index": i, "embedding": base64.b64encode(array.array("f", v).tobytes()).decode()}
        for i, v in enumerate(vectors)
    ]
    answer = {"object": "list", "model": "engine-model", "data": data, "usage": {"prompt_tokens": 2, "total_tokens": 2}}
    async with RawServer(answering(200, answer)) as engine, sdk(router_over(engine.base_url)) as client:
        response = await client.embeddings.create(model="chat", input=["one", "two"])
    assert engine.paths == ["/v1/embeddings"]
    assert json.loads(engine.exchanges[0].body)["encoding_format"] == "base64"
    assert [item.embedding for item in response.data] == vectors
    assert response.usage.prompt_tokens == 2


async def test_legacy_completions_plain_and_streamed():
    """`client.completions` is served like chat."""

    async def script(exchange: Exchange) -> None:
        text = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "engine-model"}
        pieces = [{**text, "choices": [{"index": 0, "text": t, "finish_reason": f}]} for t, f in PARTS]
        if json.loads(exchange.body).get("stream"):
            events = [b"data: " + json.dumps(piece).encode() + b"\n\n" for piece in pieces]
            await streaming(*events, DONE)(exchange)
        else:
            whole = {**text, "choices": [{"index": 0, "text": "Hello", "finish_reason": "stop"}]}
            await exchange.answer(200, json.dumps(whole).encode())

    async with RawServer(script) as engine, sdk(router_over(engine.base_url)) as client:
        plain = await client.completions.create(model="chat", prompt="hi")
        stream = await client.completions.create(model="chat", prompt="hi", stream=True)
        streamed = [chunk.choices[0].text async for chunk in stream]
    assert plain.choices[0].text == "Hello"
    assert streamed == ["Hel", "lo"]
    assert engine.paths == ["/v1/completions"] * 2


PARTS = [("Hel", None), ("lo", "stop")]


@pytest.mark.parametrize("name", ["org/model-7b", "plain", "llama3.1:8b", "a/b/c@q4+x"])
async def test_models_are_listed_and_retrieved_by_any_id(name: str):
    """Slashes, colons and other signs of an id survive the path, which the SDK encodes."""
    listed = {"object": "list", "data": [{"id": name, "object": "model", "created": 7, "owned_by": "acme"}]}
    async with RawServer(answering(200, listed)) as engine:
        router = SmartRouter(
            Settings.model_validate({"backends": {"cloud": {"type": "openai", "url": f"{engine.base_url}/v1"}}})
        )
        async with sdk(router) as client:
            models = [model async for model in client.models.list()]
            model = await client.models.retrieve(name)
    assert [m.id for m in models] == [name]
    assert (model.id, model.object, model.created, model.owned_by) == (name, "model", 7, "acme")


async def test_retrieving_an_unknown_model_is_not_found():
    """404 with near names."""
    async with RawServer(good) as engine, sdk(router_over(engine.base_url)) as client:
        with pytest.raises(openai.NotFoundError, match="did you mean 'chat'") as caught:
            await client.models.retrieve("chatt")
    assert caught.value.code == "model_not_found"


# Errors in the SDK's own classes


async def test_bad_request_of_the_client_names_the_field():
    """400 before any engine is asked."""
    async with RawServer(good) as engine, sdk(router_over(engine.base_url)) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="chat", messages="hi")  # type: ignore[call-overload]
    assert (caught.value.code, caught.value.param) == ("invalid_request", "messages")
    assert engine.exchanges == []


async def test_bad_request_by_the_engines_word_keeps_its_words():
    """The engine's message, code and parameter reach the client; nobody else is asked."""
    answer = refused("Invalid value: 'temperature' is 9", code="integer_above_max_value", param="temperature")
    async with (
        RawServer(answering(400, answer)) as first,
        RawServer(good) as second,
        sdk(router_over(first.base_url, second.base_url)) as client,
    ):
        with pytest.raises(openai.BadRequestError, match="'temperature' is 9") as caught:
            await client.chat.completions.create(model="chat", messages=MESSAGES, temperature=9)
    assert (caught.value.code, caught.value.param) == ("integer_above_max_value", "temperature")
    assert second.exchanges == []


async def test_unknown_model_is_not_found():
    """404, and no engine ever sees the name."""
    async with RawServer(good) as engine, sdk(router_over(engine.base_url)) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="gpt-99", messages=MESSAGES)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert caught.value.request_id == caught.value.response.headers["x-request-id"]
    assert engine.exchanges == []


async def test_unknown_path_is_not_found():
    """An API that is not served here answers with JSON the SDK can read."""
    async with RawServer(good) as engine, sdk(router_over(engine.base_url)) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.moderations.create(input="hi")
    assert caught.value.code == "not_found"


async def test_body_over_the_limit_is_an_api_status_error():
    """413 has no class of its own in the SDK."""
    router = router_over("http://127.0.0.1:9", server={"max_body": "1KiB"})
    async with sdk(router) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "x" * 2000}])
    assert (caught.value.status_code, caught.value.code) == (413, "body_too_large")


async def test_rate_limit_of_the_only_engine_passes_with_its_retry_after():
    """429 with the engine's pause, in whole seconds and exact."""
    script = answering(429, refused("slow down", type="rate_limit_error"), extra="retry-after: 61\r\n")
    async with RawServer(script) as engine, sdk(router_over(engine.base_url)) as client:
        with pytest.raises(openai.RateLimitError, match="slow down") as caught:
            await client.chat.completions.create(model="chat", messages=MESSAGES)
    error = caught.value
    assert error.code == "rate_limited"
    assert error.response.headers["retry-after"] == "61"
    assert error.response.headers["retry-after-ms"] == "61000"
    assert error.body["attempts"][0]["status"] == 429  # type: ignore[index]
    assert len(engine.exchanges) == 1


@pytest.mark.parametrize(
    ("script", "stream", "status", "code"),
    [
        pytest.param(answering(503, refused("overloaded")), False, 503, "upstream_error", id="503"),
        pytest.param(answering(500, refused("boom", type="server_error")), True, 500, "upstream_error", id="500"),
        pytest.param(answering(200, b"<html>"), False, 502, "upstream_error", id="no JSON"),
        pytest.param(answering(302, b"", extra="location: /\r\n"), True, 502, "upstream_redirect", id="redirect"),
        pytest.param(answering(401, refused("bad key")), False, 502, "upstream_auth", id="gateway's key refused"),
        pytest.param(silent, True, 504, "first_token_timeout", id="silent"),
    ],
)
async def test_exhausted_route_is_an_internal_server_error_that_tells_its_attempts(
    script: Script, stream: bool, status: int, code: str
):
    """Status, code, every attempt and the request's id, on the exception itself."""
    resilience = {
        "retry": {"max_retries": 1, "base_delay": "1ms", "max_delay": "1ms"},
        "timeouts": {"first_token": "200ms"},
    }
    async with RawServer(script) as engine, sdk(router_over(engine.base_url, resilience=resilience)) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="chat", messages=MESSAGES, stream=stream)
    error = caught.value
    assert (error.status_code, error.code) == (status, code)
    attempts = error.body["attempts"]  # type: ignore[index]
    assert len(attempts) == len(engine.exchanges)
    assert {(a["deployment"], a["status"], a["code"]) for a in attempts} == {("b1/engine-model", status, code)}
    assert error.request_id == error.response.headers["x-request-id"]
    assert error.response.headers["x-should-retry"] == "false"
    assert engine.base_url not in error.message


async def test_request_id_of_the_caller_is_kept():
    """An id given from outside is the one on the exception."""
    async with sdk(router_over("http://127.0.0.1:9")) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(
                model="gpt-99", messages=MESSAGES, extra_headers={"x-request-id": "job-17.a"}
            )
    assert caught.value.request_id == "job-17.a"


async def test_failure_inside_a_stream_raises_with_its_code():
    """A connection that breaks after the first token is never a clean end: `APIError` with a code, the text kept."""
    told = asyncio.Event()
    said: list[str | None] = []

    async def script(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.chunk(ROLE + chunk("Hel"))
        await told.wait()
        exchange.reset()

    async def listen(stream: Any) -> None:
        async for piece in stream:
            said.append(piece.choices[0].delta.content)
            if "Hel" in said:
                told.set()

    async with RawServer(script) as engine, sdk(router_over(engine.base_url)) as client:
        stream = await client.chat.completions.create(model="chat", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError) as caught:
            await listen(stream)
    assert said == ["", "Hel"]
    assert caught.value.code == "upstream_disconnected"
    assert not isinstance(caught.value, openai.APIStatusError)


async def test_engines_error_inside_a_stream_raises_in_its_words():
    """The engine's own error event, whatever its shape, is one the SDK raises."""
    script = streaming(ROLE, chunk("Hel"), b'data: {"error":{"message":"KV cache full","code":500}}\n\n')
    async with RawServer(script) as engine, sdk(router_over(engine.base_url)) as client:
        stream = await client.chat.completions.create(model="chat", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match="KV cache full"):
            [piece async for piece in stream]


# Who retries, and how long anybody waits


async def test_sdk_does_not_retry_what_the_router_has_retried():
    """`max_retries=2` on an exhausted route: one request to the router, and the attempts it made itself."""
    resilience = {"retry": {"max_retries": 1, "base_delay": "1ms", "max_delay": "1ms"}}
    async with RawServer(answering(503, refused("overloaded"))) as engine:
        counted = Counted(router_over(engine.base_url, resilience=resilience))
        async with sdk(counted, max_retries=2) as client:
            with pytest.raises(openai.InternalServerError):
                await client.chat.completions.create(model="chat", messages=MESSAGES)
    assert counted.requests == 1
    assert len(engine.exchanges) == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_clients_timeout_is_the_routers_deadline(stream: bool):
    """The header the SDK sends bounds the wait for an answer: 504, and the engine is let go."""
    async with RawServer(silent) as engine, sdk(router_over(engine.base_url)) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(
                model="chat", messages=MESSAGES, stream=stream, extra_headers={"x-stainless-read-timeout": "0.2"}
            )
        async with asyncio.timeout(0.5):
            await engine.exchanges[0].closed.wait()
    assert (caught.value.status_code, caught.value.code) == (504, "deadline_exceeded")


async def test_sdk_that_times_out_leaves_nothing_behind():
    """The SDK's own clock runs out first (the router was told of a longer one): the engine's connection is closed."""
    async with RawServer(silent) as engine, sdk(router_over(engine.base_url), timeout=0.2) as client:
        with pytest.raises(openai.APITimeoutError):
            await client.chat.completions.create(
                model="chat", messages=MESSAGES, extra_headers={"x-stainless-read-timeout": "60"}
            )
        async with asyncio.timeout(0.5):
            await engine.exchanges[0].closed.wait()
