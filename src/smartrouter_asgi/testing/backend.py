"""A backend in the test's own process that does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from ..backends.base import BaseBackend, PlainAnswer
from ..deployment import Capabilities, Deployment, LoadedModel, ModelInfo
from ..exceptions import AttemptError
from ..types import JSONObject
from ..wire.call import Call
from ..wire.openai import DONE_EVENT, OpenAIStreamCodec, read_plain
from ..wire.stream import Piece, Usage

Step: TypeAlias = str | bytes | Exception | asyncio.Event | float
"""One thing a scripted engine does: say a piece of text, send these very bytes, fail, wait for an event or so long."""

Answer: TypeAlias = Step | Sequence[Step]
"""What an engine does for one call. What comes before the first text or bytes happens before the answer has begun."""

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True, kw_only=True, eq=False)
class RecordedCall:
    """One call a scripted backend got."""

    call: Call
    deployment: Deployment
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the gateway has let go of the answer."""
    finished: bool = False
    """Whether the answer was taken to its end."""

    @property
    def payload(self) -> JSONObject:
        """The body an engine would have got, decoded: under the deployment's model name."""
        decoded: JSONObject = msgspec.json.decode(self.call.with_model(self.deployment.model))
        return decoded


class ScriptedBackend(BaseBackend):
    """A `Backend` without an engine: each call gets the next of `answers`, and `default` once they are used up.

    Text becomes what the call asked for: an OpenAI chat answer, a completion, or a stream of chunks with `[DONE]`; one
    list item is one chunk. Bytes go out as they are: a plain body, or server-sent events. For embeddings, give bytes.

        ScriptedBackend(answers=["Hello", ["Hel", "lo"], AttemptError("down", kind=FailureKind.CONNECT)])

    `sizes` are bytes of GPU memory by model, for `running`. Lists, counters and answers may be changed at any time.
    """

    type = "scripted"

    def __init__(
        self,
        name: str = "scripted",
        *,
        answers: Iterable[Answer] = (),
        default: Answer | Callable[[Call, Deployment], Answer] = "Hello",
        models: Iterable[str] = ("model",),
        capabilities: Capabilities | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(name)
        self.capabilities = capabilities or Capabilities()
        self.answers: list[Answer] = list(answers)
        self.default = default
        self.models = list(models)
        self.sizes = dict(sizes or {})
        self.calls: list[RecordedCall] = []
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.loaded: list[str] = []
        """What is in memory now."""
        self.loading: Answer = ()
        """What happens during each load, before the model is in memory: waits and failures."""
        self.unloading: Answer = ()
        self.idle: bool | None = None
        self.failure: AttemptError | None = None
        """While set, `ping`, `list_models` and `running` raise it."""
        self.active = 0
        """How many answers are open now."""
        self._came = asyncio.Condition()

    async def called(self, count: int = 1) -> RecordedCall:
        """Wait until so many calls have come and return the last of them."""
        async with self._came:
            await self._came.wait_for(lambda: len(self.calls) >= count)
        return self.calls[count - 1]

    async def open(self, call: Call, deployment: Deployment) -> ScriptedUpstream:
        """Note the call and begin its answer; see `Backend.open`."""
        record = RecordedCall(call=call, deployment=deployment)
        async with self._came:
            self.calls.append(record)
            self._came.notify_all()
        answer = self.answers.pop(0) if self.answers else self.default
        steps = _steps(answer(call, deployment) if callable(answer) else answer)
        upstream = ScriptedUpstream(self, record, steps)
        try:
            await upstream.begin()
        except BaseException:
            record.closed.set()
            raise
        self.active += 1
        return upstream

    async def list_models(self) -> tuple[ModelInfo, ...]:
        """List `models`."""
        await self.ping()
        return tuple(ModelInfo(id=model) for model in self.models)

    async def ping(self) -> None:
        """Raise `failure`, if there is one."""
        if self.failure is not None:
            raise self.failure

    async def running(self) -> tuple[LoadedModel, ...]:
        """List `loaded`, with the sizes known."""
        await self.ping()
        return tuple(LoadedModel(id=model, vram_bytes=self.sizes.get(model)) for model in self.loaded)

    async def load(self, model: str) -> None:
        """Note the load, do what `loading` says, then have the model in memory."""
        self.loads.append(model)
        for step in _steps(self.loading):
            await _do(step)
        if model not in self.loaded:
            self.loaded.append(model)

    async def unload(self, model: str) -> None:
        """Note the unload, do what `unloading` says, then have the model out of memory."""
        self.unloads.append(model)
        for step in _steps(self.unloading):
            await _do(step)
        if model in self.loaded:
            self.loaded.remove(model)

    async def is_idle(self, model: str) -> bool | None:
        """Return `idle`."""
        return self.idle

    def canonical(self, model: str) -> str:
        """Return the name as it is."""
        return model

    async def aclose(self) -> None:
        """Let go of nothing."""

    def __repr__(self) -> str:
        return f"<ScriptedBackend {self.name!r}: {len(self.calls)} calls, {self.active} open>"


class ScriptedUpstream:
    """A scripted answer under way; see `Upstream`."""

    ignored: tuple[str, ...] = ()

    def __init__(self, backend: ScriptedBackend, record: RecordedCall, steps: Sequence[Step]) -> None:
        self._backend = backend
        self._record = record
        self._steps = steps
        self._done = 0
        self._codec = OpenAIStreamCodec(backend.name)
        self._usage: Usage | None = None

    @property
    def usage(self) -> Usage | None:
        """Token counts, where the answer's bytes told them."""
        return self._codec.usage or self._usage

    async def begin(self) -> None:
        """Do what comes before the answer's first piece."""
        while self._done < len(self._steps) and not isinstance(self._steps[self._done], str | bytes):
            step = self._steps[self._done]
            self._done += 1
            await _do(step)

    async def read(self) -> PlainAnswer:
        """Return the whole answer."""
        text: list[str] = []
        exact: list[bytes] = []
        for step in self._steps[self._done :]:
            if isinstance(step, str):
                text.append(step)
            elif isinstance(step, bytes):
                exact.append(step)
            else:
                await _do(step)
        body = b"".join(exact) if exact else _plain_body(self._record, "".join(text))
        self._usage = read_plain(self._backend.name, body)
        self._record.finished = True
        return PlainAnswer(body=body, usage=self._usage)

    async def pieces(self) -> AsyncGenerator[list[Piece], None]:
        """Yield the answer, step by step."""
        said = False
        for step in self._steps[self._done :]:
            if isinstance(step, str | bytes):
                said = isinstance(step, str)
                yield self._codec.feed(_chunk(self._record, step) if isinstance(step, str) else step)
            else:
                await _do(step)
        yield self._codec.feed(_chunk(self._record, None) + DONE_EVENT) if said else self._codec.finish()
        self._record.finished = True

    async def aclose(self) -> None:
        """Let go of the answer."""
        if not self._record.closed.is_set():
            self._record.closed.set()
            self._backend.active -= 1


def _steps(answer: Answer) -> Sequence[Step]:
    return [answer] if isinstance(answer, str | bytes | Exception | asyncio.Event | int | float) else answer


async def _do(step: Step) -> None:
    if isinstance(step, Exception):
        raise _fresh(step)
    if isinstance(step, asyncio.Event):
        await step.wait()
    elif isinstance(step, int | float):
        await asyncio.sleep(step)
    else:
        raise TypeError(f"an engine can only fail or wait here, not say {step!r}")


def _fresh(error: Exception) -> Exception:
    """Copy an error of ours: the same script may raise it many times."""
    if isinstance(error, AttemptError):
        return AttemptError(
            error.message,
            kind=error.kind,
            status=error.status,
            code=error.code,
            type=error.type,
            param=error.param,
            retry_after_s=error.retry_after_s,
            engine_busy=error.engine_busy,
        )
    return error


def _plain_body(record: RecordedCall, text: str) -> bytes:
    chat = record.call.operation == "chat"
    said: JSONObject = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    return _encode(
        {
            "id": "scripted",
            "object": "chat.completion" if chat else "text_completion",
            "created": 0,
            "model": record.deployment.model,
            "choices": [{"index": 0, **said, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
    )


def _chunk(record: RecordedCall, text: str | None) -> bytes:
    """Return one server-sent event; the last one, without text, says that the answer is finished."""
    chat = record.call.operation == "chat"
    said: JSONObject = {"delta": {} if text is None else {"content": text}} if chat else {"text": text or ""}
    event = {
        "id": "scripted",
        "object": "chat.completion.chunk" if chat else "text_completion",
        "created": 0,
        "model": record.deployment.model,
        "choices": [{"index": 0, **said, "finish_reason": "stop" if text is None else None}],
    }
    return b"data: " + _encode(event) + b"\n\n"
