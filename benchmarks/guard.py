"""How many instructions does a request take? `python -m benchmarks.guard [--only TEXT] [--top N | --calls N]`.

Counts under callgrind, which neighbours on a shared machine do not disturb, beside those of the committed baseline: a
report, which fails only when it could not count. `--top` adds the C functions and libraries
they are in; `--calls` counts Python's calls and opcodes instead, without callgrind: what can be saved in Python code.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from .figures import RESULTS, assemble, commit, save
from .guard_cases import chosen, count
from .guard_compare import BASELINE, NAME, all_versions, compare, compared_table, counted_table, load, rows_of
from .guard_counts import missing


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
    packages: dict[str, Counter[str]] = {}
    for name in calls:
        packages.setdefault(name.partition("/")[0].partition(":")[0], Counter()).update(
            {"entries": calls[name], "opcodes": opcodes.get(name, 0)}  # type: ignore[dict-item]
        )
    lines = [
        f"{sum(calls.values()):.1f} entries of Python functions, {sum(opcodes.values()):.0f} opcodes, "
        f"{sum(c_calls.values()):.1f} calls of C functions",
        "",
        " opcodes entries  package",
        *(
            f"{sums['opcodes']:>8.1f} {sums['entries']:>7.1f}  {package}"
            for package, sums in sorted(packages.items(), key=lambda item: -item[1]["opcodes"])
        ),
        "",
        " opcodes entries  function",
    ]
    ordered = sorted(calls, key=lambda name: -opcodes.get(name, 0))
    lines += [f"{opcodes.get(name, 0):>8.1f} {calls[name]:>7.1f}  {name}" for name in ordered[:rows]]
    lines += ["", "   calls  C function, by the Python function that called it"]
    lines += [f"{c_calls[name]:>8.1f}  {name}" for name in sorted(c_calls, key=lambda name: -c_calls[name])[:rows]]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="how many instructions a request takes, beside the baseline")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="only cases whose name has TEXT")
    parser.add_argument("--top", type=int, default=0, metavar="N", help="show N C functions of each case")
    parser.add_argument("--calls", type=int, default=0, metavar="N", help="count Python's calls instead, show N")
    parser.add_argument("--update", action="store_true", help=f"write the baseline, {BASELINE.name}")
    parser.add_argument("--scale", type=float, default=1.0, help="more or fewer requests")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the baseline")
    arguments = parser.parse_args()
    if arguments.update and (arguments.only or arguments.calls or arguments.scale != 1):
        parser.error("--update is for a whole run")
    if not arguments.calls and (why := missing()) is not None:
        sys.exit(f"cannot count: {why}")
    revision, baseline = commit(), load(arguments.out / BASELINE.name)
    try:
        counts = run(arguments)
    except (RuntimeError, OSError) as failure:
        sys.exit(f"cannot count: {failure}")
    if arguments.calls:
        return
    if baseline is None:
        print(counted_table(counts))
    else:
        old = {row["name"]: row["instructions"] for row in baseline["cases"] if chosen(arguments.only, row["name"])}
        print(f"baseline: commit {baseline['commit']}, {baseline['measured_at'][:10]}; now: commit {revision}\n")
        print(compared_table(compare(old, counts, baseline["versions"], all_versions()), counts))
    if arguments.update:
        result = assemble(NAME, revision, {"tool": "callgrind"}, all_versions(), cases=rows_of(counts))
        save(result, arguments.out)


def run(arguments: argparse.Namespace) -> dict[str, float]:
    """Count, and show what was asked to be shown of each case; return the instructions of each."""
    counts: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        dumps = None if arguments.calls else Path(folder)
        for name, found, number in count(dumps, arguments.only, arguments.scale):
            counts[name] = sum(found.values()) / number
            if arguments.calls:
                print(f"## {name}\n\n{called(found, number, arguments.calls)}\n", flush=True)
                continue
            print(f"{name}: {counts[name]:,.0f}", file=sys.stderr, flush=True)
            if arguments.top:
                print(f"## {name}\n\n{heaviest(found, number, arguments.top)}\n", flush=True)
    return counts


if __name__ == "__main__":
    main()
