"""What shall go wrong: faults that can be set, queued and lifted while the engine runs."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import RUNNER_STOPPED
from .models import canonical_name

INFERENCE_PATHS = frozenset({"/api/chat", "/api/generate", "/api/embed", "/api/embeddings"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong with one request; the default is nothing. Times are engine seconds."""

    status: int | None = None
    """Answer this status and `body` instead of anything else."""
    body: bytes | str | dict[str, Any] = b""
    content_type: str = "application/json; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()
    busy: bool = False
    """Refuse with 503 and Ollama's text for a full queue."""
    load_error: str | None = None
    """A load that this request causes ends with this text (500); `OOM_ON_LOAD` is one."""
    load_stall: bool = False
    """A load that this request causes makes no progress until the faults are cleared, or for five minutes."""
    stall: Literal["headers", "first_token", "mid_stream"] | None = None
    """Send nothing any more until the faults are cleared: before the status line (and before any load), after
    headers without a line, or after `after_tokens` tokens."""
    first_token_delay_s: float = 0.0
    token_delay_s: float = 0.0
    crash: Literal["error", "eof", "close", "reset"] | None = None
    """After `after_tokens` tokens: an error (a line under 200; a status when nothing was sent), a clean end of the
    stream without `done`, a FIN amid the stream, an RST."""
    after_tokens: int = 0
    crash_message: str = RUNNER_STOPPED
    kills_runner: bool = False
    """The crash takes the runner along: the next request reloads it."""
    split_bytes: int | None = None
    """Write streams in pieces of so many bytes, wherever that falls."""


NO_FAULT = Fault()


@dataclass(slots=True)
class Faults:
    """The faults in force. A rule for a model beats one for all, a rule for a path beats one for all inference."""

    stolen_vram_bytes: int = 0
    """GPU memory that a process outside the engine holds."""
    _rules: dict[tuple[str | None, str | None], Fault] = field(default_factory=dict)
    _queued: dict[tuple[str | None, str | None], deque[Fault]] = field(default_factory=dict)
    _lifted: asyncio.Event = field(default_factory=asyncio.Event)

    def set(self, fault: Fault, *, model: str | None = None, path: str | None = None) -> None:
        """Let every matching request meet this fault; without `path` that is every inference request."""
        self._rules[_key(model, path)] = fault

    def once(self, *faults: Fault, model: str | None = None, path: str | None = None) -> None:
        """Let the next matching requests meet these faults, one each, before the rules count again."""
        self._queued.setdefault(_key(model, path), deque()).extend(faults)

    def clear(self) -> None:
        """Lift every fault; whoever stalls goes on. Stolen memory stays stolen."""
        self._rules.clear()
        self._queued.clear()
        lifted, self._lifted = self._lifted, asyncio.Event()
        lifted.set()

    def take(self, path: str, model: str | None) -> Fault:
        """Return what this request meets, and use up a queued fault."""
        paths = [path, None] if path in INFERENCE_PATHS else [path]
        keys = [(name, at) for name in ([model, None] if model else [None]) for at in paths]
        for key in keys:
            if self._queued.get(key):
                return self._queued[key].popleft()
        return next((self._rules[key] for key in keys if key in self._rules), NO_FAULT)

    async def until_cleared(self) -> None:
        """Wait for the next `clear`."""
        await self._lifted.wait()


def _key(model: str | None, path: str | None) -> tuple[str | None, str | None]:
    return (canonical_name(model) if model is not None else None, path)
