"""Apple silicon from what `sysctl` and `vm_stat` write."""

from __future__ import annotations

import subprocess

import pytest

from smartrouter_asgi.vram.probes import AppleProbe, UnifiedProbe

GIB = 1024**3
VM_STAT = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                              131072.
Pages active:                            456789.
Pages inactive:                          524288.
Pages speculative:                        65536.
Pages throttled:                              0.
Pages wired down:                        345678.
Pages purgeable:                           6789.
"Translation faults":                 987654321.
"""
AVAILABLE = (131072 + 524288 + 65536) * 16384


def mac(memory_bytes=64 * GIB, *, limit=None, older=None, arm=1, vm_stat=VM_STAT):
    """Return a runner that answers as such a machine does; names it does not know are left out."""
    facts = {
        "hw.memsize": memory_bytes,
        "hw.optional.arm64": arm,
        "machdep.cpu.brand_string": "Apple M2 Max",
        "iogpu.wired_limit_mb": limit,
        "debug.iogpu.wired_limit": older,
    }

    def run(command):
        if command[0] == "vm_stat":
            return vm_stat
        assert command[0] == "sysctl"
        return "".join(f"{name}: {facts[name]}\n" for name in command[1:] if facts[name] is not None)

    return run


def read(run):
    return AppleProbe(run=run, platform="darwin").read()


def test_the_device_is_a_part_of_the_systems_memory():
    (device,) = read(mac(limit=0))
    assert (device.uuid, device.index, device.name, device.kind) == ("apple-gpu", 0, "Apple M2 Max", "apple")
    assert (device.total_bytes, device.free_bytes, device.unified) == (48 * GIB, AVAILABLE, True)


@pytest.mark.parametrize(
    ("machine", "total_bytes"),
    [
        ({"memory_bytes": 16 * GIB}, 16 * GIB * 2 // 3),
        ({"memory_bytes": 32 * GIB}, 32 * GIB * 2 // 3),
        ({"memory_bytes": 36 * GIB}, 27 * GIB),
        ({"memory_bytes": 128 * GIB, "limit": 122880}, 120 * GIB),
        ({"memory_bytes": 64 * GIB, "older": 56 * GIB}, 56 * GIB),
        ({"memory_bytes": 64 * GIB, "limit": 999999}, 64 * GIB),
        ({"memory_bytes": 64 * GIB, "limit": "odd"}, 48 * GIB),
    ],
)
def test_the_total_is_the_set_limit_or_the_systems_own(machine, total_bytes):
    assert read(mac(**machine))[0].total_bytes == total_bytes


def test_no_more_is_free_than_there_is():
    (device,) = read(mac(8 * GIB))
    assert device.free_bytes == device.total_bytes


@pytest.mark.parametrize("vm_stat", ["", "Pages free: 1.\n", VM_STAT.replace("Pages inactive", "Pages idle")])
def test_what_is_free_is_not_known_when_it_is_not_all_told(vm_stat):
    assert read(mac(vm_stat=vm_stat))[0].free_bytes is None


@pytest.mark.parametrize("platform", ["linux", "win32"])
def test_elsewhere_nothing_is_run(platform):
    def run(command):
        raise AssertionError(command)

    probe = AppleProbe(run=run, platform=platform)
    assert probe.read() == ()
    assert probe.available_bytes() is None


def test_a_mac_without_apple_silicon_reads_nothing():
    assert read(mac(arm=None)) == ()


@pytest.mark.parametrize("error", [FileNotFoundError("sysctl"), subprocess.TimeoutExpired("sysctl", 2.0)], ids=str)
def test_row_61_a_command_that_fails_leaves_the_device_without_what_is_free(error):
    answer = mac()
    failing = False

    def run(command):
        if failing:
            raise error
        return answer(command)

    probe = AppleProbe(run=run, platform="darwin")
    (known,) = probe.read()
    failing = True
    assert probe.read() == (known.silent(),)
    assert AppleProbe(run=run, platform="darwin").read() == ()


def test_declared_memory_is_free_as_far_as_the_system_has_it():
    for available_bytes, free_bytes in ((100 * GIB, 96 * GIB), (10 * GIB, 10 * GIB), (None, None)):
        probe = UnifiedProbe(kind="amd", total_bytes=96 * GIB, available_bytes=lambda value=available_bytes: value)
        (device,) = probe.read()
        assert (device.total_bytes, device.free_bytes) == (96 * GIB, free_bytes)
        assert (device.uuid, device.kind, device.unified) == ("amd-unified", "amd", True)


def test_declared_memory_asks_the_system_it_runs_on(monkeypatch):
    """Another machine's memory is not known here."""
    monkeypatch.setattr("sys.platform", "linux")
    assert UnifiedProbe(kind="apple", total_bytes=GIB).read()[0].free_bytes is None
