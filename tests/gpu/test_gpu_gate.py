"""The gate over a real GPU: torch allocations as models and as another program, NVML against the books.

With `GPU_READINGS=FILE` the readings are written there, as JSON, to be kept in benchmarks/results/.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from smartrouter_asgi.vram.probes import NVMLProbe

from ..harness.moving_memory import memory_moves

pytestmark = pytest.mark.gpu

GIB = 1024**3


class TorchHolder:
    """Holds memory of one CUDA device as tensors; what is given back goes back to the driver."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._held: dict[str, Any] = {}

    def take(self, owner: str, size_bytes: int) -> None:
        self._held[owner] = self._torch.empty(size_bytes, dtype=self._torch.uint8, device="cuda:0")
        self._torch.cuda.synchronize()

    def give_back(self, owner: str) -> None:
        if self._held.pop(owner, None) is not None:
            self._torch.cuda.synchronize()
            self._torch.cuda.empty_cache()


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch", reason="torch is not installed: it is what takes memory of a real GPU here")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return torch


async def test_the_gate_refuses_and_admits_as_memory_moves(torch: Any):
    properties = torch.cuda.get_device_properties(0)
    uuid = f"GPU-{properties.uuid}"
    probe = NVMLProbe()
    device = next((one for one in probe.read() if one.uuid == uuid), None)
    if device is None:
        pytest.skip(f"NVML does not list the CUDA device {uuid}")
    torch.empty(1, device="cuda:0")  # the context of this process is there from now on
    told = await memory_moves(probe, uuid, TorchHolder(torch), step_bytes=max(GIB // 2, device.total_bytes // 32))
    _keep({"device": device.name, "total_bytes": device.total_bytes, "readings": told})


def _keep(readings: dict[str, Any]) -> None:
    if (target := os.environ.get("GPU_READINGS")) is not None:
        Path(target).write_text(json.dumps(readings, indent=2) + "\n")
