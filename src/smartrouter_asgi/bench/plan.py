"""What is asked, how often and in which order; pure but for the random numbers it is given."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, TypeAlias

Side: TypeAlias = Literal["direct", "routed"]
Dialect: TypeAlias = Literal["openai", "ollama"]
"""The language of a request: OpenAI's, or Ollama's own."""

SIDES: tuple[Side, Side] = ("direct", "routed")

PROMPT = (
    "You are testing how fast text arrives. Write a calm, detailed description of a harbour town in the early morning: "
    "the light, the boats, the people at work, the sounds. Go on until you are stopped."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured. A round asks each side once with every connection."""

    rounds: int = 20
    concurrency: int = 1
    warmup: int = 2
    """Rounds that come first and are not counted: they load the model, fill caches and open connections."""
    max_tokens: int = 64
    prompt: str = PROMPT
    timeout_s: float = 120.0
    """How long one request may take to its end."""
    seed: int = 0
    """Of the order and of the prompts' first words."""

    @property
    def requests(self) -> int:
        """How many requests each side gets that count."""
        return self.rounds * self.concurrency


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One turn for each side, in a random order that is turned round in the next one of a pair of rounds."""

    number: int
    """Counted from 0; below 0 it is a warm-up."""
    order: tuple[Side, Side]
    marks: tuple[tuple[str, ...], tuple[str, ...]]
    """The words that make each prompt one of a kind, for each turn and connection."""


def rounds_needed(requests: int, concurrency: int) -> int:
    """Return how many rounds so many requests a side take, rounded up."""
    return math.ceil(requests / concurrency)


def schedule(plan: Plan) -> Iterator[Round]:
    """Yield the rounds, warm-ups first. Of each two rounds one begins with either side: neither is favoured."""
    random = Random(plan.seed)
    first: Side = "direct"
    for number in range(-plan.warmup, plan.rounds):
        first = random.choice(SIDES) if (number + plan.warmup) % 2 == 0 else _other(first)
        yield Round(number=number, order=(first, _other(first)), marks=(_marks(random, plan), _marks(random, plan)))


def request_body(plan: Plan, model: str, mark: str, dialect: Dialect = "openai") -> bytes:
    """Return the body of one request. The mark comes first, so that an engine's prompt cache cannot know the rest."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": f"[{mark}] {plan.prompt}"}],
        "stream": True,
    }
    if dialect == "ollama":
        body["options"] = {"num_predict": plan.max_tokens}
    else:
        body |= {"stream_options": {"include_usage": True}, "max_tokens": plan.max_tokens}
    return json.dumps(body, separators=(",", ":")).encode()


def _marks(random: Random, plan: Plan) -> tuple[str, ...]:
    return tuple(f"{random.getrandbits(48):012x}" for _ in range(plan.concurrency))


def _other(side: Side) -> Side:
    return "routed" if side == "direct" else "direct"
