"""One answer in the making, and how its events look on either surface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .gotime import nanoseconds, timestamp
from .simulation import omit_empty

if TYPE_CHECKING:
    from .faults import Fault
    from .generation import Script, Step
    from .models import SimulatedModel
    from .requests import Inference

Surface = Literal["chat", "generate"]


@dataclass(slots=True, kw_only=True)
class Answer:
    """One answer in the making: what it is written from, and when what happened, in engine seconds."""

    surface: Surface
    request: Inference
    model: SimulatedModel
    script: Script
    began_s: float
    loaded_s: float
    fault: Fault
    prompt_s: float = 0.0
    eval_s: float = 0.0
    eval_count: int = 0
    stalled: bool = False

    def event(self, *steps: Step, done_reason: str = "", done: bool = False) -> dict[str, Any]:
        """Return the event that carries these steps; the last one has the counts."""
        event = body(self.surface, self.request.model, *steps, done=done)
        if self.request.logprobs:
            logprobs = [self._logprob(step) for step in steps if step.kind == "content"]
            event.update(omit_empty(logprobs=logprobs))
        if done:
            event["done_reason"] = done_reason
            if self.surface == "generate":
                event["context"] = list(range(1, self.script.prompt_tokens + self.eval_count + 1))
        return event

    def counts(self, now_s: float) -> dict[str, Any]:
        """Return the statistics of the last event; a zero is left out."""
        return omit_empty(
            total_duration=nanoseconds(now_s - self.began_s),
            load_duration=nanoseconds(self.loaded_s - self.began_s),
            prompt_eval_count=self.script.prompt_tokens,
            prompt_eval_duration=nanoseconds(self.prompt_s),
            eval_count=self.eval_count,
            eval_duration=nanoseconds(self.eval_s),
        )

    def _logprob(self, step: Step) -> dict[str, Any]:
        entry = {"token": step.text, "logprob": -0.25, "bytes": list(step.text.encode())}
        others = [{**entry, "token": f"{step.text}{n or ''}", "logprob": -0.25 - n} for n in range(20)]
        return {**entry, **omit_empty(top_logprobs=others[: self.request.top_logprobs])}


def body(surface: Surface, model: str, *steps: Step, done: bool) -> dict[str, Any]:
    """Return an event without counts."""
    text = "".join(step.text for step in steps if step.kind == "content")
    thinking = "".join(step.text for step in steps if step.kind == "thinking")
    calls = [call for step in steps for call in step.tool_calls]
    event: dict[str, Any] = {"model": model, "created_at": timestamp()}
    if surface == "chat":
        event["message"] = {
            "role": "assistant",
            "content": text,
            **omit_empty(thinking=thinking, tool_calls=calls),
        }
    else:
        event |= {"response": text, **omit_empty(thinking=thinking)}
    event["done"] = done
    return event
