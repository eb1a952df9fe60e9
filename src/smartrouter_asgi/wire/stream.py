"""The common form of a streamed answer: pieces of OpenAI server-sent events, each with what it means."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, Protocol

import msgspec

from ..exceptions import AttemptError, FramingError


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one answer."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class PieceKind(IntEnum):
    """What a piece of a stream means to who forwards it."""

    PING = 0
    """A comment: neither commits nor feeds the idle clock."""
    HELD = 1
    """Says nothing yet (a role, an empty delta): held back until something real follows."""
    CONTENT = 2
    """A real event: commits the answer."""
    END = 3
    """The terminal event."""
    ERROR = 4
    """The engine's own error inside the stream; `error` holds it and `data` is empty."""


class Piece(NamedTuple):
    """One or more whole events, as bytes to send downstream."""

    kind: PieceKind
    data: bytes
    error: AttemptError | None = None


class StreamCodec(Protocol):
    """Turns an engine's stream into pieces, however its bytes were cut; sans-IO."""

    usage: Usage | None
    """Token counts, once the engine has told them."""

    def feed(self, data: bytes) -> list[Piece]:
        """Take what was read. Raises `FramingError` when it cannot be an event stream."""

    def finish(self) -> list[Piece]:
        """Say that the upstream ended. Raises `FramingError` with code `upstream_truncated` when it was too early."""


def truncated() -> FramingError:
    """Return the error for a stream that ended without its terminal event."""
    return FramingError("the engine's stream ended before the answer was complete", code="upstream_truncated")
