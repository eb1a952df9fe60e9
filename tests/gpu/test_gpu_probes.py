"""Real devices: what the probe reads is what the driver's own tool says."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time

import pytest

from smartrouter_asgi.vram.probes import MemoryWatch, NVMLProbe, SystemProbe

pytestmark = pytest.mark.gpu

MIB = 1024**2
APART_BYTES = 512 * MIB
"""Others may use a device between two looks at it."""


@pytest.fixture(scope="module")
def nvml():
    """Skips with NVML's own reason."""
    pynvml = pytest.importorskip("pynvml")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        pytest.skip(f"no NVIDIA device here: {error}")
    try:
        if not pynvml.nvmlDeviceGetCount():
            pytest.skip("no NVIDIA device here: none is counted")
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def whole_devices_by_nvidia_smi():
    """Return total and free by UUID; devices that tell none (unified memory, divided ones) are left out."""
    if shutil.which("nvidia-smi") is None:
        pytest.skip("nvidia-smi is not installed")
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=uuid,memory.total,memory.free", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    return {
        uuid: (int(total) * MIB, int(free) * MIB) for uuid, total, free in rows if total.isdigit() and free.isdigit()
    }


def test_readings_are_what_the_drivers_tool_says(nvml):
    devices = {device.uuid: device for device in NVMLProbe().read()}
    assert devices
    told = whole_devices_by_nvidia_smi()
    whole = {uuid: device for uuid, device in devices.items() if uuid.startswith("GPU-") and not device.unified}
    assert whole.keys() <= told.keys()
    for uuid, device in whole.items():
        total_bytes, free_bytes = told[uuid]
        assert abs(device.total_bytes - total_bytes) <= MIB
        assert device.free_bytes is not None
        assert abs(device.free_bytes - free_bytes) <= APART_BYTES


def test_readings_make_sense(nvml):
    for device in NVMLProbe().read():
        assert device.uuid.startswith(("GPU-", "MIG-"))
        assert device.kind == "nvidia"
        assert device.name
        assert device.free_bytes is not None
        assert 0 < device.free_bytes <= device.total_bytes


def test_all_probes_together_see_the_devices_under_their_own_numbers(nvml):
    alone, together = NVMLProbe().read(), SystemProbe().read()
    assert {device.uuid for device in alone} <= {device.uuid for device in together}
    assert len({device.index for device in together}) == len(together)


def test_a_probe_goes_on_after_it_was_closed(nvml):
    probe = NVMLProbe()
    before = [device.uuid for device in probe.read()]
    probe.close()
    assert [device.uuid for device in probe.read()] == before


def test_a_read_is_quick(nvml):
    probe = NVMLProbe()
    probe.read()
    began = time.perf_counter()
    for _ in range(10):
        probe.read()
    assert (time.perf_counter() - began) / 10 < 0.5  # the aim is under 10 ms


async def test_the_watch_knows_the_devices(nvml):
    watch = MemoryWatch(SystemProbe(), timeout_s=30.0)
    assert await asyncio.wait_for(watch.refresh(), 60.0)
    now = time.monotonic()
    assert watch.is_known(now)
    assert watch.readings(now)
    assert watch.vanished == frozenset()
