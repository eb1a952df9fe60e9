"""The contract itself: what it lets pass, what it catches, and that it costs nobody an import of pytest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from typing import Any

import anyio
import pytest

from smartrouter_asgi.backends.base import BackendSpec, PlainAnswer, Upstream
from smartrouter_asgi.deployment import Capabilities, Deployment, LoadedModel, ModelInfo
from smartrouter_asgi.exceptions import AttemptError, FailureKind
from smartrouter_asgi.testing import ScriptedBackend, contract
from smartrouter_asgi.testing.contract import BackendContract, check_embeddings, check_message
from smartrouter_asgi.types import Secret
from smartrouter_asgi.wire.call import Call
from smartrouter_asgi.wire.stream import Piece, PieceKind

from .engines import dump, event

FRAME = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "model"}
TEXT = event({**FRAME, "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]})
STOP = event({**FRAME, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
OTHER_ID = event({**FRAME, "id": "y", "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]})
DONE = b"data: [DONE]\n\n"
CONTENT, HELD, END, ERROR = PieceKind.CONTENT, PieceKind.HELD, PieceKind.END, PieceKind.ERROR
SUITE = BackendContract()


class Answer:
    """An answer of given pieces."""

    ignored: tuple[str, ...] = ()
    usage = None

    def __init__(self, pieces: list[Piece]) -> None:
        self._pieces = pieces

    async def read(self) -> PlainAnswer:
        raise NotImplementedError

    async def pieces(self) -> AsyncGenerator[list[Piece], None]:
        for piece in self._pieces:
            yield [piece]

    async def aclose(self) -> None: ...


class Streaming(ScriptedBackend):
    """A backend whose every stream is the same pieces."""

    def __init__(self, *pieces: tuple[PieceKind, bytes]) -> None:
        super().__init__()
        self._pieces = [Piece(kind, data) for kind, data in pieces]

    async def open(self, call: Call, deployment: Deployment) -> Any:
        return Answer(self._pieces)


async def test_a_good_stream_passes():
    """The pieces that the faults below are made from."""
    await SUITE.test_stream(
        Streaming((HELD, event({**FRAME, "choices": []})), (CONTENT, TEXT + STOP), (END, DONE)), "model", {}
    )


@pytest.mark.parametrize(
    ("pieces", "says"),
    [
        ([(CONTENT, TEXT), (CONTENT, STOP)], "ends once"),
        ([(CONTENT, TEXT), (CONTENT, STOP), (END, DONE), (END, DONE)], "ends once"),
        ([(CONTENT, TEXT), (CONTENT, STOP), (END, DONE), (CONTENT, TEXT)], "nothing follows the end"),
        ([(CONTENT, TEXT), (END, DONE)], "why it finished"),
        ([(CONTENT, STOP), (CONTENT, TEXT), (END, DONE)], "after it has finished"),
        ([(CONTENT, TEXT[:-1]), (CONTENT, STOP), (END, DONE)], "whole events"),
        ([(CONTENT, TEXT), (HELD, TEXT), (CONTENT, STOP), (END, DONE)], "is content"),
        ([(CONTENT, TEXT), (CONTENT, OTHER_ID), (CONTENT, STOP), (END, DONE)], "one id"),
        ([(CONTENT, TEXT), (CONTENT, STOP), (END, STOP)], r"ends with \[DONE\]"),
        ([(CONTENT, TEXT), (CONTENT, DONE), (END, DONE)], r"\[DONE\] is the end"),
        ([(HELD, TEXT), (END, DONE)], "says something"),
        ([(CONTENT, TEXT.replace(b'"created":1,', b"")), (CONTENT, STOP), (END, DONE)], "created"),
        ([(CONTENT, event({**FRAME, "error": {"message": "no"}})), (END, DONE)], "an error is a piece"),
    ],
)
async def test_it_catches_streams_that_clients_stumble_over(pieces: list[tuple[PieceKind, bytes]], says: str):
    """Each fault has its words."""
    with pytest.raises(AssertionError, match=says):
        await SUITE.test_stream(Streaming(*pieces), "model", {})


def plain(**changes: Any) -> bytes:
    message = {"role": "assistant", "content": "Hello"}
    whole = {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "model",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }
    return dump({**whole, **changes})


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (plain(object="chat"), "object is"),
        (plain(id=None), "has an id"),
        (plain(created=1.5), "created"),
        (plain(choices=[]), "has a choice"),
        (plain(choices=[{"index": 0, "message": {"role": "bot", "content": ""}, "finish_reason": "stop"}]), "the role"),
        (plain(choices=[{"index": 0, "message": {"role": "assistant"}, "finish_reason": "done"}]), "finish_reason"),
        (plain(usage={"prompt_tokens": 1, "completion_tokens": 1}), "total_tokens"),
    ],
)
async def test_it_catches_plain_answers_of_another_shape(body: bytes, says: str):
    """What an SDK would fail to read."""
    await SUITE.test_chat(ScriptedBackend(answers=[plain()]), "model", {})
    with pytest.raises(AssertionError, match=says):
        await SUITE.test_chat(ScriptedBackend(answers=[body]), "model", {})


async def test_it_catches_what_is_dropped_in_silence():
    """Usage was asked for; it neither comes nor is it named."""
    with pytest.raises(AssertionError, match="neither came nor was named"):
        await SUITE.test_usage_in_a_stream(ScriptedBackend(), "model", {})


class Wrong(ScriptedBackend):
    """A backend with all that is wrong outside of its answers."""

    def __init__(self) -> None:
        super().__init__(capabilities=Capabilities(can_load=True, can_report_loaded=True))
        self.spec = BackendSpec(name="b", type="t", url="http://10.0.0.1:8000", api_keys=(Secret("sk-very-secret"),))

    def __repr__(self) -> str:
        return "Wrong(key=sk-very-secret)"

    def canonical(self, model: str) -> str:
        return model + ":latest"

    async def list_models(self) -> tuple[ModelInfo, ...]:
        return (ModelInfo(id="m"), ModelInfo(id="m"))

    async def running(self) -> tuple[LoadedModel, ...]:
        return ()

    async def open(self, call: Call, deployment: Deployment) -> Any:
        if deployment.model == "unknown":
            raise KeyError(deployment.model)
        if "user" in call.fields:
            del call.fields["user"]
        return await super().open(call, deployment)


@pytest.mark.parametrize(
    ("ask", "error", "says"),
    [
        (lambda b: SUITE.test_its_repr_keeps_secrets(b, "m", ["sk-very-secret"]), AssertionError, "shows a secret"),
        (lambda b: SUITE.test_a_listed_model_keeps_its_name(b, "m"), AssertionError, "settled after one step"),
        (lambda b: SUITE.test_it_lists_models(b), AssertionError, "listed once"),
        (lambda b: SUITE.test_load_and_unload(b, "m", {}), AssertionError, "not in memory"),
        (lambda b: SUITE.test_an_unknown_model(b, "unknown", [], {}), KeyError, "unknown"),
        (lambda b: SUITE.test_the_call_is_left_as_it_was(b, "m", {"user": "u"}), AssertionError, "were changed"),
        (lambda b: SUITE.test_refused_fields(b, "m", [{"n": 2}], None, []), pytest.fail.Exception, "DID NOT RAISE"),
    ],
)
async def test_it_catches_bad_manners(ask: Callable[[Wrong], Any], error: type[BaseException], says: str):
    """Secrets shown, names that never settle, loads that load nothing, bare exceptions, calls changed for everybody."""
    with pytest.raises(error, match=says):
        await ask(Wrong())


async def test_it_catches_who_holds_on(monkeypatch: pytest.MonkeyPatch):
    """A backend that goes on after its client has left keeps the engine busy for nobody."""

    class Deaf(ScriptedBackend):
        async def open(self, call: Call, deployment: Deployment) -> Upstream:
            upstream = await super().open(call, deployment)
            if call.stream:
                pieces = upstream.pieces

                async def deaf() -> AsyncGenerator[list[Piece], None]:
                    with anyio.CancelScope(shield=True):
                        async for some in pieces():
                            yield some

                upstream.pieces = deaf  # type: ignore[method-assign]
            return upstream

    monkeypatch.setattr(contract, "LEAVE_WITHIN_S", 0.2)
    with pytest.raises(AssertionError, match="held on"):
        await SUITE.test_cancelled_in_a_stream(Deaf(answers=[["a", 0.5, "b"]]), "model", {})
    monkeypatch.setattr(contract, "LEAVE_WITHIN_S", 10.0)
    await SUITE.test_cancelled_in_a_stream(ScriptedBackend(answers=[["a", 20.0, "b"]]), "model", {})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no engine at http://box:1",
        "refused by 10.0.0.1",
        "<httpx.Client object at 0x7f2a>",
        "x" * 2000,
        "key-1234567",
    ],
)
def test_it_catches_messages_that_are_not_for_clients(text: str):
    """Addresses, insides, keys, and walls of text."""
    check_message(AttemptError("backend 'box' is busy", kind=FailureKind.SERVER), ["key-1234567"])
    with pytest.raises(AssertionError):
        check_message(AttemptError(text, kind=FailureKind.SERVER), ["key-1234567"])


def test_it_catches_vectors_out_of_order():
    """They would be taken for those of other texts."""
    rows = [{"object": "embedding", "index": n, "embedding": [0.1]} for n in (1, 0)]
    with pytest.raises(AssertionError, match="in its order"):
        check_embeddings(dump({"object": "list", "model": "m", "data": rows}), 2)


def test_pytest_is_imported_with_the_contract_only():
    """The package and its testing tools do without it."""
    script = (
        "import sys, smartrouter_asgi, smartrouter_asgi.testing; print('pytest' in sys.modules); "
        "import smartrouter_asgi.testing.contract; print('pytest' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
