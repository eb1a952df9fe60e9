"""What a simulated model answers, written in full before it is sent: a pure function of prompt, options and seed."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .schema import example

if TYPE_CHECKING:
    from .models import SimulatedModel
    from .options import SamplingOptions

EXCERPT_CHARACTERS = 80
IMAGE_TOKENS = 256

_PIECE = re.compile(r"\s*\S{1,8}|\s+")

_SENTENCES = (
    " No language model was asked; the words are made up 🙂.",
    " Each word piece counts as one token.",
    " The memory it takes and the time it needs are simulated too.",
    " Naïve clients split UTF-8 amid a character: 日本語 shows whether they do.",
    " Ask again with another seed and the sentences change places.",
    " Nothing here should be taken for knowledge.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What there is to answer."""

    texts: tuple[str, ...]
    """Every text of the prompt, for counting."""
    question: str
    """The last user text."""
    think: bool = False
    format: Any = None
    """None, `"json"` or a schema."""
    tools: tuple[dict[str, Any], ...] = ()
    tool_result: str | None = None
    """What a tool has answered, when that is the last message."""
    images: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One event of an answer: a piece of text, or whole tool calls. `tokens` were generated for it."""

    kind: Literal["thinking", "content", "tool_calls"]
    text: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    tokens: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A whole answer."""

    steps: tuple[Step, ...] = field(repr=False)
    done_reason: Literal["stop", "length"]
    prompt_tokens: int


def count_tokens(text: str) -> int:
    """Return about how many tokens a text is: as many as words, or a quarter of its characters."""
    return max(len(text.split()), math.ceil(len(text) / 4))


def pieces(text: str) -> list[str]:
    """Cut a text into word pieces; joined they are the text again."""
    return _PIECE.findall(text)


def write_script(
    model: SimulatedModel, prompt: Prompt, options: SamplingOptions, *, num_ctx: int, chance: random.Random
) -> Script:
    """Write the answer; only `chance` makes it differ when the options leave it open."""
    if options.deterministic:
        chance = random.Random(f"{model.digest}:{options.seed}:{prompt.question}")
    steps: list[Step] = []
    if prompt.think:
        thought = f"Simulated reasoning: the question is {_excerpt(prompt.question)} and any answer will do."
        steps += [Step("thinking", piece) for piece in pieces(thought)]
    if prompt.tools and prompt.tool_result is None:
        steps += _tool_calls(model, prompt, chance)
    else:
        text, _, _ = _cut(_answer(model, prompt, chance), options.stop)
        steps += [Step("content", piece) for piece in pieces(text)]
    counted = sum(count_tokens(text) + 4 for text in prompt.texts) + IMAGE_TOKENS * prompt.images
    limited = _limit(steps, options.num_predict)
    return Script(
        steps=tuple(limited),
        done_reason="stop" if len(limited) == len(steps) else "length",
        prompt_tokens=max(1, min(counted, num_ctx)),
    )


def _limit(steps: list[Step], num_predict: int) -> list[Step]:
    if num_predict < 0:
        return steps
    kept: list[Step] = []
    for step in steps:
        num_predict -= step.tokens
        if num_predict < 0:
            break
        kept.append(step)
    return kept


def _cut(text: str, stops: tuple[str, ...]) -> tuple[str, str, str]:
    found = [(at, stop) for stop in stops if (at := text.find(stop)) >= 0]
    return text.partition(min(found)[1]) if found else (text, "", "")


def _excerpt(text: str) -> str:
    line = " ".join(text.split())
    return f"«{line[:EXCERPT_CHARACTERS]}…»" if len(line) > EXCERPT_CHARACTERS else f"«{line}»"


def _answer(model: SimulatedModel, prompt: Prompt, chance: random.Random) -> str:
    if prompt.format == "json":
        return json.dumps({"simulated": True, "model": model.name, "answer": prompt.question[:EXCERPT_CHARACTERS]})
    if prompt.format is not None:
        return json.dumps(example(prompt.format, text=f"simulated answer of {model.name}"), ensure_ascii=False)
    text = f"This is a simulated answer from {model.name} to: {_excerpt(prompt.question)}."
    if prompt.tool_result is not None:
        text += f" A tool said: {_excerpt(prompt.tool_result)}."
    missing = model.answer_tokens - len(pieces(text))
    sentences = list(_SENTENCES[1:])
    chance.shuffle(sentences)
    parts = [text]
    for sentence in itertools.cycle([_SENTENCES[0], *sentences]):
        if missing <= 0:
            break
        parts.append(sentence)
        missing -= len(pieces(sentence))
    return "".join(parts)


def _tool_calls(model: SimulatedModel, prompt: Prompt, chance: random.Random) -> list[Step]:
    functions = [tool.get("function") or {} for tool in prompt.tools]
    named = [one for one in functions if one.get("name") and one["name"].lower() in prompt.question.lower()]
    calls = []
    for index, function in enumerate(named or functions[:1]):
        arguments = example(function.get("parameters") or {"type": "object"}, text="simulated")
        call_id = "".join(chance.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=8))
        name = function.get("name", "")
        calls.append(
            {"id": f"call_{call_id}", "function": {"index": index, "name": name, "arguments": arguments}},
        )
    if model.tool_calls_in == "final":
        return [Step("tool_calls", tool_calls=tuple(calls), tokens=sum(map(_call_tokens, calls)))]
    return [Step("tool_calls", tool_calls=(call,), tokens=_call_tokens(call)) for call in calls]


def _call_tokens(call: dict[str, Any]) -> int:
    return count_tokens(json.dumps(call["function"]))
