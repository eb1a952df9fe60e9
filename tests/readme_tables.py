"""The README's tables of engines, from data that the tests check: `make readme`, or `python -m tests.readme_tables`.

The part between the markers is written anew; `tests/test_readme.py` fails while it is stale.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from smartrouter_asgi.backends.presets import PRESETS
from smartrouter_asgi.config.backends import DEFAULT_URLS
from smartrouter_asgi.wire.verdicts import ENGINES, FAMILIES, LACKING, VALUES, Engine, Rule, Verdict

README = Path(__file__).parent.parent / "README.md"
BEGIN = "<!-- engines: begin (written by `make readme` from src/smartrouter_asgi/wire/verdicts.py) -->"
END = "<!-- engines: end -->"

OTHERS = {
    "`auto`": "found out by the shape of its answers",
    "your own": "`SmartRouter(settings, backends={...})`, or an entry point in the group `smartrouter_asgi.backends`",
}

MEANING = """\
What becomes of each field of a chat-completions request. *Passes*: its bytes reach the engine. *Refused*: a 400 that
names it, before anything is queued; where another deployment of the model takes it, that one is asked. *Ignored*:
accepted, without effect on the answer, and listed in `x-smartrouter-ignored`. A field that OpenAI's description does
not have is passed on by all but `ollama`, which takes `top_k`, `min_p`, `typical_p`, `repeat_penalty` and
`repeat_last_n` and refuses any other. A model that is known to lack a capability refuses {lacking}, whichever
its engine; so does one whose context a prompt clearly exceeds (`context_length_exceeded`)."""


def engines() -> dict[str, Engine]:
    """The built-in types, in the order of the table."""
    return {name: engine for name, engine in ENGINES.items() if name in DEFAULT_URLS}


def address(backend_type: str) -> str:
    """Where a type is looked for when the configuration gives no address."""
    preset = PRESETS.get(backend_type)
    url = DEFAULT_URLS.get(backend_type) or (preset.url if preset is not None else "")
    return f"`{url}`" if url else ""


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(head)
    lines = ["| " + " | ".join(line) + " |" for line in [head, *rows]]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def cell(rule: Rule) -> str:
    """A rule in a few words."""
    if rule.verdict is not Verdict.DEPENDS:
        return rule.verdict.value + (f": {rule.note}" if rule.note else "")
    parts = []
    for verdict in dict.fromkeys(case.verdict for case in rule.cases):
        when = [case.when for case in rule.cases if case.verdict is verdict and case.when]
        parts.append(f"{verdict.value}: {', '.join(when)}")
    return "; ".join(parts) + (f" ({rule.note})" if rule.note else "")


def columns() -> dict[str, Mapping[str, Rule]]:
    """The rules to show side by side: types that treat every field alike share a column."""
    shared: dict[tuple[str, ...], Mapping[str, Rule]] = {}
    found: dict[tuple[str, ...], list[str]] = {}
    for name, engine in engines().items():
        rules = {**FAMILIES[engine.family], **engine.differs}
        key = tuple(cell(rules[field]) for field in VALUES)
        shared[key] = rules
        found.setdefault(key, []).append(f"`{name}`")
    plain = max(found, key=lambda key: len(found[key]))
    return {
        "all others" if key == plain and len(found) > 1 else ", ".join(types): shared[key]
        for key, types in sorted(found.items(), key=lambda item: item[0] == plain)
    }


def fields_table() -> str:
    """What becomes of each field, fields that fare alike in one row."""
    shown = columns()
    rows: dict[tuple[str, ...], list[str]] = {}
    for name in VALUES:
        rows.setdefault(tuple(cell(rules[name]) for rules in shown.values()), []).append(f"`{name}`")
    return table(["field", *shown], ([", ".join(names), *cells] for cells, names in rows.items()))


def rendered() -> str:
    """Everything between the markers, and the markers."""
    rows = [[f"`{name}`", engine.summary, address(name)] for name, engine in engines().items()]
    rows += [[name, summary, ""] for name, summary in OTHERS.items()]
    return "\n\n".join(
        [
            BEGIN,
            table(["type", "what it is", "address when none is given"], rows),
            MEANING.format(lacking=", ".join(case.when for _, case in LACKING.values())),
            fields_table(),
            END,
        ]
    )


def updated(text: str) -> str:
    """The README with the part between the markers written anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + rendered() + after


if __name__ == "__main__":
    README.write_text(updated(README.read_text()))
