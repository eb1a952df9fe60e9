from __future__ import annotations

import os
import re

import pytest

from ..harness.transports import TRANSPORTS

ROW = re.compile(r"test_row_(\d+)_")
ONCE = frozenset({*range(29, 35), *range(47, 56), 57})
"""Rows of which no transport hears: breakers, and what clients send that is refused before an engine is asked."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run everything here once with each transport, whatever is shown of an engine must hold for both."""
    row = ROW.match(metafunc.function.__name__)
    once = int(row[1]) in ONCE if row else metafunc.module.__name__.endswith(".test_matrix")
    if not once and "TEST_TRANSPORT" not in os.environ:
        metafunc.parametrize("transport_name", TRANSPORTS, indirect=True)
