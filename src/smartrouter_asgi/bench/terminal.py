"""A result as lines of text; pure."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

from .words import DIFFERENCES, Result, headline, interval, method, rows, verdict

WIDTH = 100
"""Of the sentences."""


def lines(result: Result) -> Iterator[tuple[str, str]]:
    """Yield the lines of a result, each with a style."""
    yield "", ""
    if not result["complete"]:
        yield "stopped early: these are the requests that had ended by then", "yellow"
    yield from _table([("", "direct", "routed"), *rows(result)])
    if result["added"] is not None:
        yield "", ""
        told = [
            (title, interval(found), verdict(found))
            for name, title in DIFFERENCES
            if (found := result["added"][name]) is not None
        ]
        yield from _table([("routed minus direct", "", ""), *told], left=True)
    yield "", ""
    yield headline(result), "bold"
    for sentence in method(result):
        for line in wrap(sentence, WIDTH, initial_indent="- ", subsequent_indent="  "):
            yield line, "dim"
    for failure in result["failures"]:
        yield f"failed, {failure['side']}: {failure['count']} x {failure['reason']}", "red"


def _table(table: list[tuple[str, str, str]], *, left: bool = False) -> Iterator[tuple[str, str]]:
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    for number, row in enumerate(table):
        cells = [row[0].ljust(widths[0])]
        cells += [
            cell.ljust(width) if left else cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)
        ]
        yield "  ".join(cells).rstrip(), "bold" if number == 0 else ""
