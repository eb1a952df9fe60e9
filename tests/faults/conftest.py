from __future__ import annotations

import os

import pytest

BOTH = frozenset({"test_cancellation", "test_connections", "test_disconnect", "test_framing", "test_streams"})
"""What is shown of the upstream side here must hold whichever transport is chosen."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the files that look at an upstream's faults once with each transport."""
    if metafunc.module.__name__.rpartition(".")[2] in BOTH and "TEST_TRANSPORT" not in os.environ:
        metafunc.parametrize("transport_name", ["httpx", "direct"], indirect=True)
