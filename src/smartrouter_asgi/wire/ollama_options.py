"""Ollama's `options`, `keep_alive` and `think`: what the client samples with, what the gateway keeps in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .ollama_fields import RequestFields

NUMBER_OPTIONS = (
    *("temperature", "top_p", "min_p", "typical_p"),
    *("frequency_penalty", "presence_penalty", "repeat_penalty"),
)
INTEGER_OPTIONS = ("seed", "top_k", "repeat_last_n")
"""Sampling fields that have the same name and meaning in Ollama's `options`."""

EFFORTS: dict[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "max": "max",
}
"""`reasoning_effort` -> `think`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Residency:
    """What the gateway decides about a model in memory; the same in every request, or Ollama loads the model again."""

    keep_alive_s: float | None = None
    """None leaves Ollama's own timer alone, negative is for ever."""
    num_ctx: int | None = None

    def members(self, options: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the body's `keep_alive` and `options`, sampling options included; an absent one is left out.

        Ollama cuts a number of seconds to a whole one, so that half a second would unload at once: rounded up here.
        """
        members: dict[str, Any] = {}
        if self.keep_alive_s is not None:
            members["keep_alive"] = (
                -1 if self.keep_alive_s < 0 or math.isinf(self.keep_alive_s) else math.ceil(self.keep_alive_s)
            )
        options = dict(options or {})
        if self.num_ctx is not None:
            options["num_ctx"] = self.num_ctx
        if options:
            members["options"] = options
        return members


def take_options(fields: RequestFields) -> dict[str, Any]:
    """Take the sampling fields; only what is given is sent, so that the defaults of the model's own file hold."""
    options: dict[str, Any] = {name: fields.number(name) for name in NUMBER_OPTIONS if name in fields}
    options.update({name: fields.integer(name) for name in INTEGER_OPTIONS if name in fields})
    limit, older = fields.integer("max_completion_tokens", low=1), fields.integer("max_tokens", low=1)
    if limit is not None and older is not None:
        fields.note("max_tokens")
    if limit is not None or older is not None:
        options["num_predict"] = older if limit is None else limit
    stop = fields.take("stop")
    if stop is not None:
        stops = [stop] if isinstance(stop, str) else stop
        if not isinstance(stops, list) or not all(isinstance(one, str) for one in stops):
            raise fields.wrong("stop", "a string or a list of strings")
        if stops:
            options["stop"] = stops
    return options


def take_think(fields: RequestFields, can_think: bool | None) -> bool | str | None:
    """Take `reasoning_effort` as `think`; ignored for a model that is known not to think, where Ollama refuses it."""
    effort = fields.string("reasoning_effort")
    if effort is None:
        return None
    if effort not in EFFORTS:
        raise fields.wrong("reasoning_effort", f"one of {', '.join(EFFORTS)}")
    if can_think is False:
        fields.note("reasoning_effort")
        return None
    return EFFORTS[effort]
