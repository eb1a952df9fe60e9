"""The llama-swap adapter against a scripted one; its shapes are those of facts 3.3 and of llama-swap's own sources."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from smartrouter_asgi import Settings, SmartRouter
from smartrouter_asgi.backends import llamaswap
from smartrouter_asgi.backends.base import BackendSpec
from smartrouter_asgi.backends.llamaswap import LlamaSwapBackend
from smartrouter_asgi.deployment import Deployment
from smartrouter_asgi.exceptions import AttemptError, FailureKind
from smartrouter_asgi.transport.choice import choose_transport
from smartrouter_asgi.wire.call import parse_call

from .harness.engines import STREAM, good
from .harness.routers import chat
from .harness.servers import Exchange, RawServer, serve

# `internal/server/concurrency.go`, facts 3.3
BUSY = (
    b'{"src":"llama-swap","error":{"message":"model a is at its concurrency limit","type":"rate_limit_error",'
    b'"param":null,"code":"concurrency_limit"}}'
)


def own(message: str) -> bytes:
    """An error of llama-swap's own: `SendResponse` in `internal/swaputil/http.go`."""
    return json.dumps({"error": message, "src": "llama-swap"}).encode()


class LlamaSwap:
    """A scripted llama-swap: `states` are its processes, which stop after `polls` looks at `/running`."""

    def __init__(self, *models: str, ready: tuple[str, ...] = (), polls: int = 2) -> None:
        self.models = models
        self.states = dict.fromkeys(ready, "ready")
        self.polls = polls
        self.listed: list[dict[str, Any]] = [self._row(model) for model in models]
        self.broken: dict[str, tuple[int, bytes]] = {}
        """Models whose process does not come up, with what llama-swap says then."""
        self.health: tuple[int, bytes] = (200, b"")  # vLLM's is empty
        self.chat: list[tuple[int, bytes, str]] = []
        self.log: list[str] = []
        self.peak = 0

    @staticmethod
    def _row(model: str, **about: Any) -> dict[str, Any]:
        return {
            "id": model,
            "object": "model",
            "created": 1760000000,
            "owned_by": "llama-swap",
            "status": {"value": "unloaded"},
            "meta": {"llamaswap": {"type": "model", **about}},
        }

    async def __call__(self, exchange: Exchange) -> None:
        path = exchange.path
        if path == "/health":
            await exchange.answer(200, b"OK", "text/plain")
        elif path == "/v1/models":
            await exchange.answer(200, json.dumps({"object": "list", "data": self.listed}).encode())
        elif path == "/running":
            await exchange.answer(200, self._running())
        elif path == "/unload":
            await exchange.answer(200, self._stop(*self.states), "text/plain")
        elif path.startswith("/api/models/unload/"):
            assert exchange.head.startswith(b"POST ")
            await exchange.answer(*self._unload(unquote(path.removeprefix("/api/models/unload/"))))
        elif path.startswith("/upstream/"):
            await exchange.answer(*self._load(path.removeprefix("/upstream/")))
        elif self.chat:
            status, body, extra = self.chat.pop(0)
            await exchange.answer(status, body, extra=extra)
        else:
            await self._serve(exchange)

    async def _serve(self, exchange: Exchange) -> None:
        model = json.loads(exchange.body)["model"]
        if model not in self.models:
            await exchange.answer(404, own("no router for requested model"))
            return
        self.log.append(f"chat {model}")
        await good(exchange)

    def _running(self) -> bytes:
        rows = [
            {"model": model, "state": state, "cmd": "llama-server", "proxy": "http://localhost:5800", "ttl": 0}
            for model, state in self.states.items()
        ]
        if any(state == "stopping" for state in self.states.values()):
            self.polls -= 1
            if self.polls <= 0:
                self.states = {m: state for m, state in self.states.items() if state != "stopping"}
        return json.dumps({"running": rows}).encode()

    def _stop(self, *models: str) -> bytes:
        for model in models:
            self.log.append(f"unload {model}")
            self.states[model] = "stopping"
        return b"OK"

    def _unload(self, model: str) -> tuple[int, bytes]:
        if model not in self.models:
            return 404, own("model not found")
        return 200, self._stop(*([model] if model in self.states else []))

    def _load(self, path: str) -> tuple[int, bytes]:
        quoted, _, rest = path.partition("/")
        model = unquote(quoted)
        assert rest == "health"
        if model not in self.models:
            return 404, own("model not found")
        if model in self.broken:
            return self.broken[model]
        self.log.append(f"load {model}")
        self.states[model] = "ready"
        self.peak = max(self.peak, len(self.states))
        return self.health


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a scripted engine."""
    monkeypatch.setattr(llamaswap, "POLL_S", 0.01)


@asynccontextmanager
async def backend_over(url: str) -> AsyncIterator[LlamaSwapBackend]:
    """The adapter alone, without a router."""
    transport = choose_transport("auto")
    try:
        yield LlamaSwapBackend(BackendSpec(name="swap", type="llama-swap", url=url), transport)
    finally:
        await transport.aclose()


def router_over(url: str, *models: str, **settings: Any) -> SmartRouter:
    return SmartRouter(
        Settings.model_validate(
            {
                "backends": {"swap": {"type": "llama-swap", "url": url}},
                "models": [
                    {"name": name, "deployments": [{"backend": "swap", "model": name, "vram": "14GiB"}]}
                    for name in models
                ],
                "resilience": {"retry": {"base_delay": "10ms", "max_delay": "50ms"}},
                **settings,
            }
        )
    )


GATED = {"vram": {"max_total": "20GiB", "release_grace": "300ms", "monitor_interval": "100ms"}}


@asynccontextmanager
async def through(router: SmartRouter) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the router, served without a lifespan so that the engine sees nothing but what the test asks."""
    async with aclosing(router), serve(router, lifespan="off") as url:
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            yield client


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_base_url_works_with_and_without_version(suffix: str):
    """OpenAI's paths lie under `/v1`, llama-swap's own beside it, however the address was written."""
    async with RawServer(LlamaSwap("a")) as server:
        router = router_over(server.base_url + suffix, "a")
        async with through(router) as client:
            assert (await client.post("/v1/chat/completions", json=chat("a"))).status_code == 200
            await client.get("/v1/models")
            assert (await client.get("/health")).status_code == 200
            await router.backends["swap"].running()
    assert server.paths == ["/v1/chat/completions", "/v1/models", "/health", "/running"]


async def test_what_is_listed():
    """A peer's model and a selector among models have no process here; an alias is the model it stands for."""
    engine = LlamaSwap("org/a", "b")
    engine.listed = [
        engine._row("org/a", aliases=["a", "gpt"]),
        engine._row("gpt", aliases=["a", "gpt"]),  # with `includeAliasesInList`
        engine._row("far", type="peer", peerID="box2"),
        engine._row("fastest", type="selector", strategy="warm", targets=["org/a", "b"]),
        {"id": "b", "object": "model", "created": 1760000000, "owned_by": "llama-swap"},  # before `meta`
    ]
    async with RawServer(engine) as server, backend_over(server.base_url) as backend:
        listed = await backend.list_models()
        assert [(m.id, m.remote) for m in listed] == [
            ("org/a", False),
            ("gpt", False),
            ("far", True),
            ("fastest", True),
            ("b", False),
        ]
        assert [backend.canonical(name) for name in ("a", "gpt", "org/a", "b")] == ["org/a", "org/a", "org/a", "b"]


async def test_running_is_what_has_a_process():
    """Starting and stopping processes hold memory too; stopped ones do not."""
    engine = LlamaSwap("a", "b", "c", "d", "e", polls=100)
    engine.states = {"a": "ready", "b": "starting", "c": "stopping", "d": "stopped", "e": "shutdown"}
    async with RawServer(engine) as server, backend_over(server.base_url) as backend:
        assert [model.id for model in await backend.running()] == ["a", "b", "c"]
        engine.states = {}
        assert await backend.running() == ()


@pytest.mark.parametrize("answer", [b"{}", b"[]", b'{"running":7}', b"<html>"])
async def test_running_never_guesses(answer: bytes):
    """An answer of another shape is none: the gate then keeps to its own books."""

    async def script(exchange: Exchange) -> None:
        await exchange.answer(200, answer)

    async with RawServer(script) as server, backend_over(server.base_url) as backend:
        with pytest.raises(AttemptError) as caught:
            await backend.running()
    assert caught.value.kind is FailureKind.PROTOCOL


@pytest.mark.parametrize(
    "health",
    [
        pytest.param((200, b'{"status":"ok"}'), id="llama.cpp"),
        pytest.param((200, b""), id="vLLM"),
        pytest.param((404, b'{"detail":"Not Found"}'), id="an engine without a health path"),
    ],
)
async def test_load_starts_a_process_without_generating(health: tuple[int, bytes]):
    """Any answer of the engine's shows that it is up; a slash in the id stays within its segment."""
    engine = LlamaSwap("org/a")
    engine.health = health
    async with RawServer(engine) as server, backend_over(server.base_url) as backend:
        await backend.load("org/a")
    assert engine.states == {"org/a": "ready"}
    assert server.paths[0] == "/upstream/org%2Fa/health"


@pytest.mark.parametrize(
    ("model", "answer", "kind"),
    [
        ("a", (502, own("upstream command exited prematurely")), FailureKind.MODEL_FAILED),
        ("a", (500, own("unspecific error: upstream command exited prematurely")), FailureKind.MODEL_FAILED),
        ("a", (503, own("health check timed out after 120s")), FailureKind.MODEL_FAILED),
        ("a", (502, b""), FailureKind.MODEL_FAILED),
        ("a", (429, BUSY), FailureKind.RATE_LIMITED),
        ("z", (404, b""), FailureKind.MODEL_MISSING),
    ],
)
async def test_a_load_that_fails(model: str, answer: tuple[int, bytes], kind: FailureKind):
    """A process that does not come up is its model's failure; what is unknown is missing."""
    engine = LlamaSwap("a")
    engine.broken = {"a": answer}
    async with RawServer(engine) as server, backend_over(server.base_url) as backend:
        with pytest.raises(AttemptError) as caught:
            await backend.load(model)
    assert caught.value.kind is kind


async def test_unload_returns_once_the_process_is_gone():
    """By its quoted id; what is unknown or not running is gone already."""
    engine = LlamaSwap("org/a", "b", ready=("org/a", "b"), polls=3)
    async with RawServer(engine) as server, backend_over(server.base_url) as backend:
        await backend.unload("org/a")
        assert engine.states == {"b": "ready"}
        await backend.unload("org/a")
        await backend.unload("z")
    assert server.paths[0] == "/api/models/unload/org%2Fa"
    assert engine.log == ["unload org/a"]


async def test_unload_all_returns_once_every_process_is_gone():
    """`GET /unload`."""
    engine = LlamaSwap("a", "b", ready=("a", "b"), polls=3)
    async with RawServer(engine) as server, backend_over(server.base_url) as backend:
        await backend.unload_all()
    assert engine.states == {}
    assert server.paths[0] == "/unload"


@pytest.mark.parametrize("every", [False, True])
async def test_a_process_that_stays_is_said_to(every: bool, monkeypatch: pytest.MonkeyPatch):
    """504: its memory is not free."""
    monkeypatch.setattr(llamaswap, "UNLOAD_TIMEOUT_S", 0.5)
    engine = LlamaSwap("a", ready=("a",), polls=10_000)
    async with RawServer(engine) as server, backend_over(server.base_url) as backend:
        await backend.ping()  # connected by now: the time is for the waiting
        with pytest.raises(AttemptError, match="still runs") as caught:
            await (backend.unload_all() if every else backend.unload("a"))
    assert (caught.value.status, caught.value.engine_busy) == (504, True)


async def test_idle_is_known_of_models_without_a_process():
    """Of a running one llama-swap does not tell."""
    async with RawServer(LlamaSwap("a", "b", ready=("a",))) as server, backend_over(server.base_url) as backend:
        await backend.ping()
        assert await backend.is_idle("a") is None
        assert await backend.is_idle("b") is True


async def test_no_llama_swap_runs_nothing():
    """Its processes end with it."""
    with socket.socket() as held:  # bound and not listening: refuses, and nobody else gets the port
        held.bind(("127.0.0.1", 0))
        async with backend_over(f"http://127.0.0.1:{held.getsockname()[1]}") as backend:
            with pytest.raises(AttemptError):
                await backend.ping()
            assert await backend.is_idle("a") is True


@pytest.mark.parametrize(
    ("status", "body", "kind", "http_status"),
    [
        pytest.param(429, BUSY, FailureKind.RATE_LIMITED, 429, id="concurrencyLimit"),
        pytest.param(404, own("no router for requested model"), FailureKind.MODEL_MISSING, 404, id="unknown"),
        pytest.param(400, own("could not find real modelID for z"), FailureKind.MODEL_MISSING, 404, id="unknown, old"),
        pytest.param(400, own("missing or invalid 'model' key"), FailureKind.REJECTED, 400, id="bad request"),
        pytest.param(500, own("upstream command exited prematurely"), FailureKind.MODEL_FAILED, 503, id="no start"),
        pytest.param(503, own("process is stopping"), FailureKind.MODEL_FAILED, 503, id="stopping"),
        pytest.param(503, own("group is shutting down"), FailureKind.SERVER, 503, id="shutdown"),
        pytest.param(502, b"", FailureKind.SERVER, 502, id="process died under the request"),
        pytest.param(
            500,
            b'{"error":{"code":500,"message":"failed to decode","type":"server_error"}}',
            FailureKind.SERVER,
            500,
            id="the engine's own error",
        ),
        pytest.param(
            401,
            b'{"src":"llama-swap","error":{"message":"unauthorized: invalid or missing API key",'
            b'"type":"authentication_error","param":null,"code":"unauthorized"}}',
            FailureKind.AUTH,
            502,
            id="wrong key",
        ),
    ],
)
async def test_what_errors_mean(status: int, body: bytes, kind: FailureKind, http_status: int):
    """`src` tells llama-swap's own errors from an engine's."""
    engine = LlamaSwap("a")
    engine.chat = [(status, body, "Retry-After: 1\r\n" if status == 429 else "")]
    call = parse_call("chat", json.dumps(chat("a")).encode())
    async with RawServer(engine) as server, backend_over(server.base_url) as backend:
        with pytest.raises(AttemptError) as caught:
            await backend.open(call, Deployment(backend="swap", model="a"))
    assert (caught.value.kind, caught.value.status) == (kind, http_status)
    assert caught.value.retry_after_s == (1.0 if status == 429 else None)


async def test_its_429_passes_with_its_retry_after():
    """The client hears how long to wait, in llama-swap's words."""
    engine = LlamaSwap("a")
    engine.chat = [(429, BUSY, "Retry-After: 1\r\n")]
    async with RawServer(engine) as server:
        router = router_over(server.base_url, "a", resilience={"retry": {"enabled": False}})
        async with through(router) as client:
            response = await client.post("/v1/chat/completions", json=chat("a"))
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    assert response.json()["error"]["code"] == "rate_limited"
    assert "concurrency limit" in response.json()["error"]["message"]


async def test_its_429_is_waited_out():
    """The limit is per model and short: the request comes back after the second that was asked for."""
    engine = LlamaSwap("a")
    engine.chat = [(429, BUSY, "Retry-After: 1\r\n")]
    async with RawServer(engine) as server, through(router_over(server.base_url, "a")) as client:
        response = await client.post("/v1/chat/completions", json=chat("a"))
    assert (response.status_code, response.headers["x-smartrouter-attempts"]) == (200, "2")


async def test_an_unknown_model_is_404():
    """`no router for requested model` becomes what OpenAI clients know."""
    async with RawServer(LlamaSwap("b")) as server, through(router_over(server.base_url, "a")) as client:
        response = await client.post("/v1/chat/completions", json=chat("a"))
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


def loading(text: str) -> bytes:
    """A chunk of `sendLoadingState`, `internal/router/loading.go`."""
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1760000000,
        "model": "a",
        "choices": [{"index": 0, "delta": {"reasoning_content": text}, "finish_reason": None}],
    }
    return b"data: " + json.dumps(body).encode() + b"\n\n"


async def test_the_chunks_that_say_it_loads_pass():
    """With `sendLoadingState` a stream begins with `reasoning_content` about the load."""
    events = [loading("llama-swap loading model: a\n"), loading("."), *STREAM]

    async def script(exchange: Exchange) -> None:
        await exchange.start_stream()
        for event in events:
            await exchange.chunk(event)
        await exchange.end_stream()

    async with RawServer(script) as server, through(router_over(server.base_url, "a")) as client:
        response = await client.post("/v1/chat/completions", json=chat("a", stream=True))
    assert response.content == b"".join(events)


async def test_a_load_that_fails_inside_a_stream_ends_it_with_its_words():
    """After chunks about the load the answer is committed: one error event, no `[DONE]`."""

    async def script(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.chunk(loading("llama-swap loading model: a\n"))
        await exchange.chunk(b"data: " + own("unspecific error: upstream command exited prematurely") + b"\n\n")
        await exchange.end_stream()

    async with RawServer(script) as server, through(router_over(server.base_url, "a")) as client:
        response = await client.post("/v1/chat/completions", json=chat("a", stream=True))
    assert response.status_code == 200
    *_, last = [event for event in response.text.split("\n\n") if event]
    assert "exited prematurely" in json.loads(last.removeprefix("data: "))["error"]["message"]


async def test_the_gate_swaps_its_models():
    """llama-swap knows no bytes, the gate does: b goes in only after idle a has gone out."""
    engine = LlamaSwap("a", "b")
    async with RawServer(engine) as server, through(router_over(server.base_url, "a", "b", **GATED)) as client:
        for name in ("a", "b", "b"):
            response = await client.post("/v1/chat/completions", json=chat(name))
            assert response.status_code == 200, response.text
    assert engine.log == ["load a", "chat a", "unload a", "load b", "chat b", "chat b"]
    assert engine.peak == 1


async def test_what_it_swapped_by_itself_is_seen():
    """It put b in a's place for a rule of its own: `/running` is believed, and b served without another swap."""
    engine = LlamaSwap("a", "b")
    vram = {"vram": {**GATED["vram"], "monitor_interval": "1ms"}}
    async with RawServer(engine) as server, through(router_over(server.base_url, "a", "b", **vram)) as client:
        await client.post("/v1/chat/completions", json=chat("a"))
        engine.states = {"b": "ready"}
        assert (await client.post("/v1/chat/completions", json=chat("b"))).status_code == 200
    assert engine.log == ["load a", "chat a", "chat b"]


async def test_a_model_that_does_not_start_leaves_the_others_alone():
    """No breaker opens for it: the model beside it is served."""
    engine = LlamaSwap("a", "b")
    engine.broken = {"a": (502, own("upstream command exited prematurely"))}
    async with RawServer(engine) as server:
        router = router_over(server.base_url, "a", "b", **GATED)
        async with through(router) as client:
            for _ in range(6):
                assert (await client.post("/v1/chat/completions", json=chat("a"))).status_code == 503
            assert (await client.post("/v1/chat/completions", json=chat("b"))).status_code == 200
            assert {state for _, operation, state in router.breakers.states() if operation != "load"} <= {"closed"}
