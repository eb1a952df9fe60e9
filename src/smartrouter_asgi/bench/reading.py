"""What an answer says, read after it has ended so that reading takes no time from measuring; pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ..exceptions import FramingError
from ..transport.framing import LineSplitter, SSESplitter, sse_data
from ..wire.decoding import JSON_ERRORS, decode_json
from .client import Answer, Target

SHOWN = 200
"""Characters of an engine's own words that are shown."""

_SPOKEN = ("content", "reasoning_content", "reasoning", "refusal", "tool_calls", "function_call")
"""Members of a delta that are the model's output."""
_SPOKEN_BY_OLLAMA = ("content", "thinking", "tool_calls")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One request that was measured. Times are seconds from its last byte."""

    ttft_s: float = 0.0
    """To the first event with content."""
    total_s: float = 0.0
    gaps_s: tuple[float, ...] = ()
    """Between events with content; those that came in one read are 0 apart."""
    events: int = 0
    """How many had content."""
    tokens: int | None = None
    """As the engine counts; None when it does not tell."""
    failure: str = ""
    """Why it does not count; empty when it does."""

    @property
    def spoken_s(self) -> float:
        """From the first event with content to the last one."""
        return sum(self.gaps_s)


def printable(text: str) -> str:
    """Return a text that steers no terminal, turns no line round and can be written to any file."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def failed(reason: str, secret: str = "") -> Sample:
    """Return a request that does not count; the key is taken out of the reason, wherever that came from."""
    shown = reason.replace(secret, "[key]") if secret else reason
    shown = printable(" ".join(shown.split()))
    return Sample(failure=shown if len(shown) <= SHOWN else shown[: SHOWN - 1] + "…")


def read(answer: Answer, target: Target) -> Sample:
    """Return what an answer amounts to; one that is no whole stream with content is a failure and says why."""
    if answer.status != 200:
        return failed(f"status {answer.status}: {_words(answer.body)}", target.secret)
    try:
        heard = (_ollama if target.dialect == "ollama" else _openai)(answer)
    except (_ToldError, FramingError) as exc:
        return failed(str(exc), target.secret)
    except JSON_ERRORS:
        return failed("an event that is no JSON", target.secret)
    at = heard.at
    if not heard.ended:
        return failed(f"the stream ended too early: {'cut off' if at else _words(answer.body)}", target.secret)
    if not at:
        return failed("an answer without content", target.secret)
    return Sample(
        ttft_s=at[0] - answer.sent_at,
        total_s=answer.ended_at - answer.sent_at,
        gaps_s=tuple(later - earlier for earlier, later in pairwise(at)),
        events=len(at),
        tokens=heard.tokens,
    )


class _ToldError(Exception):
    """The stream itself says that it failed."""


@dataclass(slots=True)
class _Heard:
    """What of a stream was understood."""

    at: list[float] = field(default_factory=list)
    """When events with content came."""
    tokens: int | None = None
    ended: bool = False


def _openai(answer: Answer) -> _Heard:
    splitter, heard = SSESplitter(), _Heard()
    for when, part in answer.parts:
        for event in splitter.feed(part):
            data, _, error = sse_data(event)
            if error is not None:
                raise _ToldError(f"error in the stream: {_text(error)}")
            if data is None or heard.ended:
                continue
            if data.strip() == b"[DONE]":
                heard.ended = True
                continue
            chunk = _object(data)
            heard.tokens = _count(chunk.get("usage"), "completion_tokens") or heard.tokens
            choices = chunk.get("choices") or ()
            if any(_speaks(choice.get("delta"), _SPOKEN) for choice in choices if isinstance(choice, dict)):
                heard.at.append(when)
    return heard


def _ollama(answer: Answer) -> _Heard:
    splitter, heard = LineSplitter(), _Heard()
    for when, part in answer.parts:
        for line in splitter.feed(part):
            told = _object(line)
            if _speaks(told.get("message"), _SPOKEN_BY_OLLAMA):
                heard.at.append(when)
            if told.get("done"):
                heard.ended = True
                heard.tokens = _count(told, "eval_count")
    return heard


def _object(data: bytes) -> dict[str, Any]:
    """Decode an event. Raises `JSON_ERRORS` and `_ToldError`."""
    told = decode_json(data)
    if not isinstance(told, dict):
        raise _ToldError("an event that is no JSON object")
    if told.get("error"):
        raise _ToldError(f"error in the stream: {_message(told)}")
    return told


def _speaks(said: Any, names: tuple[str, ...]) -> bool:
    return isinstance(said, dict) and any(said.get(name) for name in names)


def _count(told: Any, name: str) -> int | None:
    count = told.get(name) if isinstance(told, dict) else None
    return count if isinstance(count, int) and count > 0 else None


def _words(body: bytes) -> str:
    """Return the message of an error, or the beginning of whatever came."""
    try:
        return _message(decode_json(body))
    except JSON_ERRORS:
        return _text(body) or "an empty answer"


def _message(told: Any) -> str:
    error = told.get("error", told) if isinstance(told, dict) else told
    message = error.get("message", error) if isinstance(error, dict) else error
    return str(message)


def _text(data: bytes) -> str:
    return data[: 20 * SHOWN].decode(errors="replace")
