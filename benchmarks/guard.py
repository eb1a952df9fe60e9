"""How many instructions does a request take? `python -m benchmarks.guard [--only TEXT] [--top N | --calls N]`.

Counts under callgrind, which neighbours on a shared machine do not disturb. `--top` adds the C functions and libraries
they are in; `--calls` counts Python's calls and opcodes instead, without callgrind: what can be saved in Python code.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .guard_cases import count
from .guard_counts import missing
from .tables import table


def chosen(only: Sequence[str], name: str) -> bool:
    """Say whether a case is wanted; `<kind>: ` asks whether any of a kind may be."""
    if name.endswith(": "):
        return not only or any(part.partition(":")[0].strip() in name or ":" not in part for part in only)
    return not only or any(part in name for part in only)


def heaviest(found: Counter[str], number: int, rows: int) -> str:
    """Return where the instructions of one request are: by library, then by function."""
    libraries: Counter[str] = Counter()
    for name, cost in found.items():
        libraries[name.partition(" ")[0]] += cost
    total = sum(found.values())
    lines = [f"{cost / number:>11,.0f} {cost / total:>6.1%}  {name}" for name, cost in libraries.most_common(12)]
    lines.append("")
    lines += [f"{cost / number:>11,.0f} {cost / total:>6.1%}  {name}" for name, cost in found.most_common(rows)]
    return "\n".join(lines)


def called(found: Counter[str], number: int, rows: int) -> str:
    """Return the calls of one request: Python functions with their opcodes, then C functions with their callers."""
    per = {name: cost / number for name, cost in found.items() if cost}
    calls = {name[5:]: cost for name, cost in per.items() if name.startswith("call ")}
    c_calls = {name[2:]: cost for name, cost in per.items() if name.startswith("c ")}
    opcodes = {name[3:]: cost for name, cost in per.items() if name.startswith("op ")}
    lines = [
        f"{sum(calls.values()):.1f} entries of Python functions, {sum(opcodes.values()):.0f} opcodes, "
        f"{sum(c_calls.values()):.1f} calls of C functions",
        "",
        " opcodes entries  function",
    ]
    ordered = sorted(calls, key=lambda name: -opcodes.get(name, 0))
    lines += [f"{opcodes.get(name, 0):>8.1f} {calls[name]:>7.1f}  {name}" for name in ordered[:rows]]
    lines += ["", "   calls  C function, by the Python function that called it"]
    lines += [f"{c_calls[name]:>8.1f}  {name}" for name in sorted(c_calls, key=lambda name: -c_calls[name])[:rows]]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="how many instructions a request takes")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="only cases whose name has TEXT")
    parser.add_argument("--top", type=int, default=0, metavar="N", help="show N C functions of each case")
    parser.add_argument("--calls", type=int, default=0, metavar="N", help="count Python's calls instead, show N")
    parser.add_argument("--scale", type=float, default=1.0, help="more or fewer requests")
    arguments = parser.parse_args()
    if not arguments.calls and (why := missing()) is not None:
        sys.exit(f"cannot count: {why}")
    rows = []
    hello: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        dumps = None if arguments.calls else Path(folder)
        for name, found, number in count(dumps, lambda name: chosen(arguments.only, name), arguments.scale):
            each = sum(found.values()) / number
            kind, _, what = name.partition(": ")
            if kind == "hello":
                hello[what] = each
            rows.append([name, f"{each:,.0f}", f"{each / hello[what]:.2f}" if what in hello else ""])
            print(f"{name}: {each:,.0f}", file=sys.stderr, flush=True)
            if arguments.top:
                print(f"\n## {name}\n\n{heaviest(found, number, arguments.top)}\n", flush=True)
            if arguments.calls:
                print(f"\n## {name}\n\n{called(found, number, arguments.calls)}\n", flush=True)
    if not arguments.calls:
        print(table(["case", "instructions", "to hello"], rows))


if __name__ == "__main__":
    main()
