"""How a command says that it cannot go on."""

from __future__ import annotations

OK, FAILED, MISUSED = 0, 1, 2
"""Exit codes: all well; something does not answer or cannot be had; bad configuration or wrong usage."""


class CommandError(Exception):
    """A command ends with a message on stderr and an exit code; no traceback."""

    def __init__(self, message: str, *, exit_code: int = MISUSED) -> None:
        super().__init__(message)
        self.exit_code = exit_code
