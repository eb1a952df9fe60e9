"""The `options` object of a request: which keys exist, their types, which of them are fixed at load time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .errors import APIError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .models import SimulatedModel

OptionType = Literal["integer", "float32", "boolean", "array"]

OPTION_TYPES: dict[str, OptionType] = {
    **dict.fromkeys(
        (
            *("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict"),
            *("num_keep", "seed", "num_predict", "top_k", "repeat_last_n"),
        ),
        "integer",
    ),
    **dict.fromkeys(
        (
            *("top_p", "min_p", "typical_p", "temperature"),
            *("repeat_penalty", "presence_penalty", "frequency_penalty"),
        ),
        "float32",
    ),
    "use_mmap": "boolean",
    "stop": "array",
}
"""Every known option; any other key is ignored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What a runner is started with; a request that needs another value reloads it."""

    num_ctx: int
    num_ctx_auto: bool = True
    num_batch: int = 512
    num_batch_auto: bool = True
    num_gpu: int = -1
    main_gpu: int = 0
    num_thread: int = 0
    use_mmap: bool | None = None
    draft_num_predict: int = 0
    context_shift: bool = True

    def satisfied_by(self, running: LoadOptions) -> bool:
        """Tell whether a runner started with `running` can serve this; automatic values never differ."""
        return (
            (self.num_ctx == running.num_ctx or (self.num_ctx_auto and running.num_ctx_auto))
            and (self.num_batch == running.num_batch or (self.num_batch_auto and running.num_batch_auto))
            and (self.num_gpu < 0 or self.num_gpu == running.num_gpu)
            and (self.use_mmap is None or self.use_mmap == running.use_mmap)
            and self.main_gpu == running.main_gpu
            and self.num_thread == running.num_thread
            and self.draft_num_predict == running.draft_num_predict
            and self.context_shift == running.context_shift
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """What one answer is sampled with, as far as the simulation follows it."""

    num_predict: int = -1
    temperature: float = 0.8
    seed: int = -1
    stop: tuple[str, ...] = ()

    @property
    def deterministic(self) -> bool:
        """Tell whether the same prompt gets the same answer again."""
        return self.seed >= 0 or self.temperature == 0


def parse_options(
    model: SimulatedModel, given: Mapping[str, Any], *, default_num_ctx: int, shift: bool
) -> tuple[LoadOptions, SamplingOptions]:
    """Merge the engine's defaults, the Modelfile's and the request's options.

    Raises `APIError` (500, the status Ollama answers) for a value of the wrong type.
    """
    values = _checked({**model.parameters, **{k: v for k, v in given.items() if v is not None}})
    num_ctx = max(4, min(values.get("num_ctx", default_num_ctx), model.context_length))
    if model.can("vision"):
        num_ctx = max(2048, num_ctx)
    load = LoadOptions(
        num_ctx=num_ctx,
        num_ctx_auto="num_ctx" not in values,
        num_batch_auto="num_batch" not in values,
        context_shift=shift,
        **{
            key: values[key]
            for key in ("num_batch", "num_gpu", "main_gpu", "num_thread", "use_mmap", "draft_num_predict")
            if key in values
        },
    )
    sampling = SamplingOptions(
        stop=tuple(stop for stop in values.get("stop", ()) if stop),
        **{key: values[key] for key in ("num_predict", "temperature", "seed") if key in values},
    )
    return load, sampling


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    checked: dict[str, Any] = {}
    for key, value in values.items():
        wanted = OPTION_TYPES.get(key)
        if wanted is None:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if wanted == "integer" and number:
            checked[key] = int(value)
        elif wanted == "float32" and number:
            checked[key] = float(value)
        elif (wanted == "boolean" and isinstance(value, bool)) or (wanted == "array" and isinstance(value, list)):
            checked[key] = value
        else:
            raise APIError(500, f'option "{key}" must be of type {wanted}')
    if not all(isinstance(stop, str) for stop in checked.get("stop", ())):
        raise APIError(500, 'option "stop" must be of an array of strings')
    return checked
