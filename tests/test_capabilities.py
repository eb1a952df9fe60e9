"""Candidates that cannot honour a request are left out, models that are gone are looked for once: over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from smartrouter_asgi import Settings, SmartRouter
from smartrouter_asgi.deployment import Capabilities
from smartrouter_asgi.exceptions import ConfigurationError
from smartrouter_asgi.testing.ollama import GIB, Fault, SimulatedModel, SimulatedOllama

from .harness.servers import serve

PLAIN, TOOLER, SEER, EMBEDDER = "plain:1b", "tooler:8b", "seer:8b", "embedder:latest"
MODELS = [
    SimulatedModel(PLAIN, GIB, load_s=0, context_length=2048),
    SimulatedModel(TOOLER, GIB, load_s=0, capabilities=("completion", "tools", "insert")),
    SimulatedModel(SEER, GIB, load_s=0, capabilities=("completion", "vision", "thinking")),
    SimulatedModel(EMBEDDER, GIB, load_s=0, capabilities=("embedding",), embedding_length=8),
]
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("a", "b")]
HELLO = [{"role": "user", "content": "hello"}]
IMAGE = [
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]}
]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}


@pytest.fixture
async def engine() -> AsyncIterator[SimulatedOllama]:
    async with SimulatedOllama(MODELS, time_scale=0.002) as running:
        yield running


class Served:
    """A router over engines, and a client in front of it."""

    def __init__(self, router: SmartRouter, url: str, client: httpx.AsyncClient) -> None:
        self.router, self._url, self._client = router, url, client

    async def ask(self, path: str = "chat/completions", **body: Any) -> httpx.Response:
        body = {"messages": HELLO, **body} if path.startswith("chat") else body
        return await self._client.post(f"{self._url}/v1/{path}", json=body)


@asynccontextmanager
async def served(
    *engines: SimulatedOllama, models: list[dict[str, Any]] | None = None, **more: Any
) -> AsyncIterator[Served]:
    """Serve a router whose backends `e1`, `e2`, ... are these engines; their models are listed."""
    router = SmartRouter(
        Settings.model_validate(
            {
                "backends": {f"e{n}": {"type": "ollama", "url": e.base_url} for n, e in enumerate(engines, 1)},
                "models": models or [],
                "resilience": {"retry": {"base_delay": "10ms", "max_delay": "20ms"}},
                "vram": {"monitor_enabled": False},
                **more,
            }
        )
    )
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serve(router))
        await router.discovery.refresh()
        yield Served(router, url, await stack.enter_async_context(httpx.AsyncClient()))


def model(name: str, *deployments: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "deployments": [{"backend": "e1", "order": n, **d} for n, d in enumerate(deployments, 1)],
        **more,
    }


def inference(engine: SimulatedOllama) -> list[str]:
    paths = ("/api/chat", "/api/generate", "/api/embed")
    return [exchange.path for exchange in engine.log if exchange.path in paths]


def error_of(response: httpx.Response) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


# -- what the engine tells


async def test_a_deployment_can_do_what_the_engine_tells(engine: SimulatedOllama) -> None:
    async with served(engine, models=[model("chat", {"model": TOOLER})]) as gateway:
        catalog = gateway.router.discovery.current()
        can = {name: catalog.models[name].deployments[0].capabilities for name in ("chat", SEER, EMBEDDER)}
    told = [can[name] for name in ("chat", SEER, EMBEDDER)]
    assert all(isinstance(one, Capabilities) for one in told)
    assert [(c.chat, c.tools, c.vision, c.embeddings, c.thinking, c.insert) for c in told if c is not None] == [
        (True, True, False, True, False, True),
        (True, False, True, True, True, False),
        (False, False, False, True, False, False),
    ]
    assert {one.context_length for one in told if one is not None} == {8192}
    assert all(one.can_load for one in told if one is not None)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("chat/completions", {"model": PLAIN, "tools": TOOLS}, "tools"),
        ("chat/completions", {"model": PLAIN, "messages": IMAGE}, "messages"),
        ("chat/completions", {"model": EMBEDDER}, "model"),
        ("completions", {"model": PLAIN, "prompt": "x", "suffix": "y"}, "suffix"),
        ("completions", {"model": EMBEDDER, "prompt": "x"}, "model"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_only_candidate_cannot_do_is_refused_before_it_is_asked(
    engine: SimulatedOllama, path: str, body: dict[str, Any], param: str, stream: bool
) -> None:
    async with served(engine) as gateway:
        response = await gateway.ask(path, **body, **({"stream": True} if stream and path != "embeddings" else {}))
    assert error_of(response) == (400, "unsupported_parameter", param)
    assert inference(engine) == []


@pytest.mark.parametrize(
    ("body", "upstream"),
    [
        ({"tools": TOOLS}, TOOLER),
        ({"messages": IMAGE}, SEER),
        ({}, PLAIN),
        ({"tools": TOOLS, "tool_choice": "none"}, PLAIN),
    ],
)
async def test_a_request_goes_to_the_first_candidate_that_can_honour_it(
    engine: SimulatedOllama, body: dict[str, Any], upstream: str
) -> None:
    group = model("any", {"model": PLAIN}, {"model": TOOLER}, {"model": SEER})
    async with served(engine, models=[group]) as gateway:
        response = await gateway.ask(model="any", **body)
    assert (response.status_code, response.headers["x-smartrouter-model"]) == (200, upstream)
    assert response.headers["x-smartrouter-attempts"] == "1"


async def test_a_fallback_that_cannot_serve_hides_no_failure_of_one_that_can(engine: SimulatedOllama) -> None:
    """The 503 of the engine, not the 400 of a model without tools."""
    engine.faults.set(Fault(busy=True), model=TOOLER)
    group = model("any", {"model": TOOLER}, {"model": PLAIN})
    async with served(engine, models=[group]) as gateway:
        response = await gateway.ask(model="any", tools=TOOLS)
    assert response.status_code == 503
    assert {attempt["deployment"] for attempt in response.json()["error"]["attempts"]} == {f"e1/{TOOLER}"}


# -- what configuration says


@pytest.mark.parametrize(
    ("said", "body", "param"),
    [
        ({"tools": False}, {"tools": TOOLS}, "tools"),
        ({"vision": False}, {"messages": IMAGE}, "messages"),
        ({"json_schema": False}, {"response_format": SCHEMA}, "response_format"),
        ({"chat": False}, {}, "model"),
    ],
)
async def test_what_configuration_says_holds_without_any_list(
    engine: SimulatedOllama, said: dict[str, bool], body: dict[str, Any], param: str
) -> None:
    group = model("chat", {"model": TOOLER, "capabilities": said})
    async with served(engine, models=[group], discovery={"enabled": False}) as gateway:
        response = await gateway.ask(model="chat", **body)
    assert error_of(response) == (400, "unsupported_parameter", param)


async def test_the_operator_knows_better_than_the_engine(engine: SimulatedOllama) -> None:
    group = model("chat", {"model": PLAIN, "capabilities": {"embeddings": True, "context_length": 512}})
    async with served(engine, models=[group]) as gateway:
        can = gateway.router.discovery.current().models["chat"].deployments[0].capabilities
    assert can is not None
    assert (can.embeddings, can.tools, can.context_length) == (True, False, 512)


def test_an_unknown_capability_is_refused_at_the_start() -> None:
    settings = {"models": [model("chat", {"model": "m", "capabilities": {"toolz": True}})]}
    with pytest.raises(ValueError, match="toolz"):
        Settings.model_validate({"backends": {"e1": {"type": "ollama"}}, **settings})


# -- the length of a prompt

LONG = [{"role": "user", "content": "word " * 10_000}]


async def test_a_prompt_far_too_long_is_refused(engine: SimulatedOllama) -> None:
    async with served(engine) as gateway:
        response = await gateway.ask(model=PLAIN, messages=LONG)
    assert error_of(response) == (400, "context_length_exceeded", "messages")
    assert inference(engine) == []


async def test_a_prompt_far_too_long_goes_to_who_has_a_longer_context(engine: SimulatedOllama) -> None:
    """Among the candidates, and to those that are named for it."""
    models = [
        model("two", {"model": PLAIN}, {"model": TOOLER}),
        model("one", {"model": PLAIN}, context_window_fallbacks=["long"]),
        model("long", {"model": TOOLER}),
    ]
    async with served(engine, models=models) as gateway:
        for name in ("two", "one"):
            response = await gateway.ask(model=name, messages=LONG)
            assert (response.status_code, response.headers["x-smartrouter-model"]) == (200, TOOLER)


# -- one context size for each deployment


async def test_a_deployment_s_context_size_is_in_loads_and_requests_alike(engine: SimulatedOllama) -> None:
    """Else the engine would load the model again."""
    models = [model("small", {"model": PLAIN, "num_ctx": 1024}), model("other", {"model": TOOLER})]
    backends = {"e1": {"type": "ollama", "url": engine.base_url, "num_ctx": 4096}}
    async with served(engine, models=models, backends=backends) as gateway:
        groups = gateway.router.discovery.current().models
        lengths = [c.context_length for g in ("small", "other") if (c := groups[g].deployments[0].capabilities)]
        await gateway.router.backends["e1"].load("plain:1b")
        for name in ("small", "other", PLAIN):
            assert (await gateway.ask(model=name)).status_code == 200
    assert lengths == [1024, 4096]
    assert engine.stats.loads == 2
    sent = [x.body for x in engine.log if x.path in ("/api/chat", "/api/generate")]
    assert [body["options"]["num_ctx"] for body in sent] == [1024, 1024, 4096, 1024]


def test_two_context_sizes_of_one_model_are_refused_at_the_start() -> None:
    models = [model("x", {"model": PLAIN, "num_ctx": 1024}), model("y", {"model": PLAIN, "num_ctx": 2048})]
    with pytest.raises(ConfigurationError, match="num_ctx 1024 and 2048"):
        SmartRouter(Settings.model_validate({"backends": {"e1": {"type": "ollama"}}, "models": models}))


# -- tool_choice

NAMED = {"type": "function", "function": {"name": "b"}}


@pytest.mark.parametrize(("choice", "called"), [("required", "a"), (NAMED, "b")])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_demanded_tool_is_called(engine: SimulatedOllama, choice: Any, called: str, stream: bool) -> None:
    async with served(engine) as gateway:
        response = await gateway.ask(model=TOOLER, tools=TOOLS, tool_choice=choice, stream=stream)
    assert response.status_code == 200
    assert f'"name":"{called}"' in response.text
    assert '"finish_reason":"tool_calls"' in response.text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_that_does_not_call_what_is_demanded_fails_before_commit(
    engine: SimulatedOllama, stream: bool
) -> None:
    """The simulated engine answers a tool's result in text; the breaker takes no note of it."""
    told = [*HELLO, {"role": "tool", "tool_call_id": "c", "name": "a", "content": "5"}]
    async with served(engine) as gateway:
        response = await gateway.ask(model=TOOLER, messages=told, tools=TOOLS, tool_choice=NAMED, stream=stream)
        states = {state for _, _, state in gateway.router.breakers.states()}
    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_error")
    assert "'tool_choice'" in response.json()["error"]["message"]
    assert len(inference(engine)) == 1
    assert states == {"closed"}


# -- models that are gone


def lists(engine: SimulatedOllama) -> int:
    return sum(exchange.path == "/api/tags" for exchange in engine.log)


def row(name: str) -> dict[str, Any]:
    return {"name": name, "model": name, "size": GIB, "capabilities": ["completion"]}


def stale(gateway: Served) -> None:
    """Let the lists be older than any that may answer for a 404."""
    clock = gateway.router.discovery.clock
    gateway.router.discovery.clock = lambda: clock() + 5.0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_deleted_since_it_was_listed_is_404(engine: SimulatedOllama, stream: bool) -> None:
    """Its list is read again, once; the breaker stays closed."""
    engine.faults.once(Fault(status=200, body={"models": [row("gone:1b"), row(PLAIN)]}), path="/api/tags")
    async with served(engine) as gateway:
        stale(gateway)
        before = lists(engine)
        response = await gateway.ask(model="gone:1b", stream=stream)
        again = await gateway.ask(model="gone:1b", stream=stream)
        states = {state for _, _, state in gateway.router.breakers.states()}
    assert error_of(response) == (404, "model_not_found", "model")
    assert again.status_code == 404
    assert lists(engine) == before + 1
    assert len(inference(engine)) == 1
    assert states == {"closed"}


async def test_a_configured_model_that_is_gone_is_404_and_asked_for_once_a_request(engine: SimulatedOllama) -> None:
    async with served(engine, models=[model("chat", {"model": "gone:1b"})]) as gateway:
        response = await gateway.ask(model="chat")
        many = [(await gateway.ask(model="chat")).status_code for _ in range(5)]
        assert lists(engine) <= 2
    assert error_of(response)[:2] == (404, "model_not_found")
    assert many == [404] * 5
    assert len(inference(engine)) == 6


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_that_moved_is_found_where_it_is_now(engine: SimulatedOllama, stream: bool) -> None:
    """The engine that had it has it no longer; one that was not known to have it does."""
    async with SimulatedOllama([MODELS[1]], time_scale=0.002) as left:
        left.faults.once(Fault(status=200, body={"models": [row(PLAIN)]}), path="/api/tags")
        engine.faults.once(Fault(status=200, body={"models": []}), path="/api/tags")
        async with served(left, engine) as gateway:
            stale(gateway)
            listed = gateway.router.discovery.current().models[PLAIN]
            assert [deployment.backend for deployment in listed.deployments] == ["e1"]
            response = await gateway.ask(model=PLAIN, stream=stream)
        assert (response.status_code, response.headers["x-smartrouter-backend"]) == (200, "e2")
        assert response.headers["x-smartrouter-attempts"] == "2"
        assert (len(inference(left)), len(inference(engine))) == (1, 1)


# -- older releases


async def test_an_engine_that_lists_no_capabilities_is_asked_beside_the_requests(engine: SimulatedOllama) -> None:
    """Once for each model; the next list knows."""
    bare = [{"name": m.name, "model": m.name, "digest": m.digest, "size": m.size_bytes} for m in MODELS]
    engine.faults.set(Fault(status=200, body={"models": bare}), path="/api/tags")
    async with served(engine) as gateway:
        backend = gateway.router.backends["e1"]
        await engine.wait_for(lambda e: sum(x.path == "/api/show" for x in e.log) == len(MODELS))
        await gateway.router.discovery.refresh(max_age_s=0)
        for _ in range(3):
            listed = {info.id: info for info in await backend.list_models()}
    assert listed[SEER].capabilities == ("completion", "vision", "thinking")
    can = listed[PLAIN].can
    assert can is not None
    assert (can.chat, can.tools, can.context_length) == (True, False, 2048)
    assert sum(x.path == "/api/show" for x in engine.log) == len(MODELS)
