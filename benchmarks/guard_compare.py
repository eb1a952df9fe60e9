"""Counts beside those of the committed baseline: what moved, and what cannot be compared."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .figures import RESULTS, versions
from .tables import table

NAME = "instructions"
BASELINE = RESULTS / f"{NAME}.json"
MOVED = 0.02
"""What a case must change by to be marked: several times what counts of the same code differ by."""

EVERYWHERE = ("python", "python build", "machine", "libc", "valgrind", "uvloop")
_SERVER = ("uvicorn", "httptools")
_ROUTER = ("anyio", "msgspec", "prometheus-client")
_HTTPX = ("httpx", "httpcore", "h11")
DEPENDS = {
    "hello": _SERVER,
    "direct": (*_SERVER, *_ROUTER),
    "httpx": (*_SERVER, *_ROUTER, *_HTTPX),
    "in process": _ROUTER,
}
"""By the first word of a case: whose versions change its count. This package's own is what is being compared."""

Counts = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Row:
    """One case, before and now; None where one of them has no such case."""

    name: str
    old: float | None
    new: float | None
    verdict: str
    """`""`: within the bounds; `moved`; or why there is nothing to compare."""

    @property
    def change(self) -> float | None:
        return self.new / self.old - 1 if self.old and self.new is not None else None


def compare(old: Counts, new: Counts, old_versions: Mapping[str, str], new_versions: Mapping[str, str]) -> list[Row]:
    """Return a row for each case of either, in the order of the new ones, then what is missing of the old ones."""
    rows = []
    for name in [*new, *(name for name in old if name not in new)]:
        before, now = old.get(name), new.get(name)
        row = Row(name, before, now, "")
        if before is None:
            verdict = "not in the baseline"
        elif now is None:
            verdict = "not counted"
        elif differing := differences(name, old_versions, new_versions):
            verdict = "not comparable: " + ", ".join(differing)
        else:
            verdict = "moved" if row.change is not None and round(abs(row.change), 6) > MOVED else ""
        rows.append(Row(name, before, now, verdict))
    return rows


def differences(name: str, old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Name the versions a case depends on that are not the same."""
    matter = (*EVERYWHERE, *DEPENDS.get(name.partition(":")[0], ()))
    return [f"{what} {old.get(what)} -> {new.get(what)}" for what in matter if old.get(what) != new.get(what)]


def to_hello(counts: Counts, name: str) -> float | None:
    """Return how many times a bare uvicorn answer of the same run a case takes."""
    kind, _, what = name.partition(": ")
    floor = counts.get(f"hello: {what}")
    return counts[name] / floor if floor and kind != "in process" and name in counts else None


def counted_table(counts: Counts) -> str:
    """Return the counts alone."""
    return table(
        ["case", "instructions", "to hello"], [[n, f"{c:,.0f}", _times(to_hello(counts, n))] for n, c in counts.items()]
    )


def compared_table(rows: Iterable[Row], counts: Counts) -> str:
    """Return the counts beside the old ones; what moved is marked."""
    cells = [
        [
            row.name,
            "" if row.old is None else f"{row.old:,.0f}",
            "" if row.new is None else f"{row.new:,.0f}",
            "" if row.change is None else f"{row.change:+.1%}",
            _times(to_hello(counts, row.name)),
            f"**{row.verdict}**" if row.verdict == "moved" else row.verdict,
        ]
        for row in rows
    ]
    return table(["case", "baseline", "now", "change", "to hello", ""], cells)


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def load(path: Path = BASELINE) -> dict[str, Any] | None:
    """Read the baseline, if there is one."""
    return dict(json.loads(path.read_text())) if path.exists() else None


def rows_of(counts: Counts) -> list[dict[str, Any]]:
    """Return the counts as rows of the result file."""
    found = []
    for name, value in counts.items():
        ratio = to_hello(counts, name)
        found.append({"name": name, "instructions": round(value), "to_hello": ratio and round(ratio, 3)})
    return found


def all_versions() -> dict[str, str]:
    """Return every version that counts depend on."""
    found = versions()
    for package in ("httpcore", "h11"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found["python build"] = f"{' '.join(platform.python_build())}, {platform.python_compiler()}"
    found["machine"] = platform.machine()
    found["libc"] = " ".join(platform.libc_ver())
    said = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=False, timeout=10).stdout
    found["valgrind"] = said.strip().removeprefix("valgrind-")
    return found
