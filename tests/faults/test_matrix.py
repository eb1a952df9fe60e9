"""Every row of the fault matrix is shown by a test named after it, or the table in README.md says why not."""

from __future__ import annotations

import re
from pathlib import Path

from .conftest import ONCE

HERE = Path(__file__).parent
TESTS = HERE.parent
ROWS = range(1, 73)
LINE = re.compile(r"^\| (\d+) \| (.+) \| (.*) \|$", re.MULTILINE)
MARKED = re.compile(r"^@on_both_transports\nasync def test_row_(\d+)_", re.MULTILINE)
TEST = re.compile(r"def test_row_(\d+)_(?:and_(\d+)_)?")


def table() -> dict[int, str]:
    """What the table says of each row."""
    lines = LINE.findall((HERE / "README.md").read_text())
    assert [int(number) for number, _, _ in lines] == list(ROWS)
    return {int(number): cell for number, _, cell in lines}


def rows_shown() -> dict[int, set[str]]:
    """Names of the files that have a test named after a row."""
    found: dict[int, set[str]] = {}
    for file in TESTS.rglob("test_*.py"):
        for numbers in TEST.findall(file.read_text()):
            for number in filter(None, numbers):
                found.setdefault(int(number), set()).add(file.relative_to(TESTS).as_posix())
    return found


BELOW_NO_ENGINE = ONCE | {36, 40, *range(59, 65), 66}
"""An SDK, the gate's line, signals, workers, drivers and clocks, beside what the transports never hear of."""


def test_what_engines_do_is_shown_over_both_transports():
    """By a test of this folder, or one that is marked so."""
    marked = {int(row) for file in TESTS.rglob("test_*.py") for row in MARKED.findall(file.read_text())}
    here = {row for row, files in rows_shown().items() if any(file.startswith("faults/") for file in files)}
    assert set(ROWS) - BELOW_NO_ENGINE <= here | marked


def test_every_row_is_shown_or_says_why_not():
    """A file it names has a test for the row; a test without the row's number is named itself."""
    shown = rows_shown()
    assert shown.keys() <= set(ROWS)
    for row, cell in table().items():
        files = re.findall(r"`([\w/]+\.py)`", cell)
        named = {f"faults/{file}" if (HERE / file).exists() else file for file in files}
        assert named <= shown.get(row, set()), f"row {row} names a file without a test for it"
        if not named:
            assert row not in shown, f"row {row} has a test in {shown[row]}, which the table does not name"
            elsewhere = re.findall(r"`([\w/]+\.py)::(\w+)`", cell)
            for file, test in elsewhere:
                assert f"def {test}(" in (TESTS / file).read_text(), f"row {row} names {test}, which there is not"
            assert elsewhere or cell.startswith("not here: "), f"row {row} is neither shown nor left out with a reason"
