"""What every backend owes the router, as tests: subclass `BackendContract` in a test module of your own package.

    import pytest
    from smartrouter_asgi import BackendSpec, HttpxTransport
    from smartrouter_asgi.testing.contract import BackendContract

    class TestMyBackend(BackendContract):
        @pytest.fixture
        def backend(self):
            return MyBackend(BackendSpec(name="mine", type="mine", url=ENGINE_URL), HttpxTransport())

        @pytest.fixture
        def model(self):
            return "a-model-it-serves"

`backend` and `model` are all that is needed; the other fixtures say more of the engine and open more tests. What the
backend's `Capabilities` exclude is skipped, with that reason. It needs pytest and pytest-asyncio, in either of its
modes; it is the only module here that imports pytest, so the package itself does without.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any

import anyio
import msgspec
import pytest

from ..backends.base import Backend, BackendSpec, PlainAnswer, Undecided, Upstream
from ..backends.http import HTTPBackend
from ..deployment import Capabilities, Deployment, LoadedModel, ModelInfo
from ..exceptions import AttemptError, FailureKind, RequestError, SmartRouterError
from ..transport.framing import SSESplitter, sse_data
from ..transport.httpx_transport import HttpxTransport
from ..types import Closable, JSONObject, Operation
from ..wire.call import Call, parse_call
from ..wire.stream import Piece, PieceKind, Usage

PATIENCE_S = 30.0
"""How long any one step may take: longer is a hang."""

LEAVE_WITHIN_S = 2.0
"""How long a cancelled call may hold on; the aim is a tenth of a second."""

MAX_MESSAGE_LENGTH = 1000
FINISH_REASONS = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})

_AWAITED = ("open", "list_models", "ping", "running", "load", "unload", "is_idle", "aclose")
_IMMEDIATE = ("check", "canonical")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://|\b\d{1,3}(?:\.\d{1,3}){3}\b|\blocalhost\b", re.IGNORECASE)
_INSIDES = re.compile(r"Traceback|<[\w.]+ object at|0x[0-9a-f]{6,}")


class BackendContract:
    """Tests that any `Backend` passes. Subclass it, name the class `Test...`, and give the fixtures `backend`, `model`.

    Fixtures to override when there is more to say:

    - `embedding_model`: a model that embeds; `model` where none is given, None where the engine has no such model
    - `unknown_model`: a name that the engine refuses; None where it serves one model under any name
    - `refused_fields`: members of a chat request which this backend refuses, each set in a request of its own
    - `requests_sent`: a function that counts what has reached the engine, to see that a refusal sends nothing
    - `secrets`: texts that no message and no `repr` may hold; known already where the backend has a `BackendSpec`
    - `unreachable`: the same kind of backend at an address where nothing listens; made already for an `HTTPBackend`
    - `chat_fields`: members added to each chat request, such as `max_tokens`
    """

    pytestmark = pytest.mark.asyncio

    # What a subclass gives.

    @pytest.fixture
    def backend(self) -> Any:
        """A backend whose engine runs. May be an async fixture; it is closed by the tests' own code at the end."""
        raise NotImplementedError("give a fixture `backend`: the backend under test, its engine running")

    @pytest.fixture
    def model(self) -> str:
        """A name under which the engine serves chat."""
        raise NotImplementedError("give a fixture `model`: the name of a model that the engine serves")

    @pytest.fixture
    def embedding_model(self, model: str) -> str | None:
        """A model that embeds."""
        return model

    @pytest.fixture
    def unknown_model(self) -> str | None:
        """A name that the engine does not know."""
        return "no-such-model-as-this"

    @pytest.fixture
    def refused_fields(self) -> Sequence[Mapping[str, Any]]:
        """Members of a chat request that the engine cannot honour."""
        return ()

    @pytest.fixture
    def requests_sent(self) -> Callable[[], int] | None:
        """Count what has reached the engine."""
        return None

    @pytest.fixture
    def chat_fields(self) -> Mapping[str, Any]:
        """Members of each chat request: a short answer will do."""
        return {"max_tokens": 16}

    @pytest.fixture
    def secrets(self, backend: Backend) -> Sequence[str]:
        """Keys, header values and addresses that stay inside."""
        spec = getattr(backend, "spec", None)
        if not isinstance(spec, BackendSpec):
            return ()
        hidden = [secret.reveal() for secret in (*spec.api_keys, *spec.headers.values())]
        return tuple(text for text in (*hidden, spec.url.partition("://")[2].partition("/")[0]) if len(text) > 5)

    @pytest.fixture
    def unreachable(self, backend: Backend) -> Any:
        """The same backend where nothing listens."""
        spec = getattr(backend, "spec", None)
        if not isinstance(backend, HTTPBackend) or not isinstance(spec, BackendSpec):
            return None
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            nowhere = f"http://127.0.0.1:{listener.getsockname()[1]}"
        return type(backend)(dataclasses.replace(spec, url=nowhere), HttpxTransport())

    # What it is.

    async def test_it_is_a_backend(self, backend: Backend) -> None:
        """It has every member of the protocol; what is awaited can be, and what is not need not."""
        assert isinstance(backend, Backend), f"{type(backend).__name__} lacks a member of Backend"
        assert isinstance(backend.name, str), "name is a string"
        assert backend.name, "name is not empty"
        assert isinstance(backend.type, str), "type is a string"
        assert backend.type, "type is not empty"
        assert isinstance(backend.capabilities, Capabilities), "capabilities are a Capabilities"
        for name in _AWAITED:
            assert inspect.iscoroutinefunction(getattr(backend, name)), f"{name} is a coroutine function"
        for name in _IMMEDIATE:
            assert not inspect.iscoroutinefunction(getattr(backend, name)), f"{name} is no coroutine function"

    async def test_it_lists_models(self, backend: Backend) -> None:
        """A tuple of `ModelInfo`, each id once and none empty."""
        listed = await _in_time(backend.list_models())
        assert isinstance(listed, tuple), "list_models returns a tuple"
        assert all(isinstance(model, ModelInfo) for model in listed), "list_models returns ModelInfo"
        ids = [model.id for model in listed]
        assert all(isinstance(model, str) and model for model in ids), f"each model has an id: {ids}"
        assert len(ids) == len(set(ids)), f"each model is listed once: {ids}"
        for model in listed:
            assert isinstance(model.created, int), f"{model.id}: created is Unix seconds"
            assert model.created >= 0, f"{model.id}: created is not negative"
            assert all(isinstance(one, str) for one in model.capabilities), f"{model.id}: capabilities are words"

    async def test_a_listed_model_keeps_its_name(self, backend: Backend, model: str) -> None:
        """`canonical` is a string, settled after one step, and changes no id that the engine lists itself."""
        for name in (model, *(listed.id for listed in await _in_time(backend.list_models()))):
            once = backend.canonical(name)
            assert isinstance(once, str), "canonical returns a string"
            assert once, "canonical returns no empty name"
            assert backend.canonical(once) == once, f"canonical is settled after one step, not for {name!r}"

    async def test_it_answers_a_ping(self, backend: Backend) -> None:
        """With nothing, as long as it is ready."""
        answer: Any = await _in_time(backend.ping())
        assert answer is None, "ping returns nothing"

    async def test_its_repr_keeps_secrets(self, backend: Backend, model: str, secrets: Sequence[str]) -> None:
        """Neither it nor a call under way shows a key; a `repr` may end up in any log."""
        async with _opened(backend, chat_call(model), model) as upstream:
            shown = f"{backend!r} {backend} {upstream!r} {getattr(backend, 'spec', '')!r} {backend.capabilities!r}"
        spec = getattr(backend, "spec", None)
        address = spec.url.partition("://")[2].partition("/")[0] if isinstance(spec, BackendSpec) else None
        for secret in secrets:
            if secret != address:  # where an engine is may stand in a log of the gateway's own
                assert secret not in shown, "a repr shows a secret"

    # Plain answers.

    async def test_chat(self, backend: Backend, model: str, chat_fields: Mapping[str, Any]) -> None:
        """A plain answer is an OpenAI chat completion."""
        answer, upstream = await _plain(backend, chat_call(model, **chat_fields), model)
        check_completion(answer.body, "chat")
        check_usage(answer.usage)
        assert upstream.usage == answer.usage, "the answer and the upstream tell the same usage"

    async def test_a_conversation(self, backend: Backend, model: str, chat_fields: Mapping[str, Any]) -> None:
        """Roles, earlier turns and content parts of text are understood."""
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]},
            {"role": "assistant", "content": "three"},
            {"role": "user", "content": "four ☃ fünf"},
        ]
        answer, _ = await _plain(backend, chat_call(model, **{**chat_fields, "messages": messages}), model)
        check_completion(answer.body, "chat")

    async def test_completion(self, backend: Backend, model: str, chat_fields: Mapping[str, Any]) -> None:
        """A plain answer to a prompt is an OpenAI text completion, where it does them."""
        await _needs(backend, "completions", "completions")
        call = make_call("completions", {"model": model, "prompt": "one two", **chat_fields})
        answer, _ = await _plain(backend, call, model)
        check_completion(answer.body, "completions")

    async def test_what_is_ignored_is_told(self, backend: Backend, model: str, chat_fields: Mapping[str, Any]) -> None:
        """`ignored` names fields of the request, and only those; a refusal names its field too."""
        call = chat_call(model, **{"user": "u-1", "metadata": {"a": "b"}, "store": False, **chat_fields})
        deployment = _deployment(backend, model)
        refusal = _refusal(backend, call, deployment)
        if refusal is not None:
            assert refusal.param, f"a refusal names its field: {refusal.message}"
            return
        async with _opened(backend, call, model) as upstream:
            assert isinstance(upstream.ignored, tuple), "ignored is a tuple"
            roots = {name.partition(".")[0].partition("[")[0] for name in upstream.ignored}
            assert roots <= set(call.fields), f"ignored names fields that were not sent: {roots - set(call.fields)}"
            await _in_time(upstream.read())

    async def test_the_call_is_left_as_it_was(
        self, backend: Backend, model: str, chat_fields: Mapping[str, Any]
    ) -> None:
        """All attempts of a request share one call: nobody changes it."""
        call = chat_call(model, stream=True, **chat_fields)
        before = {name: bytes(raw) for name, raw in call.fields.items()}
        await _stream(backend, call, model)
        assert {name: bytes(raw) for name, raw in call.fields.items()} == before, "the call's fields were changed"
        assert (call.model, call.operation, call.stream) == (model, "chat", True), "the call was changed"

    # Streams.

    async def test_stream(self, backend: Backend, model: str, chat_fields: Mapping[str, Any]) -> None:
        """A role or nothing, then content, then the reason it finished, then the end, once and last."""
        pieces, _ = await _stream(backend, chat_call(model, stream=True, **chat_fields), model)
        check_stream(pieces, "chat")

    async def test_completion_stream(self, backend: Backend, model: str, chat_fields: Mapping[str, Any]) -> None:
        """Text completions stream by the same rules."""
        await _needs(backend, "completions", "completions")
        call = make_call("completions", {"model": model, "prompt": "one two", "stream": True, **chat_fields})
        pieces, _ = await _stream(backend, call, model)
        check_stream(pieces, "completions")

    async def test_usage_in_a_stream(self, backend: Backend, model: str, chat_fields: Mapping[str, Any]) -> None:
        """Usage that was asked for comes in an event before the end, or the field is refused, or listed as ignored."""
        call = chat_call(model, stream=True, stream_options={"include_usage": True}, **chat_fields)
        if _refusal(backend, call, _deployment(backend, model)) is not None:
            return
        pieces, upstream = await _stream(backend, call, model)
        chunks = check_stream(pieces, "chat")
        if any(name.startswith("stream_options") for name in upstream.ignored):
            return
        told = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
        assert told, "usage was asked for, and neither came nor was named as ignored"
        check_usage_object(told[-1])
        check_usage(upstream.usage)
        assert upstream.usage is not None, "the upstream tells the usage that its stream told"
        assert upstream.usage.completion_tokens == told[-1]["completion_tokens"], "both tell the same"

    async def test_plain_and_streamed_have_one_shape(
        self, backend: Backend, model: str, chat_fields: Mapping[str, Any]
    ) -> None:
        """Both say something: text, reasoning or a tool call."""
        answer, _ = await _plain(backend, chat_call(model, **chat_fields), model)
        pieces, _ = await _stream(backend, chat_call(model, stream=True, **chat_fields), model)
        plain = check_completion(answer.body, "chat")["choices"][0]["message"]
        assert any(value for key, value in plain.items() if key != "role"), "the plain answer says nothing"
        said = [c.get("delta") or {} for chunk in check_stream(pieces, "chat") for c in chunk.get("choices") or ()]
        assert any(value for delta in said for key, value in delta.items() if key != "role"), "the stream says nothing"

    # Leaving.

    async def test_leaving_a_stream(self, backend: Backend, model: str, chat_fields: Mapping[str, Any]) -> None:
        """A client that leaves in the middle leaves the backend as usable as it was."""
        call = chat_call(model, stream=True, **chat_fields)
        for _ in range(2):
            async with _opened(backend, call, model) as upstream, aclosing(upstream.pieces()) as source:
                with anyio.fail_after(PATIENCE_S):
                    await _until_content(source)
        check_completion((await _plain(backend, chat_call(model, **chat_fields), model))[0].body, "chat")

    async def test_cancelled_in_a_stream(self, backend: Backend, model: str, chat_fields: Mapping[str, Any]) -> None:
        """So does a cancelled scope, which is how the router leaves: the cancellation comes through, at once."""
        call = chat_call(model, stream=True, **chat_fields)
        left_at = math.inf
        with anyio.fail_after(PATIENCE_S), anyio.CancelScope() as scope:
            upstream = await backend.open(call, _deployment(backend, model))
            try:
                async with aclosing(upstream.pieces()) as source:
                    await _until_content(source)
                    scope.cancel()
                    left_at = anyio.current_time()
                    async for _ in source:
                        pass
                    await anyio.lowlevel.checkpoint()
            finally:
                await upstream.aclose()
        assert scope.cancelled_caught, "the backend swallowed the cancellation"
        assert anyio.current_time() - left_at < LEAVE_WITHIN_S, "the backend held on although it was cancelled"
        check_completion((await _plain(backend, chat_call(model, **chat_fields), model))[0].body, "chat")

    async def test_cancelled_while_it_opens(self, backend: Backend, model: str, chat_fields: Mapping[str, Any]) -> None:
        """Nothing is left behind by a call that was cancelled before its answer came."""
        call = chat_call(model, **chat_fields)
        with anyio.fail_after(PATIENCE_S), anyio.CancelScope() as scope:
            scope.cancel()
            upstream = await backend.open(call, _deployment(backend, model))
            await upstream.aclose()
        check_completion((await _plain(backend, call, model))[0].body, "chat")

    async def test_an_answer_closes_twice(self, backend: Backend, model: str, chat_fields: Mapping[str, Any]) -> None:
        """Read or unread, plain or streamed: `aclose` may come again."""
        for stream in (False, True):
            for wanted in (False, True):
                call = chat_call(model, stream=stream, **chat_fields)
                with anyio.fail_after(PATIENCE_S):
                    upstream = await backend.open(call, _deployment(backend, model))
                    if wanted and stream:
                        async with aclosing(upstream.pieces()) as source:
                            async for _ in source:
                                pass
                    elif wanted:
                        await upstream.read()
                    await upstream.aclose()
                    await upstream.aclose()

    async def test_it_closes_twice(self, backend: Backend) -> None:
        """So may the backend's own."""
        await _in_time(backend.aclose())
        await _in_time(backend.aclose())

    # Refusals and failures.

    async def test_an_unknown_model(
        self, backend: Backend, unknown_model: str | None, secrets: Sequence[str], chat_fields: Mapping[str, Any]
    ) -> None:
        """Is told as an `AttemptError`: missing where the engine says so, else rejected. Plain and streamed."""
        if unknown_model is None:
            pytest.skip("the engine serves one model under any name")
        for stream in (False, True):
            call = chat_call(unknown_model, stream=stream, **chat_fields)
            with pytest.raises(SmartRouterError) as caught:
                await (_stream if stream else _plain)(backend, call, unknown_model)
            error = caught.value
            assert isinstance(error, AttemptError), f"{type(error).__name__}: an engine's refusal is an AttemptError"
            wanted = (FailureKind.MODEL_MISSING, FailureKind.REJECTED)
            assert error.kind in wanted, f"an unknown model is missing or rejected, not {error.kind}: {error.message}"
            assert 400 <= error.status < 500, f"the status is the client's to mend, not {error.status}"
            check_message(error, secrets)

    async def test_operations_it_does_not_do(
        self, backend: Backend, model: str, requests_sent: Callable[[], int] | None
    ) -> None:
        """What the capabilities exclude `check` refuses, and nothing is sent."""
        before = requests_sent() if requests_sent else 0
        deployment = _deployment(backend, model)
        calls = {
            "chat": chat_call(model),
            "completions": make_call("completions", {"model": model, "prompt": "one"}),
            "embeddings": make_call("embeddings", {"model": model, "input": "one"}),
        }
        for operation, call in calls.items():
            if getattr(backend.capabilities, operation):
                backend.check(call, deployment)
                continue
            with pytest.raises(RequestError) as caught:
                backend.check(call, deployment)
            check_message(caught.value, ())
        assert not requests_sent or requests_sent() == before, "`check` sends nothing"

    async def test_refused_fields(
        self,
        backend: Backend,
        model: str,
        refused_fields: Sequence[Mapping[str, Any]],
        requests_sent: Callable[[], int] | None,
        secrets: Sequence[str],
    ) -> None:
        """A field the engine cannot honour is refused with its name, the same each time, and nothing is sent."""
        if not refused_fields:
            pytest.skip("no refused fields are given")
        before = requests_sent() if requests_sent else 0
        for fields in refused_fields:
            call = chat_call(model, **fields)
            messages = set()
            for _ in range(2):
                with pytest.raises(RequestError) as caught:
                    backend.check(call, _deployment(backend, model))
                assert caught.value.status == 400, f"{fields}: a refusal is a 400"
                assert caught.value.param, f"{fields}: a refusal names its field"
                check_message(caught.value, secrets)
                messages.add(caught.value.message)
            assert len(messages) == 1, f"{fields}: `check` says the same each time"
        assert not requests_sent or requests_sent() == before, "a refused request sends nothing"

    async def test_an_engine_that_is_not_there(self, unreachable: Backend | None, model: str) -> None:
        """Is a failure to connect, whoever asks, without its address."""
        if unreachable is None:
            pytest.skip("no unreachable backend is given")
        spec = getattr(unreachable, "spec", None)
        address = (spec.url.partition("://")[2],) if isinstance(spec, BackendSpec) else ()
        asked: list[Callable[[], Any]] = [
            lambda: _plain(unreachable, chat_call(model), model),
            lambda: _stream(unreachable, chat_call(model, stream=True), model),
            unreachable.ping,
        ]
        for ask in asked:
            with pytest.raises(AttemptError) as caught:
                await _in_time(ask())
            assert caught.value.kind is FailureKind.CONNECT, f"{caught.value.kind}: nothing was sent"
            check_message(caught.value, address)
        await unreachable.aclose()

    # Many at once.

    async def test_calls_at_the_same_time(self, backend: Backend, model: str, chat_fields: Mapping[str, Any]) -> None:
        """Plain and streamed answers do not mix."""
        done: list[str] = []

        async def plain() -> None:
            answer, _ = await _plain(backend, chat_call(model, **chat_fields), model)
            check_completion(answer.body, "chat")
            done.append("plain")

        async def streamed() -> None:
            pieces, _ = await _stream(backend, chat_call(model, stream=True, **chat_fields), model)
            check_stream(pieces, "chat")
            done.append("streamed")

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(plain)
                group.start_soon(streamed)
        assert sorted(done) == ["plain"] * 3 + ["streamed"] * 3

    # What some can.

    async def test_embeddings(self, backend: Backend, embedding_model: str | None) -> None:
        """One vector of numbers for each input, in its order; one for a string."""
        await _needs(backend, "embeddings", "embeddings")
        if embedding_model is None:
            pytest.skip("the engine has no model that embeds")
        sizes = set()
        for given, count in (("one two", 1), (["one", "two", "three"], 3)):
            call = make_call("embeddings", {"model": embedding_model, "input": given})
            answer, _ = await _plain(backend, call, embedding_model)
            sizes |= {len(row["embedding"]) for row in check_embeddings(answer.body, count)}
        assert len(sizes) == 1, f"all vectors of a model have one length: {sizes}"

    async def test_tools(self, backend: Backend, model: str, chat_fields: Mapping[str, Any]) -> None:
        """Tools that a model may call are taken, where the engine does tools; whether one is called is the model's."""
        await _needs(backend, "tools", "tools")
        parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
        tools = [{"type": "function", "function": {"name": "weather", "description": "d", "parameters": parameters}}]
        call = chat_call(model, tools=tools, **chat_fields)
        backend.check(call, _deployment(backend, model))

    async def test_running(self, backend: Backend) -> None:
        """What is in memory, as `LoadedModel`, where the engine tells."""
        await _needs(backend, "can_report_loaded", "reports of what is loaded")
        running = await _in_time(backend.running())
        assert isinstance(running, tuple), "running returns a tuple"
        assert all(isinstance(one, LoadedModel) for one in running), "running returns LoadedModel"
        assert all(one.vram_bytes is None or one.vram_bytes >= 0 for one in running), "memory is not negative"

    async def test_load_and_unload(self, backend: Backend, model: str, chat_fields: Mapping[str, Any]) -> None:
        """A round trip: each has happened when its call returns, and may be asked for again."""
        await _needs(backend, "can_load", "loads and unloads")
        for _ in range(2):
            await _in_time(backend.load(model))
            await self._expect_loaded(backend, model, True)
        await _plain(backend, chat_call(model, **chat_fields), model)
        for _ in range(2):
            await _in_time(backend.unload(model))
            await self._expect_loaded(backend, model, False)
        await _in_time(backend.load(model))
        await self._expect_loaded(backend, model, True)

    async def test_loading_an_unknown_model(
        self, backend: Backend, unknown_model: str | None, secrets: Sequence[str]
    ) -> None:
        """Fails as an `AttemptError`, or has nothing of that name in memory; so does its unload."""
        await _needs(backend, "can_load", "loads and unloads")
        if unknown_model is None:
            pytest.skip("the engine serves one model under any name")
        for change in (backend.load, backend.unload):
            try:
                await _in_time(change(unknown_model))
            except AttemptError as exc:
                check_message(exc, secrets)
            else:  # an engine of one model looks at no name
                await self._expect_loaded(backend, unknown_model, False)

    async def test_idle(self, backend: Backend, model: str, chat_fields: Mapping[str, Any]) -> None:
        """An engine that tells is not busy for long once its answer is done; None where it cannot be told."""
        await _plain(backend, chat_call(model, **chat_fields), model)
        idle = await _in_time(backend.is_idle(model))
        if not backend.capabilities.can_report_idle:
            assert idle is None or isinstance(idle, bool), "is_idle returns a bool, or None when it cannot be told"
            return
        with anyio.fail_after(PATIENCE_S):
            while idle is False:
                await anyio.sleep(0.05)
                idle = await backend.is_idle(model)

    async def _expect_loaded(self, backend: Backend, model: str, expected: bool) -> None:
        if not backend.capabilities.can_report_loaded:
            return
        names = {backend.canonical(one.id) for one in await _in_time(backend.running())}
        found = backend.canonical(model) in names
        assert found is expected, f"{model} is {'not ' if expected else 'still '}in memory: {sorted(names)}"


def make_call(operation: Operation, body: Mapping[str, Any]) -> Call:
    """Make a call as the router makes it: from the bytes of a client's request."""
    return parse_call(operation, msgspec.json.encode(dict(body)))


def chat_call(model: str, **fields: Any) -> Call:
    """Make a chat call with one short message."""
    return make_call("chat", {"model": model, "messages": [{"role": "user", "content": "Say one word."}], **fields})


def check_message(error: SmartRouterError, secrets: Iterable[str]) -> None:
    """Check that an error's text is fit for clients: short, printable, and without keys, addresses or insides."""
    text = error.message
    assert text.strip(), "an error says what it is"
    assert len(text) <= MAX_MESSAGE_LENGTH, f"an error is told in {MAX_MESSAGE_LENGTH} characters"
    assert all(c.isprintable() or c == "\n" for c in text), f"an error is told in printable text: {text!r}"
    assert not _INSIDES.search(text), f"an error shows the program's insides: {text!r}"
    assert not _ADDRESS.search(text), f"an error shows an address: {text!r}"
    everything = f"{text} {error!r} {error.code} {error.param}"
    for secret in secrets:
        assert secret not in everything, "an error shows a secret or an address"


def check_usage(usage: Usage | None) -> None:
    """Check token counts as the router counts them."""
    if usage is not None:
        assert isinstance(usage, Usage), "usage is a Usage"
        assert usage.prompt_tokens >= 0, "token counts are not negative"
        assert usage.completion_tokens >= 0, "token counts are not negative"


def check_usage_object(usage: Any) -> None:
    """Check token counts as clients get them."""
    assert isinstance(usage, dict), f"usage is an object: {usage!r}"
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert _whole(usage.get(name)), f"usage.{name} is a number: {usage!r}"


def check_completion(body: bytes, operation: Operation) -> JSONObject:
    """Check that a plain answer is what OpenAI's API says it is, and return it decoded."""
    answer = msgspec.json.decode(body)
    assert isinstance(answer, dict), "an answer is an object"
    wanted = "chat.completion" if operation == "chat" else "text_completion"
    _check_frame(answer, wanted)
    assert answer["choices"], "an answer has a choice"
    for choice in answer["choices"]:
        assert choice.get("finish_reason") in FINISH_REASONS, f"finish_reason is {choice.get('finish_reason')!r}"
        if operation == "chat":
            _check_answered(choice.get("message"))
        else:
            assert isinstance(choice.get("text"), str), f"a completion has text: {choice!r}"
    if answer.get("usage") is not None:
        check_usage_object(answer["usage"])
    return answer


def check_stream(pieces: Sequence[Piece], operation: Operation) -> list[JSONObject]:
    """Check a whole stream, piece by piece and in its order, and return its chunks decoded."""
    kinds = [piece.kind for piece in pieces]
    assert PieceKind.ERROR not in kinds, f"the stream holds an error: {[p.error for p in pieces if p.error]}"
    assert kinds.count(PieceKind.END) == 1, f"a stream ends once: {kinds}"
    assert kinds[-1] is PieceKind.END, f"nothing follows the end: {kinds}"
    assert PieceKind.CONTENT in kinds, "a stream says something"
    first = kinds.index(PieceKind.CONTENT)
    assert PieceKind.HELD not in kinds[first:], "what comes after the first content is content"
    chunks: list[JSONObject] = []
    finished: set[int] = set()
    ended = False
    for piece in pieces:
        assert isinstance(piece.data, bytes), "a piece holds bytes"
        for data in _events(piece.data):
            assert not ended, "nothing follows [DONE]"
            if data == b"[DONE]":
                assert piece.kind is PieceKind.END, "[DONE] is the end"
                ended = True
                continue
            chunk = msgspec.json.decode(data)
            _check_chunk(chunk, operation, finished)
            chunks.append(chunk)
    assert ended, "a stream ends with [DONE]"
    assert finished, "a stream tells why it finished"
    ids = {chunk.get("id") for chunk in chunks if chunk.get("choices")}
    assert len(ids) == 1, f"all chunks of an answer have one id: {ids}"
    return chunks


def check_embeddings(body: bytes, count: int) -> list[JSONObject]:
    """Check an answer to an embeddings call and return its rows."""
    answer = msgspec.json.decode(body)
    assert isinstance(answer, dict), "an answer is an object"
    assert answer.get("object") == "list", f"object is 'list', not {answer.get('object')!r}"
    assert isinstance(answer.get("model"), str), "an answer names its model"
    rows = answer.get("data")
    assert isinstance(rows, list), "an answer has a list of data"
    assert [row.get("index") for row in rows] == list(range(count)), "one row for each input, in its order"
    for row in rows:
        vector = row.get("embedding")
        assert isinstance(vector, list), "an embedding is a list"
        assert vector, "an embedding is not empty"
        assert all(isinstance(number, int | float) for number in vector), "an embedding is a list of numbers"
    if answer.get("usage") is not None:
        assert _whole(answer["usage"].get("prompt_tokens")), "usage.prompt_tokens is a number"
    return rows


def _check_frame(answer: JSONObject, wanted: str) -> None:
    assert answer.get("object") == wanted, f"object is {wanted!r}, not {answer.get('object')!r}"
    assert isinstance(answer.get("id"), str), "an answer has an id"
    assert _whole(answer.get("created")), f"created is Unix seconds: {answer.get('created')!r}"
    assert isinstance(answer.get("model"), str), "an answer names its model"
    choices = answer.get("choices")
    assert isinstance(choices, list), "choices is a list"
    for choice in choices:
        assert isinstance(choice, dict), "a choice is an object"
        assert _whole(choice.get("index")), "a choice has an index"


def _check_answered(message: Any) -> None:
    assert isinstance(message, dict), f"a choice has a message: {message!r}"
    assert message.get("role") == "assistant", f"the role is 'assistant', not {message.get('role')!r}"
    content = message.get("content")
    assert content is None or isinstance(content, str), f"content is text or null: {content!r}"
    calls = message.get("tool_calls") or []
    for called in calls:
        assert isinstance(called.get("id"), str), "a tool call has an id"
        assert isinstance(called["function"]["name"], str), "a tool call names its function"
        assert isinstance(msgspec.json.decode(called["function"]["arguments"]), dict), "arguments are JSON in a string"


def _check_chunk(chunk: Any, operation: Operation, finished: set[int]) -> None:
    assert isinstance(chunk, dict), "an event is an object"
    assert not chunk.get("error"), f"an error is a piece of its own kind: {chunk!r}"
    _check_frame(chunk, "chat.completion.chunk" if operation == "chat" else "text_completion")
    for choice in chunk["choices"]:
        index = choice["index"]
        if operation == "chat":
            delta = choice.get("delta") or {}
            assert isinstance(delta, dict), "a delta is an object"
            assert delta.get("role", "assistant") in ("assistant", None), f"the role is 'assistant': {delta!r}"
            said = any(value for key, value in delta.items() if key != "role")
        else:
            said = bool(choice.get("text"))
        assert not (said and index in finished), "nothing is said after it has finished"
        reason = choice.get("finish_reason")
        if reason is not None:
            assert reason in FINISH_REASONS, f"finish_reason is {reason!r}"
            finished.add(index)


def _events(data: bytes) -> Iterator[bytes]:
    """Yield the data of each event in a piece, which must hold whole ones; comments have none."""
    splitter = SSESplitter()
    for event in splitter.feed(data):
        found, _, _ = sse_data(event)
        if found is not None:
            yield found.strip()
    assert not splitter.finish(), f"a piece holds whole events, each with its blank line: {data!r}"


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


async def _needs(backend: Backend, ability: str, what: str) -> None:
    if isinstance(backend, Undecided):
        await _in_time(backend.settle())
    if not getattr(backend.capabilities, ability):
        pytest.skip(f"its capabilities exclude {what}")


def _refusal(backend: Backend, call: Call, deployment: Deployment) -> RequestError | None:
    try:
        backend.check(call, deployment)
    except RequestError as exc:
        return exc
    return None


def _deployment(backend: Backend, model: str) -> Deployment:
    return Deployment(backend=backend.name, model=model)


async def _in_time(awaited: Any) -> Any:
    with anyio.fail_after(PATIENCE_S):
        return await awaited


class _opened:
    """An answer under way, closed whatever happens."""

    def __init__(self, backend: Backend, call: Call, model: str) -> None:
        self._backend = backend
        self._call = call
        self._model = model

    async def __aenter__(self) -> Upstream:
        with anyio.fail_after(PATIENCE_S):
            self._upstream = await self._backend.open(self._call, _deployment(self._backend, self._model))
        return self._upstream

    async def __aexit__(self, *exc: object) -> None:
        await self._upstream.aclose()


@contextmanager
def _patience() -> Iterator[None]:
    with anyio.fail_after(PATIENCE_S):
        yield


async def _plain(backend: Backend, call: Call, model: str) -> tuple[PlainAnswer, Upstream]:
    backend.check(call, _deployment(backend, model))
    async with _opened(backend, call, model) as upstream:
        with _patience():
            answer = await upstream.read()
    assert isinstance(answer, PlainAnswer), "read returns a PlainAnswer"
    return answer, upstream


async def _stream(backend: Backend, call: Call, model: str) -> tuple[list[Piece], Upstream]:
    backend.check(call, _deployment(backend, model))
    pieces: list[Piece] = []
    async with _opened(backend, call, model) as upstream:
        with _patience():
            async with aclosing(upstream.pieces()) as source:
                async for some in source:
                    pieces += some
    for piece in pieces:
        if piece.error is not None:
            raise piece.error
    return pieces, upstream


async def _until_content(source: Closable[list[Piece]]) -> None:
    async for pieces in source:
        if any(piece.kind is PieceKind.CONTENT for piece in pieces):
            return
    raise AssertionError("the stream ended before it said anything")
