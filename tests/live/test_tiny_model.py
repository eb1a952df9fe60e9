"""The model file the live tests stand on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from smartrouter_asgi.testing.gguf import write_tiny_gguf


def test_same_seed_writes_the_same_file(tmp_path: Path):
    """Weights depend on the seed alone, so a greedy answer can be compared across runs."""
    pytest.importorskip("gguf", reason="the package gguf writes the model")
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_tiny_gguf(tmp_path / name, seed=seed)
    first, again, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == again != other
    assert first.startswith(b"GGUF")
    assert len(first) < 500_000


def test_import_needs_neither_gguf_nor_numpy():
    """They are imported when a model is written."""
    code = "import sys, smartrouter_asgi.testing.gguf; sys.exit(bool({'gguf', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
