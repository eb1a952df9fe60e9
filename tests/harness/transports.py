"""What holds whichever way the engines are spoken to is shown for each."""

from __future__ import annotations

import os

import pytest

TRANSPORTS = ("httpx", "direct")

on_both_transports = pytest.mark.parametrize(
    "transport_name", [name] if (name := os.environ.get("TEST_TRANSPORT")) else TRANSPORTS, indirect=True
)
"""Run a test once with each transport, or with the one that `TEST_TRANSPORT` names."""
