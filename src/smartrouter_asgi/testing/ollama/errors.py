"""What an endpoint raises instead of answering: Ollama's error body with a status, or a broken connection."""

from __future__ import annotations

SERVER_BUSY = "server busy, please try again.  maximum pending requests exceeded"
"""Ollama's text when the queue of pending loads is full (503); the two spaces are Ollama's."""

OOM_ON_LOAD = "llama-server process has terminated: cudaMalloc failed: out of memory"
"""A load that ran out of GPU memory (500)."""

RUNNER_STOPPED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)
"""A runner that died while it answered: 500 before the first event, an error line after it."""

OOM_SUBSTRINGS = ("out of memory", "cudaMalloc failed", "failed to allocate", "insufficient memory")
"""Texts by which Ollama itself recognises an out-of-memory failure."""


class APIError(Exception):
    """An answer `{"error": message}` with a status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class ConnectionDropped(Exception):
    """The connection ends here: by RST when `reset`, else by FIN without the rest of the answer."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__("reset" if reset else "closed")
        self.reset = reset


def is_out_of_memory(message: str) -> bool:
    """Tell whether Ollama would take this text for an out-of-memory failure."""
    return any(part in message for part in OOM_SUBSTRINGS)
