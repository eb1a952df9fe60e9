"""What people read: lines, styled on a terminal where rich is installed and plain anywhere else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

GIB = 2**30


class Screen:
    """Writes lines to a stream. Names that engines made up cannot steer the terminal; a closed pipe is no error."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._console = _console(stream)
        self._closed = False

    def line(self, text: str = "", style: str = "") -> None:
        """Write one line."""
        if self._closed:
            return
        shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
        encoding = self._stream.encoding or "ascii"
        shown = shown.encode(encoding, "backslashreplace").decode(encoding)
        try:
            if self._console is not None:
                self._console.print(shown, style=style or None, markup=False, highlight=False, soft_wrap=True)
            else:
                self._stream.write(shown + "\n")
            self._stream.flush()
        except BrokenPipeError:  # as in `smartrouter-asgi models | head -1`
            self._closed = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def lines(self, *texts: str) -> None:
        """Write several lines."""
        for text in texts:
            self.line(text)


def _console(stream: TextIO) -> Console | None:
    if not stream.isatty() or os.environ.get("NO_COLOR"):
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(file=stream, emoji=False)


def columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Write rows with their cells under each other."""
    table = [tuple(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def gib(size_bytes: int) -> str:
    """Write bytes for people, as `21.6 GiB`."""
    return f"{size_bytes / GIB:.1f} GiB"


def counted(count: int, noun: str) -> str:
    """Write a count with its noun, as `1 model` or `7 models`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
