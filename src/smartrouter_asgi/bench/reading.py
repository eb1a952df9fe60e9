"""What an answer says, read after it has ended so that reading takes no time from measuring; pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..exceptions import FramingError
from ..transport.framing import SSESplitter, sse_data
from ..wire.decoding import JSON_ERRORS, decode_json
from .client import Answer

SHOWN = 200
"""Characters of an engine's own words that are shown."""

_SPOKEN = ("content", "reasoning_content", "reasoning", "refusal", "tool_calls", "function_call")
"""Members of a delta that are the model's output."""


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


def failed(reason: str, secret: str = "") -> Sample:
    """Return a request that does not count; the key is taken out of the reason, wherever that came from."""
    shown = reason.replace(secret, "[key]") if secret else reason
    shown = " ".join(shown.split())
    return Sample(failure=shown if len(shown) <= SHOWN else shown[: SHOWN - 1] + "…")


def read(answer: Answer, secret: str = "") -> Sample:
    """Return what an answer amounts to; one that is no whole stream with content is a failure and says why."""
    if answer.status != 200:
        return failed(f"status {answer.status}: {_words(answer.body)}", secret)
    splitter, at, tokens, ended = SSESplitter(), list[float](), None, False
    try:
        for when, part in answer.parts:
            for event in splitter.feed(part):
                data, _, error = sse_data(event)
                if error is not None:
                    return failed(f"error in the stream: {_text(error)}", secret)
                if data is None or ended:
                    continue
                if data.strip() == b"[DONE]":
                    ended = True
                    continue
                chunk = decode_json(data)
                if not isinstance(chunk, dict):
                    return failed("an event that is no JSON object", secret)
                if chunk.get("error"):
                    return failed(f"error in the stream: {_message(chunk)}", secret)
                tokens = _tokens(chunk, tokens)
                if _speaks(chunk):
                    at.append(when)
    except FramingError as exc:
        return failed(str(exc), secret)
    except JSON_ERRORS:
        return failed("an event that is no JSON", secret)
    if not ended:
        return failed("the stream ended without [DONE]: " + (_words(answer.body) if not at else "cut off"), secret)
    if not at:
        return failed("an answer without content", secret)
    return Sample(
        ttft_s=at[0] - answer.sent_at,
        total_s=answer.ended_at - answer.sent_at,
        gaps_s=tuple(later - earlier for earlier, later in pairwise(at)),
        events=len(at),
        tokens=tokens,
    )


def _speaks(chunk: dict[str, Any]) -> bool:
    for choice in chunk.get("choices") or ():
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if isinstance(delta, dict) and any(delta.get(name) for name in _SPOKEN):
            return True
    return False


def _tokens(chunk: dict[str, Any], known: int | None) -> int | None:
    usage = chunk.get("usage")
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) and count > 0 else known


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
