"""The table of what the lane is held to names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
NAMED = re.compile(r"`(test_\w+\.py)(?:::(test_\w+))?`")


def test_every_demand_names_its_tests():
    """A file, or a test in it."""
    lines = [line for line in (HERE / "README.md").read_text().splitlines() if line.startswith("| ")][1:]
    assert len(lines) > 15
    for line in lines:
        named = NAMED.findall(line)
        assert named, line
        for file, test in named:
            assert f"def {test}(" in (HERE / file).read_text() or not test, f"there is no {test} in {file}"
