"""A page that needs nothing else: one file, light or dark as the reader's system is, and fit for paper."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from .style import STYLE


def page(title: str, parts: Iterable[str], *, footer: str = "") -> str:
    """Return a whole page of parts that are HTML already."""
    inside = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main><h1>{escape(title)}</h1>\n{inside}\n<footer>{escape(footer)}</footer></main></body></html>\n"
    )


def heading(text: str) -> str:
    """Return a heading."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph, of a kind that the style knows."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def bullets(texts: Sequence[str]) -> str:
    """Return a list."""
    return f"<ul>{''.join(f'<li>{_with_code(text)}</li>' for text in texts)}</ul>" if texts else ""


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Return names with what they are."""
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(text)}</dd>' for name, text in pairs)}</dl>"


def grid(figures: Iterable[str]) -> str:
    """Return figures beside each other where there is room; empty ones are left out."""
    shown = [figure for figure in figures if figure]
    return f'<div class="plots">{"".join(shown)}</div>' if shown else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str | tuple[str, str]]], *, texts: int = 1) -> str:
    """Return a table, of which the first `texts` columns are words and the others numbers.

    A cell that is a pair is a text and a kind: `good`, `fair` or `bad`.
    """

    def cell(tag: str, column: int, content: str | tuple[str, str]) -> str:
        said, kind = (content, "") if isinstance(content, str) else content
        kinds = " ".join(filter(None, ("n" if column >= texts else "", kind)))
        return f'<{tag} class="{kinds}">{escape(said)}</{tag}>' if kinds else f"<{tag}>{escape(said)}</{tag}>"

    def line(tag: str, row: Sequence[str | tuple[str, str]]) -> str:
        return f"<tr>{''.join(cell(tag, column, content) for column, content in enumerate(row))}</tr>"

    body = "".join(line("td", row) for row in rows)
    return f'<div class="scroll"><table><thead>{line("th", head)}</thead><tbody>{body}</tbody></table></div>'


def _with_code(text: str) -> str:
    """Return a sentence in which what stands between backticks is code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))
