"""The llama.cpp adapter against scripted servers, through the router; the real engine's tests are in `live/`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import pytest

from smartrouter_asgi import Settings, SmartRouter
from smartrouter_asgi.backends import llamacpp
from smartrouter_asgi.backends.base import BackendSpec
from smartrouter_asgi.backends.llamacpp import LlamaCppBackend
from smartrouter_asgi.deployment import Deployment
from smartrouter_asgi.exceptions import AttemptError, FailureKind
from smartrouter_asgi.transport.choice import choose_transport
from smartrouter_asgi.types import Secret
from smartrouter_asgi.wire.call import parse_call

from .harness.engines import ANSWER, ROLE, STREAM, chunk, good
from .harness.routers import chat
from .harness.servers import Exchange, RawServer, serve

LOADING = b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'
OVERFLOW = (
    b'{"error":{"code":400,"message":"request (2019 tokens) exceeds the available context size (256 tokens), '
    b'try increasing it","type":"exceed_context_size_error","n_prompt_tokens":2019,"n_ctx":256}}'
)
# `/props` of a server with one model, facts 3.1; `is_sleeping` is there with `--sleep-idle-seconds`.
AWAKE = b'{"default_generation_settings":{},"total_slots":2,"modalities":{"vision":false},"is_sleeping":false}'
ASLEEP = AWAKE.replace(b'"is_sleeping":false', b'"is_sleeping":true')


def slots(*processing: bool) -> bytes:
    return json.dumps([{"id": n, "n_ctx": 256, "is_processing": p} for n, p in enumerate(processing)]).encode()


class LlamaServer:
    """A scripted llama-server: `answers` maps a path to status and body, everything else is healthy."""

    def __init__(self, answers: dict[str, tuple[int, bytes]] | None = None) -> None:
        self.answers = answers or {}

    async def __call__(self, exchange: Exchange) -> None:
        for path, (status, body) in self.answers.items():
            if exchange.path.startswith(path):
                await exchange.answer(status, body)
                return
        if exchange.path == "/health":
            await exchange.answer(200, b'{"status":"ok"}')
        elif exchange.path == "/slots":
            await exchange.answer(200, slots(False, False))
        elif exchange.path == "/props":
            await exchange.answer(200, AWAKE)
        else:
            await good(exchange)


def router_over(url: str, *, type: str = "llama.cpp", retry: dict[str, Any] | None = None) -> SmartRouter:
    return SmartRouter(
        Settings.model_validate(
            {
                "backends": {"local": {"type": type, "url": url}},
                "models": [{"name": "chat", "deployments": [{"backend": "local", "model": "engine-model"}]}],
                "resilience": {"retry": {"base_delay": "10ms", "max_delay": "50ms", **(retry or {})}},
            }
        )
    )


@asynccontextmanager
async def through(router: SmartRouter) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the router, served without a lifespan so that the engine sees nothing but what the test asks."""
    async with aclosing(router), serve(router, lifespan="off") as url:
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            yield client


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_base_url_works_with_and_without_version(suffix: str):
    """Inference and the list live under `/v1`, health and slots beside it, however the address was written."""
    async with RawServer(LlamaServer()) as engine:
        router = router_over(engine.base_url + suffix)
        async with through(router) as client:
            answer = await client.post("/v1/chat/completions", json=chat())
            await client.get("/v1/models")
            await client.get("/health")
            await router.backends["local"].is_idle("engine-model")
    assert answer.content == json.dumps(ANSWER).encode()
    assert engine.paths == ["/v1/chat/completions", "/v1/models", "/health", "/props", "/slots"]


@pytest.mark.parametrize(
    ("path", "request_body"),
    [
        ("/chat/completions", chat("chat")),
        ("/completions", {"model": "chat", "prompt": "hi"}),
        ("/embeddings", {"model": "chat", "input": "hi"}),
    ],
)
async def test_every_operation_goes_to_its_path(path: str, request_body: dict[str, Any]):
    """The engine sees the configured id and otherwise what the client sent."""
    async with RawServer(LlamaServer()) as engine, through(router_over(engine.base_url)) as client:
        response = await client.post(f"/v1{path}", json=request_body)
    assert response.status_code == 200
    assert engine.paths == [f"/v1{path}"]
    assert json.loads(engine.exchanges[0].body) == {**request_body, "model": "engine-model"}


async def test_stream_passes_byte_for_byte_with_its_keepalive_comments():
    """A comment the engine sends every 30 s is no event: before the answer it is nothing, within it it passes."""

    async def script(exchange: Exchange) -> None:
        await exchange.start_stream()
        for event in (b":\n\n", *STREAM[:2], b":\n\n", *STREAM[2:]):
            await exchange.chunk(event)
        await exchange.end_stream()

    async with RawServer(script) as engine, through(router_over(engine.base_url)) as client:
        response = await client.post("/v1/chat/completions", json=chat(stream=True))
    assert response.status_code == 200
    assert response.content == b"".join([*STREAM[:2], b":\n\n", *STREAM[2:]])


@pytest.mark.parametrize("stream", [False, True])
async def test_request_during_loading_is_retried_until_the_model_is_there(stream: bool):
    """503 "Loading model" passes by itself: the client sees the answer, not the wait."""

    async def script(exchange: Exchange) -> None:
        if len(engine.exchanges) <= 2:
            await exchange.answer(503, LOADING)
        else:
            await good(exchange)

    async with RawServer(script) as engine, through(router_over(engine.base_url)) as client:
        response = await client.post("/v1/chat/completions", json=chat(stream=stream))
    assert response.status_code == 200
    assert response.headers["x-smartrouter-attempts"] == "3"


async def test_loading_that_outlasts_the_retries_is_503_in_the_engines_words():
    """The exhausted route says what the engine said, and how often it was asked."""
    async with (
        RawServer(LlamaServer({"/": (503, LOADING)})) as engine,
        through(router_over(engine.base_url, retry={"max_retries": 2})) as client,
    ):
        response = await client.post("/v1/chat/completions", json=chat())
    error = response.json()["error"]
    assert response.status_code == 503
    assert error["message"] == "Loading model"
    assert [attempt["status"] for attempt in error["attempts"]] == [503, 503, 503]
    assert response.headers["x-should-retry"] == "false"
    assert int(response.headers["retry-after"]) >= 1


async def test_health_says_that_it_loads():
    """Down, with the engine's own reason; nothing of its address."""
    async with (
        RawServer(LlamaServer({"/": (503, LOADING)})) as engine,
        through(router_over(engine.base_url)) as client,
    ):
        response = await client.get("/health")
    assert response.status_code == 503
    assert response.json()["backends"]["local"]["state"] == "down"
    assert response.json()["backends"]["local"]["reason"] == "Loading model"
    assert engine.base_url not in response.text


async def test_health_asks_health_and_nothing_else():
    """`/health` is public and cheap: no list of models, no slots."""
    async with RawServer(LlamaServer()) as engine, through(router_over(engine.base_url)) as client:
        response = await client.get("/health")
    assert response.status_code == 200
    assert response.json()["backends"]["local"]["state"] == "up"
    assert engine.paths == ["/health"]


@pytest.mark.parametrize(
    ("answer", "idle"),
    [
        pytest.param((200, slots(False, False)), True, id="no slot works"),
        pytest.param((200, slots(False, True)), False, id="one slot works"),
        pytest.param((200, slots()), True, id="no slots"),
        pytest.param(
            (501, b'{"error":{"code":501,"message":"no slots","type":"not_supported_error"}}'), None, id="off"
        ),
        pytest.param((404, b"{}"), None, id="unknown path"),
        pytest.param((200, b'{"slots":[]}'), None, id="another shape"),
        pytest.param((200, b"<html>"), None, id="no JSON"),
        pytest.param((503, LOADING), None, id="loading"),
    ],
)
async def test_idle_is_read_from_the_slots(answer: tuple[int, bytes], idle: bool | None):
    """None means that it cannot be told, which is neither idle nor busy."""
    async with RawServer(LlamaServer({"/slots": answer})) as engine:
        router = router_over(engine.base_url)
        assert await router.backends["local"].is_idle("engine-model") is idle
        await router.aclose()


async def test_no_server_is_an_idle_one():
    """A process that is gone works on nothing."""
    async with RawServer(LlamaServer()) as engine:
        pass
    router = router_over(engine.base_url)
    assert await router.backends["local"].is_idle("engine-model") is True
    await router.aclose()


@pytest.mark.parametrize(("processing", "attempts"), [(False, 2), (True, 1)])
async def test_cut_connection_is_retried_only_where_the_engine_is_seen_idle(processing: bool, attempts: int):
    """What the engine may still be working on is not sent to it a second time."""

    async def script(exchange: Exchange) -> None:
        if exchange.path == "/slots":
            await exchange.answer(200, slots(processing, False))
        elif exchange.path == "/props":
            await exchange.answer(200, AWAKE)
        elif engine.paths.count("/v1/chat/completions") == 1:
            exchange.reset()
        else:
            await good(exchange)

    async with RawServer(script) as engine, through(router_over(engine.base_url)) as client:
        response = await client.post("/v1/chat/completions", json=chat())
    assert engine.paths.count("/v1/chat/completions") == attempts
    assert response.status_code == (502 if processing else 200)


@pytest.mark.parametrize("stream", [False, True])
async def test_context_overflow_gets_the_code_openai_clients_know(stream: bool):
    """400 before anything of a stream is sent, asked once."""
    async with (
        RawServer(LlamaServer({"/v1/chat": (400, OVERFLOW)})) as engine,
        through(router_over(engine.base_url)) as client,
    ):
        response = await client.post("/v1/chat/completions", json=chat(stream=stream))
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert len(engine.exchanges) == 1


async def test_wrong_key_is_the_gateways_fault():
    """The engine's 401 is about our key, never about the client's: 502, and the key's value appears nowhere."""
    refusal = b'{"error":{"message":"Invalid API Key","type":"authentication_error","code":401}}'
    async with (
        RawServer(LlamaServer({"/v1": (401, refusal)})) as engine,
        through(router_over(engine.base_url)) as client,
    ):
        response = await client.post("/v1/chat/completions", json=chat())
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "upstream_auth"


async def test_error_inside_a_stream_ends_it_in_the_engines_words():
    """Old servers send `error: {...}` without `data:`; the client gets one well-formed error event, no `[DONE]`."""

    async def script(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.chunk(ROLE + chunk("Hel"))
        await exchange.chunk(b'error: {"code":500,"message":"context shift failed","type":"server_error"}\n\n')
        await exchange.end_stream()

    async with RawServer(script) as engine, through(router_over(engine.base_url)) as client:
        response = await client.post("/v1/chat/completions", json=chat(stream=True))
    assert response.status_code == 200
    *before, last = [event for event in response.text.split("\n\n") if event]
    assert len(before) == 2
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "context shift failed"


@pytest.mark.parametrize("stream", [False, True])
async def test_client_that_leaves_closes_the_engines_connection(stream: bool):
    """The engine sees it at once: the only way it has of knowing that it works for nobody."""

    async def script(exchange: Exchange) -> None:
        if stream:
            await exchange.start_stream()
            await exchange.chunk(ROLE + chunk("Hel"))
        await exchange.gone()

    async with RawServer(script) as engine, through(router_over(engine.base_url)) as client:
        request = asyncio.create_task(client.post("/v1/chat/completions", json=chat(stream=stream)))
        exchange = await engine.seen(1)
        request.cancel()
        async with asyncio.timeout(0.5):  # the aim is 0.1 s
            await exchange.closed.wait()
        await asyncio.gather(request, return_exceptions=True)


async def test_clients_headers_stay_here():
    """`X-Conversation-Id` would make the engine go on after a disconnect; the client's key is not the engine's."""
    headers = {"x-conversation-id": "c1", "authorization": "Bearer client", "cookie": "a=b"}
    async with RawServer(LlamaServer()) as engine, through(router_over(engine.base_url)) as client:
        await client.post("/v1/chat/completions", json=chat(), headers=headers)
    seen = engine.exchanges[0]
    assert [seen.header(name) for name in headers] == [None, None, None]


@pytest.mark.parametrize(
    "props", [b'{"default_generation_settings":{},"total_slots":1}', b'{"role":"router","max_instances":4}']
)
async def test_auto_tells_it_by_its_props(props: bytes):
    """A server with llama.cpp's `/props` is one, with a model or as a router of models."""
    answers = {"/api/version": (404, b"{}"), "/props": (200, props)}
    async with (
        RawServer(LlamaServer(answers)) as engine,
        through(router_over(engine.base_url, type="auto")) as client,
    ):
        response = await client.post("/v1/chat/completions", json=chat())
        health = (await client.get("/health")).json()
    assert response.status_code == 200
    assert health["backends"]["local"]["type"] == "llama.cpp"
    assert engine.paths[-2:] == ["/v1/chat/completions", "/health"]


async def test_auto_waits_for_a_server_that_loads():
    """While every path answers 503 its kind cannot be told; the request is retried and finds it ready."""

    async def script(exchange: Exchange) -> None:
        if len(engine.exchanges) <= 3:
            await exchange.answer(503, LOADING)
        else:
            await ready(exchange)

    ready = LlamaServer({"/api/version": (404, b"{}"), "/props": (200, b'{"default_generation_settings":{}}')})
    async with RawServer(script) as engine, through(router_over(engine.base_url, type="auto")) as client:
        response = await client.post("/v1/chat/completions", json=chat())
    assert response.status_code == 200


async def test_auto_with_a_wrong_key_says_so():
    """A server that answers nobody without its key is not "of no known kind"."""
    refusal = b'{"error":{"message":"Invalid API Key","type":"authentication_error","code":401}}'
    async with (
        RawServer(LlamaServer({"/": (401, refusal)})) as engine,
        through(router_over(engine.base_url, type="auto")) as client,
    ):
        response = await client.post("/v1/chat/completions", json=chat())
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "upstream_auth"


@asynccontextmanager
async def backend_over(url: str, **spec: Any) -> AsyncIterator[LlamaCppBackend]:
    """The adapter alone, without a router."""
    transport = choose_transport("auto")
    try:
        yield LlamaCppBackend(BackendSpec(name="local", type="llama.cpp", url=url, **spec), transport)
    finally:
        await transport.aclose()


# ---- one model


async def test_what_the_list_tells_of_a_single_model():
    """Its context and what it takes stand in the list; size on disk too. It stays a server that loads nothing."""
    # facts 3.1, `GET /v1/models` of a live server
    listed = (
        b'{"models":[{"name":"tiny"}],"object":"list","data":[{"id":"tiny","aliases":["t"],"tags":[],"object":"model",'
        b'"created":1760000000,"owned_by":"llamacpp","architecture":{"input_modalities":["text"],'
        b'"output_modalities":["text"]},"meta":{"vocab_type":1,"n_vocab":259,"n_ctx":256,"n_ctx_train":512,"n_embd":64,'
        b'"n_params":110784,"size":443136,"ftype":"all F32"}}]}'
    )
    async with (
        RawServer(LlamaServer({"/v1/models": (200, listed)})) as engine,
        backend_over(engine.base_url) as backend,
    ):
        assert not backend.is_settled
        (model,) = await backend.list_models()
        assert (model.id, model.owned_by, model.size_bytes) == ("tiny", "llamacpp", 443136)
        assert model.can is not None
        assert (model.can.context_length, model.can.vision, model.can.can_load) == (256, False, False)
        assert backend.is_settled
        assert not backend.is_router
        assert not backend.capabilities.can_report_loaded
        assert await backend.running() == ()
    assert engine.paths == ["/v1/models"]


async def test_a_sleeping_server_is_idle_and_left_asleep():
    """`/props` does not wake it; `/slots` and whatever counts tokens would keep it awake or crash it (facts 3.1)."""
    async with (
        RawServer(LlamaServer({"/props": (200, ASLEEP)})) as engine,
        backend_over(engine.base_url) as backend,
    ):
        await backend.ping()
        assert await backend.is_idle("engine-model") is True
        await backend.list_models()
    assert engine.paths == ["/health", "/props", "/v1/models"]


async def test_the_key_goes_to_every_path():
    """Bearer, as its `--api-key` wants it; `/health` is public and gets it all the same."""
    async with (
        RawServer(LlamaServer()) as engine,
        backend_over(engine.base_url, api_keys=(Secret("sk-engine"),)) as backend,
    ):
        await backend.ping()
        await backend.list_models()
        await backend.is_idle("engine-model")
    assert {exchange.header("authorization") for exchange in engine.exchanges} == {"Bearer sk-engine"}


async def test_the_usage_chunk_and_its_timings_pass_and_are_counted():
    """With `include_usage` the last chunk has `choices: []`, the token counts and llama.cpp's `timings` (facts 3.1)."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    last = (
        b"data: " + json.dumps({"choices": [], "usage": usage, "timings": {"prompt_n": 3, "predicted_n": 2}}).encode()
    )
    events = [*STREAM[:-1], last + b"\n\n", STREAM[-1]]

    async def script(exchange: Exchange) -> None:
        await exchange.start_stream()
        for event in events:
            await exchange.chunk(event)
        await exchange.end_stream()

    async with RawServer(script) as engine, through(router_over(engine.base_url)) as client:
        response = await client.post("/v1/chat/completions", json=chat(stream=True))
        metrics = (await client.get("/metrics")).text
    assert response.content == b"".join(events)
    assert any(line.startswith("smartrouter_tokens_total") and line.endswith(" 2.0") for line in metrics.splitlines())


# ---- a router over many models


def error_body(status: int, message: str, type: str = "invalid_request_error") -> bytes:
    return json.dumps({"error": {"code": status, "message": message, "type": type}}).encode()


class LlamaRouter:
    """A scripted llama-server in router mode: the shapes of facts 3.2, read from `tools/server/server-models.cpp`.

    A load is taken note of at once and finished after `polls` looks at the list; `broken` models end with exit code 1.
    """

    def __init__(self, *models: str, loaded: tuple[str, ...] = (), polls: int = 2, broken: tuple[str, ...] = ()):
        self.status = {model: "loaded" if model in loaded else "unloaded" for model in models}
        self.polls = polls
        self.broken = broken
        self.failed: set[str] = set()
        self.aliases: dict[str, list[str]] = {}
        self.pending: dict[str, int] = {}
        self.peak = 0
        self.log: list[str] = []
        self.slots = slots(False)
        self.chat: list[tuple[int, bytes]] = []
        """Answers to the next requests for a completion, before it serves again."""

    async def __call__(self, exchange: Exchange) -> None:
        path, _, query = exchange.path.partition("?")
        body = json.loads(exchange.body) if exchange.body else {}
        if path in ("/models", "/v1/models"):
            await exchange.answer(200, self._list())
        elif path == "/props":
            await exchange.answer(200, b'{"role":"router","max_instances":4,"default_generation_settings":{"n_ctx":0}}')
        elif path == "/health":
            await exchange.answer(200, b'{"status":"ok"}')
        elif path in ("/models/load", "/models/unload"):
            await exchange.answer(*self._change(path.rpartition("/")[2], body["model"]))
        elif path == "/slots":
            assert "autoload=0" in query
            await exchange.answer(200, self.slots)
        elif self.chat:
            await exchange.answer(*self.chat.pop(0))
        elif body["model"] not in self.status:
            await exchange.answer(400, error_body(400, f"model '{body['model']}' not found"))
        else:
            self.log.append(f"chat {body['model']}")
            await good(exchange)

    def _list(self) -> bytes:
        for model in list(self.pending):
            self.pending[model] -= 1
            if self.pending[model] <= 0:
                del self.pending[model]
                self._finish(model)
        rows = [self._row(model, status) for model, status in self.status.items()]
        return json.dumps({"object": "list", "data": rows}).encode()

    def _row(self, model: str, value: str) -> dict[str, Any]:
        status: dict[str, Any] = {"value": value, "args": ["llama-server", "--model", "x.gguf"], "preset": ""}
        if model in self.failed:
            status |= {"failed": True, "exit_code": 1}
        return {
            "id": model,
            "aliases": self.aliases.get(model, []),
            "object": "model",
            "owned_by": "llamacpp",
            "created": 1760000000,
            "status": status,
            "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
            "source": "preset",
            "can_remove": False,
        }

    def _change(self, verb: str, model: str) -> tuple[int, bytes]:
        known = self.status.get(model)
        if known is None:
            status = 404 if verb == "load" else 400
            return status, error_body(status, "model is not found", "not_found_error")
        running = known in ("loading", "loaded", "sleeping")
        if verb == "load" and running:
            return 400, error_body(400, "model is already running")
        if verb == "unload" and not running:
            return 400, error_body(400, "model is not running")
        self.log.append(f"{verb} {model}")
        self.pending[model] = self.polls
        if verb == "load":
            self.failed.discard(model)
            self.status[model] = "loading"
            self.peak = max(self.peak, sum(status != "unloaded" for status in self.status.values()))
        return 200, b'{"success":true}'

    def _finish(self, model: str) -> None:
        loading = self.status[model] == "loading"
        if loading and model in self.broken:
            self.failed.add(model)
        self.status[model] = "loaded" if loading and model not in self.broken else "unloaded"


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a scripted engine."""
    monkeypatch.setattr(llamacpp, "POLL_S", 0.01)


async def test_a_router_is_told_by_its_list_and_may_load_from_then_on():
    """Only a router's entries have a `status`: what it can do is known with the first list, at no extra request."""
    engine = LlamaRouter("a", "org/b", loaded=("a",))
    engine.status["c"] = "downloading"
    async with RawServer(engine) as server, backend_over(server.base_url) as backend:
        assert not backend.capabilities.can_load
        assert [model.id for model in await backend.list_models()] == ["a", "org/b"]
        can = backend.capabilities
        assert backend.is_router
        assert (can.can_load, can.can_report_loaded, can.loads_on_demand) == (True, True, True)
    assert server.paths == ["/v1/models"]


async def test_a_router_without_models_is_told_by_its_props():
    """`{"role": "router"}`, facts 3.2."""
    async with RawServer(LlamaRouter()) as server, backend_over(server.base_url) as backend:
        await backend.settle()
        assert backend.is_router
        await backend.settle()
    assert server.paths == ["/v1/models", "/props"]


async def test_a_hidden_list_is_no_router():
    """What has no list will have none the next time: it is not asked again with every request."""
    async with (
        RawServer(LlamaServer({"/v1/models": (404, b'{"error":{"message":"File Not Found","code":404}}')})) as engine,
        backend_over(engine.base_url) as backend,
    ):
        await backend.settle()
        assert backend.is_settled
        assert not backend.is_router


async def test_a_server_that_loads_is_not_settled():
    """503 says nothing of what it is."""
    async with RawServer(LlamaServer({"/": (503, LOADING)})) as engine, backend_over(engine.base_url) as backend:
        with pytest.raises(AttemptError):
            await backend.settle()
        assert not backend.is_settled


async def test_running_counts_what_holds_memory_or_takes_it_back_unasked():
    """Loading, loaded, and sleeping: a request wakes a sleeping one without anybody's leave."""
    engine = LlamaRouter("a", "b", "c", "d")
    engine.status |= {"a": "loaded", "b": "sleeping", "c": "loading"}
    async with RawServer(engine) as server, backend_over(server.base_url) as backend:
        assert [model.id for model in await backend.running()] == ["a", "b", "c"]


@pytest.mark.usefixtures("_quick")
async def test_load_returns_once_the_model_is_there():
    """`POST /models/load` answers at once; the list says when it is done. A load under way is joined."""
    engine = LlamaRouter("org/a", polls=3)
    async with RawServer(engine) as server, backend_over(server.base_url) as backend:
        await asyncio.gather(backend.load("org/a"), backend.load("org/a"))
        assert engine.status == {"org/a": "loaded"}
        await backend.load("org/a")
    assert engine.log == ["load org/a"]


@pytest.mark.usefixtures("_quick")
async def test_a_load_that_fails_says_its_exit_code():
    """The child's end is the model's failure, not the server's."""
    async with RawServer(LlamaRouter("a", broken=("a",))) as server, backend_over(server.base_url) as backend:
        with pytest.raises(AttemptError, match="exit code 1") as caught:
            await backend.load("a")
    assert caught.value.kind is FailureKind.MODEL_FAILED


@pytest.mark.usefixtures("_quick")
async def test_a_load_that_somebody_undoes_ends():
    """Unloaded while it loaded: the router's own LRU, or an operator."""
    engine = LlamaRouter("a", polls=100)
    async with RawServer(engine) as server, backend_over(server.base_url) as backend:
        load = asyncio.create_task(backend.load("a"))
        await server.seen(3)
        engine.pending.clear()
        engine.status["a"] = "unloaded"
        with pytest.raises(AttemptError, match="unloaded before it was ready") as caught:
            await load
    assert caught.value.kind is FailureKind.MODEL_FAILED


async def test_load_of_an_unknown_model_is_model_missing():
    """404 `model is not found`."""
    async with RawServer(LlamaRouter("a")) as server, backend_over(server.base_url) as backend:
        with pytest.raises(AttemptError) as caught:
            await backend.load("z")
    assert caught.value.kind is FailureKind.MODEL_MISSING


@pytest.mark.usefixtures("_quick")
async def test_unload_returns_once_the_child_is_gone():
    """What is not loaded, or not known any more, is unloaded already."""
    engine = LlamaRouter("a", loaded=("a",), polls=3)
    async with RawServer(engine) as server, backend_over(server.base_url) as backend:
        await backend.unload("a")
        assert engine.status == {"a": "unloaded"}
        await backend.unload("a")
        await backend.unload("z")
    assert engine.log == ["unload a"]


@pytest.mark.usefixtures("_quick")
async def test_a_model_that_stays_is_said_to(monkeypatch: pytest.MonkeyPatch):
    """504: its memory is not free."""
    monkeypatch.setattr(llamacpp, "UNLOAD_TIMEOUT_S", 0.5)
    engine = LlamaRouter("a", loaded=("a",), polls=10_000)
    async with RawServer(engine) as server, backend_over(server.base_url) as backend:
        await backend.ping()  # connected by now: the time is for the waiting
        with pytest.raises(AttemptError, match="still holds") as caught:
            await backend.unload("a")
    assert (caught.value.status, caught.value.engine_busy) == (504, True)


@pytest.mark.parametrize(
    ("status", "body", "kind", "http_status"),
    [
        (400, error_body(400, "model 'z' not found"), FailureKind.MODEL_MISSING, 404),
        (400, error_body(400, "model 'org/z:Q4_K_M' not found"), FailureKind.MODEL_MISSING, 404),
        (500, error_body(500, "model name=z is not found", "server_error"), FailureKind.MODEL_MISSING, 404),
        (400, error_body(400, "model is not loaded"), FailureKind.MODEL_FAILED, 502),
        (500, error_body(500, "model name=a failed to load", "server_error"), FailureKind.MODEL_FAILED, 503),
        (500, error_body(500, "proxy error: Could not establish connection", "server_error"), FailureKind.STALE, 502),
        (400, error_body(400, "model name=a is not running"), FailureKind.STALE, 502),
        (400, error_body(400, "model name is missing from the request"), FailureKind.REJECTED, 400),
        (500, error_body(500, "failed to decode", "server_error"), FailureKind.SERVER, 500),
        (501, error_body(501, "no embeddings here", "not_supported_error"), FailureKind.MODEL_FAILED, 501),
    ],
)
async def test_what_a_routers_errors_mean(status: int, body: bytes, kind: FailureKind, http_status: int):
    """Unknown: 404. Cannot run here: this model's failure. Given to a child that had just gone: once more, at once."""
    engine = LlamaRouter("a")
    engine.chat = [(status, body)]
    call = parse_call("chat", json.dumps(chat("a")).encode())
    async with RawServer(engine) as server, backend_over(server.base_url) as backend:
        with pytest.raises(AttemptError) as caught:
            await backend.open(call, Deployment(backend="local", model="a"))
    assert (caught.value.kind, caught.value.status) == (kind, http_status)


@pytest.mark.parametrize(
    ("status", "processing", "idle"),
    [("loaded", False, True), ("loaded", True, False), ("loading", False, False), ("sleeping", True, True)],
)
async def test_idle_of_a_routers_model(status: str, processing: bool, idle: bool):
    """Only a loaded one is asked for its slots, in a way that loads nothing."""
    engine = LlamaRouter("org/a")
    engine.status["org/a"], engine.slots = status, slots(processing)
    async with RawServer(engine) as server, backend_over(server.base_url) as backend:
        await backend.settle()
        assert await backend.is_idle("org/a") is idle
    asked = [path for path in server.paths if path.startswith("/slots")]
    assert asked == (["/slots?model=org%2Fa&autoload=0"] if status == "loaded" else [])


async def test_an_alias_is_the_model_it_stands_for():
    """Two names of one child are one model to the gate."""
    engine = LlamaRouter("org/a-Q4_K_M")
    engine.aliases = {"org/a-Q4_K_M": ["a"]}
    async with RawServer(engine) as server, backend_over(server.base_url) as backend:
        await backend.list_models()
        assert backend.canonical("a") == "org/a-Q4_K_M"
        assert backend.canonical("b") == "b"


def gated_router(
    url: str, *, type: str = "llama.cpp", models: tuple[str, ...] = ("a", "b"), **extra: Any
) -> SmartRouter:
    return SmartRouter(
        Settings.model_validate(
            {
                "backends": {"local": {"type": type, "url": url}},
                "models": [
                    {"name": name, "deployments": [{"backend": "local", "model": name, "vram": "14GiB"}]}
                    for name in models
                ],
                "resilience": {"retry": {"base_delay": "10ms", "max_delay": "50ms"}},
                "vram": {"max_total": "20GiB", "release_grace": "300ms", "monitor_interval": "100ms"},
                **extra,
            }
        )
    )


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("type", ["llama.cpp", "auto"])
@pytest.mark.parametrize("discovery", [True, False])
async def test_the_gate_swaps_a_routers_models(type: str, discovery: bool):
    """llama.cpp counts models, the gate counts bytes: b goes in only after idle a has gone out."""
    engine = LlamaRouter("a", "b")
    extra = {"discovery": {"enabled": discovery}}
    async with RawServer(engine) as server, through(gated_router(server.base_url, type=type, **extra)) as client:
        for name in ("a", "b", "b", "a"):
            response = await client.post("/v1/chat/completions", json=chat(name))
            assert response.status_code == 200, response.text
    assert engine.log == [
        *("load a", "chat a", "unload a", "load b", "chat b"),
        *("chat b", "unload b", "load a", "chat a"),
    ]
    assert engine.peak == 1


@pytest.mark.usefixtures("_quick")
async def test_discovered_models_of_a_router_are_gated():
    """Nothing is configured: each has the default estimate, and two of them do not fit."""
    engine = LlamaRouter("a", "b")
    extra = {"models": [], "vram": {"max_total": "10GiB", "default_estimate": "8GiB"}}
    async with RawServer(engine) as server, through(gated_router(server.base_url, **extra)) as client:
        for name in ("a", "b"):
            assert (await client.post("/v1/chat/completions", json=chat(name))).status_code == 200
    assert engine.log == ["load a", "chat a", "unload a", "load b", "chat b"]


@pytest.mark.usefixtures("_quick")
async def test_a_single_model_under_a_budget_is_not_gated():
    """What cannot be unloaded is left alone: one look at what it is, then requests pass straight through."""
    async with RawServer(LlamaServer()) as engine, through(gated_router(engine.base_url, models=("a",))) as client:
        for _ in range(2):
            assert (await client.post("/v1/chat/completions", json=chat("a"))).status_code == 200
    assert engine.paths == ["/v1/models", "/v1/chat/completions", "/v1/chat/completions"]


@pytest.mark.usefixtures("_quick")
async def test_the_request_a_swap_raced_with_is_sent_once_more():
    """500 `proxy error: Could not establish connection`: nothing ran, so it is asked again at once, without a delay."""
    engine = LlamaRouter("a", loaded=("a",))
    engine.chat = [(500, error_body(500, "proxy error: Could not establish connection", "server_error"))]
    patient = {"resilience": {"retry": {"base_delay": "60s", "max_delay": "60s"}}}
    async with RawServer(engine) as server, through(gated_router(server.base_url, **patient)) as client:
        response = await client.post("/v1/chat/completions", json=chat("a"))
    assert (response.status_code, response.headers["x-smartrouter-attempts"]) == (200, "2")


@pytest.mark.usefixtures("_quick")
async def test_a_model_that_cannot_be_loaded_is_a_503_with_the_reason():
    """And the model beside it is served."""
    engine = LlamaRouter("a", "b", broken=("a",))
    async with RawServer(engine) as server, through(gated_router(server.base_url)) as client:
        response = await client.post("/v1/chat/completions", json=chat("a"))
        assert response.status_code == 503
        assert "exit code 1" in response.json()["error"]["message"]
        assert (await client.post("/v1/chat/completions", json=chat("b"))).status_code == 200


@pytest.mark.usefixtures("_quick")
async def test_the_operator_unloads_a_routers_model():
    """`/admin/models/{name}/unload` says what it did."""
    engine = LlamaRouter("a", "b")
    async with RawServer(engine) as server, through(gated_router(server.base_url)) as client:
        await client.post("/v1/chat/completions", json=chat("a"))
        assert (await client.post("/admin/models/a/unload")).json()["unloaded"] is True
    assert engine.log == ["load a", "chat a", "unload a"]


async def test_a_model_the_router_no_longer_has_is_404():
    """400 `model 'x' not found` becomes what OpenAI clients know."""
    async with RawServer(LlamaRouter("b")) as server, through(router_over(server.base_url)) as client:
        response = await client.post("/v1/chat/completions", json=chat())
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
