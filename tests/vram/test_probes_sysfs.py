"""AMD and Intel cards from trees such as the kernel makes: what is not told is not made up."""

from __future__ import annotations

import ctypes
import os
import struct

import pytest

from smartrouter_asgi.vram.probes import AMDProbe, IntelProbe, countable
from smartrouter_asgi.vram.probes.drm_query import LocalMemory, query_local_memory
from smartrouter_asgi.vram.probes.fdinfo import held_by_slot
from smartrouter_asgi.vram.probes.meminfo import SystemMemory, read_meminfo

GIB = 1024**3
MIB = 1024**2
CARD_METRICS = struct.pack("<HBB", 120, 1, 3) + bytes(116)
APU_METRICS = struct.pack("<HBB", 164, 3, 0) + bytes(160)


@pytest.fixture
def drm(tmp_path):
    root = tmp_path / "drm"
    root.mkdir()
    (root / "version").write_text("drm 1.1.0 20060810\n")
    return root


@pytest.fixture
def meminfo(tmp_path):
    path = tmp_path / "meminfo"
    path.write_text(f"MemTotal: {128 * MIB} kB\nMemAvailable: {100 * MIB} kB\n")
    return path


def add_card(root, number, *, vendor, driver, slot, node=None, **files):
    """Make `cardN`, its device and one of its connectors; `files` by name, None for one that cannot be read."""
    device = root / f"card{number}" / "device"
    device.mkdir(parents=True)
    (root / f"card{number}-DP-1" / "device").mkdir(parents=True)
    (root / f"card{number}-DP-1" / "device" / "vendor").write_text(f"{vendor}\n")
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "uevent").write_text(f"DRIVER={driver}\nPCI_CLASS=30000\nPCI_ID=1002:744C\nPCI_SLOT_NAME={slot}\n")
    if node is not None:
        (device / "drm" / f"card{number}").mkdir(parents=True)
        (device / "drm" / node).mkdir(parents=True)
    for name, content in files.items():
        write(device / name, content)
    return device


def write(path, content):
    if content is None:
        path.mkdir()  # read as a file it raises, as a device that sleeps does
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(f"{content}\n")


def add_amd(root, number=0, *, slot="0000:03:00.0", driver="amdgpu", **files):
    return add_card(root, number, vendor="0x1002", driver=driver, slot=slot, **files)


def sizes(vram, vram_used, gtt, gtt_used):
    return {
        "mem_info_vram_total": vram,
        "mem_info_vram_used": vram_used,
        "mem_info_gtt_total": gtt,
        "mem_info_gtt_used": gtt_used,
    }


def test_an_amd_card_is_its_vram(drm, meminfo):
    add_amd(
        drm,
        device="0x744c",
        unique_id="5d5e2a1c90f0a1b2",
        gpu_metrics=CARD_METRICS,
        **sizes(24 * GIB, 3 * GIB, 64 * GIB, GIB),
    )
    (device,) = AMDProbe(drm, meminfo=meminfo).read()
    assert (device.uuid, device.kind, device.name) == ("GPU-5d5e2a1c90f0a1b2", "amd", "AMD 0x744c")
    assert (device.total_bytes, device.free_bytes, device.unified) == (24 * GIB, 21 * GIB, False)


@pytest.mark.parametrize("metrics", [None, b"", CARD_METRICS])
def test_a_larger_gtt_does_not_make_a_card_larger(drm, meminfo, metrics):
    """A small card in a large machine is no APU; neither is one whose metrics cannot be read, because it sleeps."""
    add_amd(drm, gpu_metrics=metrics, **sizes(8 * GIB, 0, 64 * GIB, 0))
    (device,) = AMDProbe(drm, meminfo=meminfo).read()
    assert (device.total_bytes, device.unified) == (8 * GIB, False)


@pytest.mark.parametrize("revision", [2, 3])
def test_an_apu_has_its_carve_out_and_gtt(drm, meminfo, revision):
    """Strix Halo: 512 MiB of VRAM, the rest is mapped from the system's memory."""
    metrics = struct.pack("<HBB", 164, revision, 0) + bytes(160)
    add_amd(drm, gpu_metrics=metrics, **sizes(512 * MIB, 256 * MIB, 96 * GIB, 16 * GIB))
    (device,) = AMDProbe(drm, meminfo=meminfo).read()
    assert (device.total_bytes, device.unified) == (96 * GIB + 512 * MIB, True)
    assert device.free_bytes == 80 * GIB + 256 * MIB


def test_an_apu_has_no_more_free_than_the_system(drm, meminfo):
    meminfo.write_text(f"MemTotal: {128 * MIB} kB\nMemAvailable: {10 * MIB} kB\n")
    add_amd(drm, gpu_metrics=APU_METRICS, **sizes(512 * MIB, 0, 96 * GIB, 0))
    assert AMDProbe(drm, meminfo=meminfo).read()[0].free_bytes == 10 * GIB + 512 * MIB


def test_an_apu_with_a_large_carve_out_is_that(drm, meminfo):
    add_amd(drm, gpu_metrics=APU_METRICS, **sizes(96 * GIB, GIB, 16 * GIB, 0))
    (device,) = AMDProbe(drm, meminfo=meminfo).read()
    assert (device.total_bytes, device.free_bytes, device.unified) == (96 * GIB, 95 * GIB, True)


def test_an_apu_is_recognised_once_it_answers_and_for_good(drm, meminfo):
    device = add_amd(drm, gpu_metrics=None, **sizes(512 * MIB, 0, 96 * GIB, 0))
    probe = AMDProbe(drm, meminfo=meminfo)
    assert not probe.read()[0].unified
    (device / "gpu_metrics").rmdir()
    (device / "gpu_metrics").write_bytes(APU_METRICS)
    assert probe.read()[0].unified
    (device / "gpu_metrics").unlink()
    assert probe.read()[0].unified


def test_amd_cards_are_those_that_amdgpu_runs(drm, meminfo):
    """No connectors, no other vendor's, not those of the older driver; by PCI address where they have no id."""
    add_amd(drm, 0, slot="0000:03:00.0", driver="radeon", **sizes(GIB, 0, GIB, 0))
    add_card(drm, 1, vendor="0x8086", driver="amdgpu", slot="0000:04:00.0", **sizes(GIB, 0, GIB, 0))
    add_amd(drm, 10, slot="0000:0a:00.0", **sizes(2 * GIB, 0, GIB, 0))
    add_amd(drm, 2, slot="0000:05:00.0", **sizes(3 * GIB, 0, GIB, 0))
    devices = AMDProbe(drm, meminfo=meminfo).read()
    assert [(device.uuid, device.index) for device in devices] == [("PCI-0000:05:00.0", 0), ("PCI-0000:0a:00.0", 1)]


@pytest.mark.parametrize("missing", ["mem_info_vram_total", "mem_info_vram_used"])
def test_row_61_an_amd_card_that_does_not_answer_is_there_without_what_is_free(drm, meminfo, missing):
    device = add_amd(drm, gpu_metrics=CARD_METRICS, **sizes(8 * GIB, GIB, GIB, 0))
    probe = AMDProbe(drm, meminfo=meminfo)
    (known,) = probe.read()
    (device / missing).write_text("garbage\n")
    assert probe.read() == (known.silent(),)
    (device / missing).unlink()
    assert probe.read() == (known.silent(),)


def test_row_62_an_amd_card_that_is_pulled_out_is_gone(drm, meminfo):
    add_amd(drm, 0, slot="0000:03:00.0", **sizes(8 * GIB, 0, GIB, 0))
    add_amd(drm, 1, slot="0000:04:00.0", **sizes(8 * GIB, 0, GIB, 0))
    probe = AMDProbe(drm, meminfo=meminfo)
    probe.read()
    (drm / "card0").rename(drm / "was")
    assert [device.uuid for device in probe.read()] == ["PCI-0000:04:00.0"]


def test_a_machine_without_graphics_reads_nothing(tmp_path):
    assert AMDProbe(tmp_path / "none").read() == ()
    assert IntelProbe(tmp_path / "none").read() == ()


def test_integrated_graphics_adds_nothing_to_a_card(drm, meminfo):
    """D27: a desktop's iGPU is no memory for models beside its card."""
    add_amd(drm, 0, slot="0000:03:00.0", gpu_metrics=CARD_METRICS, **sizes(24 * GIB, 0, 32 * GIB, 0))
    add_amd(drm, 1, slot="0000:10:00.0", gpu_metrics=APU_METRICS, **sizes(512 * MIB, 0, 32 * GIB, 0))
    devices = AMDProbe(drm, meminfo=meminfo).read()
    assert len(devices) == 2
    assert [device.total_bytes for device in countable(devices)] == [24 * GIB]
    assert [device.total_bytes for device in countable(devices[1:])] == [32 * GIB + 512 * MIB]


def add_intel(root, number=0, *, slot="0000:03:00.0", driver="xe", node="renderD128", **files):
    return add_card(root, number, vendor="0x8086", driver=driver, slot=slot, node=node, **files)


def intel(drm, tmp_path, answers):
    """Make a probe whose drivers give `answers`, by node."""
    asked = []

    def query(node, driver):
        asked.append((node.parent.name, node.name, driver))
        return answers.get(node.name)

    return IntelProbe(drm, dev=tmp_path / "dri", proc=tmp_path / "proc", query=query), asked


@pytest.mark.parametrize("driver", ["xe", "i915"])
def test_an_intel_card_is_what_its_driver_says(drm, tmp_path, driver):
    add_intel(drm, driver=driver, device="0xe20b")
    answers = {"renderD128": LocalMemory(total_bytes=12 * GIB, used_bytes=2 * GIB)}
    probe, asked = intel(drm, tmp_path, answers)
    (device,) = probe.read()
    assert (device.uuid, device.kind, device.name) == ("PCI-0000:03:00.0", "intel", "Intel 0xe20b")
    assert (device.total_bytes, device.free_bytes, device.unified) == (12 * GIB, 10 * GIB, False)
    assert asked == [("dri", "renderD128", driver)]


def test_an_intel_card_whose_use_is_not_for_us_to_know_is_there_with_its_total(drm, tmp_path):
    add_intel(drm)
    probe, _ = intel(drm, tmp_path, {"renderD128": LocalMemory(total_bytes=12 * GIB, used_bytes=None)})
    (device,) = probe.read()
    assert (device.total_bytes, device.free_bytes, device.used_bytes) == (12 * GIB, None, None)


def test_intel_integrated_graphics_is_left_out(drm, tmp_path):
    add_intel(drm, 0, slot="0000:00:02.0", node="renderD128")
    add_intel(drm, 1, slot="0000:03:00.0", node="renderD129")
    answers = {
        "renderD128": LocalMemory(total_bytes=0, used_bytes=None),
        "renderD129": LocalMemory(total_bytes=12 * GIB, used_bytes=GIB),
    }
    probe, _ = intel(drm, tmp_path, answers)
    assert [(device.uuid, device.index) for device in probe.read()] == [("PCI-0000:03:00.0", 0)]


def test_row_61_an_intel_card_that_does_not_answer_any_more_keeps_its_total(drm, tmp_path):
    add_intel(drm)
    answers = {"renderD128": LocalMemory(total_bytes=12 * GIB, used_bytes=GIB)}
    probe, _ = intel(drm, tmp_path, answers)
    (known,) = probe.read()
    answers.clear()
    assert probe.read() == (known.silent(),)
    assert intel(drm, tmp_path, {})[0].read() == ()


def test_totals_that_some_intel_drivers_put_into_sysfs_are_taken(drm, tmp_path):
    xe = add_intel(drm, 0, slot="0000:03:00.0")
    for tile in ("tile0", "tile1"):
        (xe / tile).mkdir()
        write(xe / tile / "physical_vram_size_bytes", 8 * GIB)
    add_intel(drm, 1, slot="0000:04:00.0", driver="i915")
    write(drm / "card1" / "lmem_total_bytes", 6 * GIB)
    probe, _ = intel(drm, tmp_path, {})
    assert [device.total_bytes for device in probe.read()] == [16 * GIB, 6 * GIB]


def add_descriptor(proc, pid, number, target, text):
    (proc / str(pid) / "fd").mkdir(parents=True, exist_ok=True)
    (proc / str(pid) / "fdinfo").mkdir(exist_ok=True)
    os.symlink(target, proc / str(pid) / "fd" / str(number))
    if text is not None:
        (proc / str(pid) / "fdinfo" / str(number)).write_text(text)


def xe_client(client, resident, *, slot="0000:03:00.0", driver="xe", region="vram0"):
    return (
        f"pos:\t0\nflags:\t0100002\ndrm-driver:\t{driver}\ndrm-client-id:\t{client}\ndrm-pdev:\t{slot}\n"
        f"drm-total-system:\t0\ndrm-resident-gtt:\t192 KiB\ndrm-total-{region}:\t900 MiB\n"
        f"drm-shared-{region}:\t16 MiB\ndrm-resident-{region}:\t{resident}\n"
    )


def test_what_processes_hold_is_summed_over_clients(tmp_path):
    """One client may have several descriptors; other files, other devices and processes that ended do not count."""
    proc = tmp_path / "proc"
    node = "/dev/dri/renderD128"
    add_descriptor(proc, 10, 3, node, xe_client(1, "512 MiB"))
    add_descriptor(proc, 10, 4, node, xe_client(1, "512 MiB"))
    add_descriptor(proc, 10, 5, "/tmp/file", xe_client(9, "512 MiB"))
    add_descriptor(proc, 11, 3, node, xe_client(2, "2048 KiB"))
    add_descriptor(proc, 11, 4, node, None)
    add_descriptor(proc, 12, 3, node, xe_client(1, "1 GiB", slot="0000:04:00.0", driver="i915", region="local0"))
    add_descriptor(
        proc, 13, 3, node, "drm-driver: xe\ndrm-client-id: 5\ndrm-pdev: 0000:05:00.0\ndrm-total-vram0: 3 GiB\n"
    )
    add_descriptor(proc, 14, 3, node, "drm-client-id\n::\ndrm-resident-vram0: many KiB\n")
    (proc / "self").mkdir()
    assert held_by_slot(proc) == {"0000:03:00.0": 514 * MIB, "0000:04:00.0": GIB, "0000:05:00.0": 3 * GIB}
    assert held_by_slot(tmp_path / "none") == {}


def test_what_processes_hold_bounds_what_is_free(drm, tmp_path):
    add_descriptor(tmp_path / "proc", 10, 3, "/dev/dri/renderD128", xe_client(1, "5 GiB"))
    add_intel(drm)
    probe, _ = intel(drm, tmp_path, {"renderD128": LocalMemory(total_bytes=12 * GIB, used_bytes=None)})
    assert probe.read()[0].free_bytes == 7 * GIB


class Kernel:
    """Answers the two queries as the headers of the kernel say: first the size, then the regions."""

    def __init__(self, regions):
        self.regions = regions
        self.calls = 0

    def xe(self, fd, request, query):
        self.calls += 1
        assert request == (3 << 30) | (40 << 16) | (ord("d") << 8) | 0x40
        extensions, kind, size, data, *reserved = struct.unpack("=QIIQQQ", query)
        assert (extensions, kind, *reserved) == (0, 1, 0, 0)
        answer = struct.pack("=II", len(self.regions), 0) + b"".join(
            struct.pack("=HHIQQQQ6Q", kind, place, 4096, total, used, total, 0, *[7] * 6)
            for place, (kind, total, used) in enumerate(self.regions)
        )
        assert size in (0, len(answer))
        if size:
            ctypes.memmove(data, answer, len(answer))
        query[:] = struct.pack("=QIIQQQ", 0, 1, len(answer), data, 0, 0)

    def i915(self, fd, request, query):
        self.calls += 1
        assert request == (3 << 30) | (16 << 16) | (ord("d") << 8) | 0x79
        number, flags, items = struct.unpack("=IIQ", query)
        assert (number, flags) == (1, 0)
        query_id, length, flags, data = struct.unpack("=QiIQ", ctypes.string_at(items, 24))
        assert (query_id, flags) == (4, 0)
        answer = struct.pack("=I3I", len(self.regions), 0, 0, 0) + b"".join(
            struct.pack("=HHIQQ8Q", kind, place, 0, total, total - used, *[7] * 8)
            for place, (kind, total, used) in enumerate(self.regions)
        )
        assert length in (0, len(answer))
        if length:
            ctypes.memmove(data, answer, len(answer))
        ctypes.memmove(items, struct.pack("=QiIQ", query_id, len(answer), 0, data), 24)


@pytest.mark.parametrize("driver", ["xe", "i915"])
@pytest.mark.parametrize(
    ("regions", "expected"),
    [
        ([(0, 64 * GIB, GIB), (1, 12 * GIB, 2 * GIB)], (12 * GIB, 2 * GIB)),
        ([(0, 64 * GIB, GIB), (1, 8 * GIB, GIB), (1, 8 * GIB, 2 * GIB)], (16 * GIB, 3 * GIB)),  # two tiles
        ([(0, 64 * GIB, GIB), (1, 12 * GIB, 0)], (12 * GIB, None)),  # without the privilege
        ([(0, 64 * GIB, GIB)], (0, None)),  # integrated
    ],
)
def test_regions_are_read_as_the_kernel_lays_them_out(tmp_path, driver, regions, expected):
    node = tmp_path / "renderD128"
    node.touch()
    kernel = Kernel(regions)
    memory = query_local_memory(node, driver, ioctl=getattr(kernel, driver))
    assert memory is not None
    assert (memory.total_bytes, memory.used_bytes) == expected
    assert kernel.calls == 2


def refusing(fd, request, query):
    raise PermissionError


def saying_nothing(fd, request, query):
    pass


def saying_too_much(fd, request, query):
    if len(query) == 40:
        query[12:16] = struct.pack("=I", 1 << 31)
    else:
        items = struct.unpack("=IIQ", query)[2]
        ctypes.memmove(items, struct.pack("=QiIQ", 4, -22, 0, 0), 24)


@pytest.mark.parametrize("driver", ["xe", "i915"])
@pytest.mark.parametrize("ioctl", [refusing, saying_nothing, saying_too_much, None])
def test_row_61_a_driver_that_does_not_answer_is_no_error(tmp_path, driver, ioctl):
    """None is the real call, on a file that is no device."""
    node = tmp_path / "renderD128"
    node.touch()
    assert query_local_memory(node, driver, ioctl=ioctl) is None
    assert query_local_memory(tmp_path / "none", driver, ioctl=ioctl) is None


@pytest.mark.parametrize("text", ["", "MemTotal: 1 kB\n", "MemTotal: x kB\nMemAvailable: 1 kB\n", "MemTotal\n:\n"])
def test_memory_that_is_not_all_told_is_not_known(tmp_path, text):
    (tmp_path / "meminfo").write_text(text)
    assert read_meminfo(tmp_path / "meminfo") is None
    (tmp_path / "meminfo").write_text("MemTotal: 8 kB\nMemAvailable: 3 kB\n")
    assert read_meminfo(tmp_path / "meminfo") == SystemMemory(total_bytes=8192, available_bytes=3072)
