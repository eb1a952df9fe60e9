"""The example of a unit test, run both ways its text promises."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "06_respx_unit_test.py"
TESTS = {name: test for name, test in runpy.run_path(str(EXAMPLE)).items() if name.startswith("test_")}


@pytest.mark.parametrize("name", TESTS)
async def test_example_passes(name: str):
    """Collected and awaited by pytest."""
    await TESTS[name]()


def test_example_runs_as_a_script(capsys: pytest.CaptureFixture[str]):
    """`python examples/06_respx_unit_test.py`: no runner, one line for each test."""
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert capsys.readouterr().out.splitlines() == [f"passed: {name}" for name in TESTS]
