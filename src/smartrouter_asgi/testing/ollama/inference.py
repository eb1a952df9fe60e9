"""/api/chat and /api/generate: load, unload, and answers token by token, with the faults that are in force."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from .answer import Answer, Surface, body
from .effects import Runner, Ticket
from .errors import APIError, ConnectionDropped
from .generation import Prompt, Script, Step, write_script
from .models import canonical_name
from .options import SamplingOptions, parse_options
from .requests import Inference, parse_chat, parse_generate
from .simulation import NDJSON, Simulation, encode, send_json

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from .http_parser import Request
    from .http_server import Response
    from .models import SimulatedModel
    from .observation import Exchange


class StreamCut(Exception):
    """The answer ends here without a `done` event."""


class InferenceEndpoints:
    """The two generating endpoints."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    async def chat(self, request: Request, response: Response, exchange: Exchange) -> None:
        """POST /api/chat."""
        await self._answer("chat", parse_chat(request.body), response, exchange)

    async def generate(self, request: Request, response: Response, exchange: Exchange) -> None:
        """POST /api/generate."""
        await self._answer("generate", parse_generate(request.body), response, exchange)

    async def _answer(self, surface: Surface, asked: Inference, response: Response, exchange: Exchange) -> None:
        simulation = self._simulation
        began_s = simulation.clock.now_s()
        found = simulation.library.find(asked.model)
        fault = await simulation.meet(f"/api/{surface}", found, response)
        if fault is None:
            return
        model = _existing(surface, asked.model, found)
        if asked.is_empty and asked.keep_alive_s == 0:
            simulation.pool.unload(model)
            await send_json(response, {**body(surface, asked.model, done=True), "done_reason": "unload"})
            return
        think = _check_capabilities(surface, asked, model)
        load, sampling = parse_options(
            model, asked.options, default_num_ctx=simulation.default_num_ctx, shift=asked.shift
        )
        ticket = Ticket(model, load, asked.keep_alive_s)
        async with simulation.pool.hold(ticket, fault) as runner:
            if asked.is_empty:
                await send_json(response, {**body(surface, asked.model, done=True), "done_reason": "load"})
                return
            loaded_s = simulation.clock.now_s()
            script = self._write(asked, model, sampling, runner, think=think)
            answer = Answer(
                surface=surface,
                request=asked,
                model=model,
                script=script,
                began_s=began_s,
                loaded_s=loaded_s,
                fault=fault,
            )
            await simulation.pool.slot(ticket)
            deliver = self._stream if asked.stream else self._collect
            await deliver(answer, runner, response, exchange)

    def _write(
        self, asked: Inference, model: SimulatedModel, sampling: SamplingOptions, runner: Runner, *, think: bool
    ) -> Script:
        last = asked.messages[-1]
        users = [message.content for message in asked.messages if message.role == "user"]
        prompt = Prompt(
            texts=tuple(message.content for message in asked.messages),
            question=users[-1] if users else last.content,
            think=think,
            format=_checked_format(asked.format),
            tools=asked.tools,
            tool_result=last.content if last.role == "tool" else None,
            images=sum(message.images for message in asked.messages),
        )
        chance = self._simulation.chance
        return write_script(model, prompt, sampling, num_ctx=runner.options.num_ctx, chance=chance)

    async def _stream(self, answer: Answer, runner: Runner, response: Response, exchange: Exchange) -> None:
        async def write(event: dict[str, Any]) -> None:
            if response.status is None:
                await response.start(200, NDJSON)
            line = encode(event) + b"\n"
            size = answer.fault.split_bytes or len(line)
            for at in range(0, len(line), size):
                await response.write(line[at : at + size])

        if answer.fault.stall == "first_token":
            await response.start(200, NDJSON)
            await self._simulation.faults.until_cleared()
        last: tuple[Step, ...] = ()
        try:
            async with aclosing(self._steps(answer, runner, exchange)) as generated:
                async for step in generated:
                    if step.kind == "tool_calls" and answer.model.tool_calls_in == "final":
                        last = (step,)
                    else:
                        await write(answer.event(step))
        except StreamCut:
            if response.status is None:
                await response.start(200, NDJSON)
            return
        except APIError as error:
            if response.status is None:
                raise
            await write({"error": error.message})
            return
        event = answer.event(*last, done_reason=answer.script.done_reason, done=True)
        await write(event | answer.counts(self._simulation.clock.now_s()))

    async def _collect(self, answer: Answer, runner: Runner, response: Response, exchange: Exchange) -> None:
        if answer.fault.stall == "first_token":
            await self._simulation.faults.until_cleared()
        steps: list[Step] = []
        try:
            async with aclosing(self._steps(answer, runner, exchange)) as generated:
                async for step in generated:
                    steps.append(step)  # noqa: PERF401 - what came before a cut is needed
        except StreamCut:
            await send_json(response, answer.event(*steps))
            return
        event = answer.event(*steps, done_reason=answer.script.done_reason, done=True)
        await send_json(response, event | answer.counts(self._simulation.clock.now_s()))

    async def _steps(self, answer: Answer, runner: Runner, exchange: Exchange) -> AsyncGenerator[Step, None]:
        """Yield the steps at the model's pace; counts them, and lets the fault strike where it is set."""
        clock, model, fault = self._simulation.clock, answer.model, answer.fault
        stats, changed = self._simulation.observation.stats, self._simulation.observation.changed
        stats.active_generations += 1
        stats.peak_active_generations = max(stats.peak_active_generations, stats.active_generations)
        changed()
        finished = False
        try:
            began_s = clock.now_s()
            answer.prompt_s = answer.script.prompt_tokens / model.prompt_tokens_per_s
            due_s = began_s + answer.prompt_s + fault.first_token_delay_s
            for step in answer.script.steps:
                await self._strike(answer, runner)
                due_s += step.tokens / model.tokens_per_s + fault.token_delay_s
                await clock.sleep_until(due_s)
                answer.eval_count += step.tokens
                answer.eval_s = max(0.0, clock.now_s() - began_s - answer.prompt_s)
                exchange.tokens += step.tokens
                stats.tokens_generated += step.tokens
                changed()
                yield step
            await self._strike(answer, runner)
            finished = True
        finally:
            stats.active_generations -= 1
            stats.generations += finished
            stats.aborted_generations += not finished
            changed()

    async def _strike(self, answer: Answer, runner: Runner) -> None:
        fault = answer.fault
        if answer.eval_count < fault.after_tokens:
            return
        if fault.stall == "mid_stream" and not answer.stalled:
            answer.stalled = True
            await self._simulation.faults.until_cleared()
        if fault.crash is None:
            return
        self._simulation.pool.crashed(runner, fault.crash_message, kills_runner=fault.kills_runner)
        match fault.crash:
            case "error":
                raise APIError(500, fault.crash_message)
            case "eof":
                raise StreamCut
            case "close" | "reset":
                raise ConnectionDropped(reset=fault.crash == "reset")


def _existing(surface: Surface, name: str, found: SimulatedModel | None) -> SimulatedModel:
    if found is not None:
        return found
    if surface == "chat" and canonical_name(name) is None:
        raise APIError(400, "model is required")
    raise APIError(404, f"model '{name}' not found")


def _check_capabilities(surface: Surface, asked: Inference, model: SimulatedModel) -> bool:
    """Raise `APIError` (400) for what the model cannot do; return whether it shall think."""
    needed = [
        (not model.can("completion"), surface),
        (bool(asked.tools) and not model.can("tools"), "tools"),
        (bool(asked.think) and not model.can("thinking"), "thinking"),
        (bool(asked.suffix) and not model.can("insert"), "insert"),
    ]
    for lacking, what in needed:
        if lacking:
            raise APIError(400, f'"{asked.model}" does not support {what}')
    return model.can("thinking") and (asked.think is None or bool(asked.think))


def _checked_format(value: Any) -> Any:
    if value is None or value == "":
        return None
    if value == "json" or isinstance(value, dict):
        return value
    raise APIError(400, f'invalid format: {encode(value).decode()}; expected "json" or a valid JSON Schema object')
