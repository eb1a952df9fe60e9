"""From settings and readings to the devices that are shared out."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import smartrouter_asgi.memory as memory_module
from smartrouter_asgi import Settings
from smartrouter_asgi.memory import build_memory
from smartrouter_asgi.vram.probes import DeviceMemory, StaticProbe

GIB = 1024**3
MARGIN = GIB // 2
LOCAL = {"type": "ollama"}
REMOTE = {"type": "ollama", "url": "http://192.0.2.7:11434"}


def card(index: int, gib: int = 24, used_gib: int = 0) -> DeviceMemory:
    return DeviceMemory(
        uuid=f"GPU-{index}",
        index=index,
        name=f"card {index}",
        total_bytes=gib * GIB,
        free_bytes=(gib - used_gib) * GIB,
        kind="nvidia",
    )


def memory_of(*cards: DeviceMemory, backends: dict[str, Any] | None = None, **vram: Any):
    settings = Settings.model_validate({"backends": backends or {"local": LOCAL}, "vram": vram})
    return build_memory(settings, StaticProbe(*cards))


def limits(memory) -> dict[str, float]:
    return {name: memory.devices[name].limit_bytes / GIB for name in memory.devices}


def test_nothing_declared_and_nothing_detected_is_nothing_to_share():
    assert memory_of() is None


def test_of_each_detected_device_nine_tenths_are_shared():
    memory = memory_of(card(0, 24), card(1, 10))
    assert limits(memory) == {"GPU-0": pytest.approx(21.6), "GPU-1": pytest.approx(9.0)}
    assert memory.devices.budget_bytes == sum(memory.devices[name].limit_bytes for name in memory.devices)
    assert not memory.declared


def test_what_others_hold_and_a_margin_are_left_alone():
    memory = memory_of(card(0, 24, used_gib=6))
    assert memory.devices.room("GPU-0", 0) == 24 * GIB - min(MARGIN, 24 * GIB // 50) - 6 * GIB


def test_a_limit_over_all_devices_leaves_each_of_them_whole():
    """40 GiB on two cards of 24: a model of 22 GiB fits on one of them, and the second one gets what is left."""
    memory = memory_of(card(0), card(1), max_total="40GiB")
    assert limits(memory) == {"GPU-0": 24, "GPU-1": 24}
    assert memory.devices.budget_bytes == 40 * GIB
    assert memory.declared


def test_listed_devices_are_the_only_ones_and_are_found_by_index_or_uuid():
    memory = memory_of(card(0), card(1), card(2), devices={0: {"max": "20GiB"}, "GPU-2": {"max": "10GiB"}})
    assert limits(memory) == {"GPU-0": 20, "GPU-2": 10}


def test_devices_that_no_driver_tells_of_are_as_declared():
    memory = memory_of(devices={0: {"max": "20GiB"}, 1: {"max": "10GiB"}})
    assert limits(memory) == {"0": 20, "1": 10}
    assert memory.readings is None


def test_a_budget_without_devices_is_one_device():
    memory = memory_of(max_total="22GiB")
    assert limits(memory) == {"gpu": 22}
    assert memory.rules["local"].devices == ("gpu",)


def test_a_declared_budget_of_an_apu_stands_for_what_is_detected():
    settings = Settings.model_validate({"backends": {"local": LOCAL}, "vram": {"amd_unified_memory": "64GiB"}})
    memory = build_memory(settings)
    assert memory is not None
    assert memory.devices.budget_bytes == 64 * GIB * 90 // 100


def test_nothing_is_read_where_the_monitor_is_off_or_no_engine_is_here():
    class Forbidden:
        def read(self):
            raise AssertionError("nobody asked for a reading")

    for backends, vram in (
        ({"local": LOCAL}, {"monitor_enabled": False}),
        ({"far": REMOTE}, {}),
        ({"cloud": {"type": "openai"}}, {}),
    ):
        assert build_memory(Settings.model_validate({"backends": backends, "vram": vram}), Forbidden()) is None


def test_a_driver_that_hangs_or_breaks_keeps_nobody_from_starting(monkeypatch, caplog):
    never = threading.Event()

    class Hanging:
        def read(self):
            never.wait(30)
            return ()

    monkeypatch.setattr(memory_module, "FIRST_READ_S", 0.05)
    settings = Settings.model_validate({"backends": {"local": LOCAL}})
    assert build_memory(settings, Hanging()) is None
    assert "could not be read" in caplog.text
    never.set()


def test_a_backend_uses_the_devices_it_names_else_all():
    backends = {
        "one": {**LOCAL, "devices": [1]},
        "by_uuid": {**LOCAL, "devices": ["GPU-0"]},
        "all": LOCAL,
    }
    rules = memory_of(card(0), card(1), backends=backends).rules
    assert rules["one"].devices == ("GPU-1",)
    assert rules["by_uuid"].devices == ("GPU-0",)
    assert rules["all"].devices == ("GPU-0", "GPU-1")


@pytest.mark.parametrize(
    ("section", "split"),
    [
        ({"type": "ollama"}, True),
        ({"type": "llama.cpp"}, True),
        ({"type": "vllm"}, False),
        ({"type": "ollama", "split": False}, False),
        ({"type": "vllm", "split": True}, True),
    ],
)
def test_engines_split_by_their_habit_unless_told(section, split):
    assert memory_of(card(0), card(1), backends={"b": section}).rules["b"].split is split


def test_a_backend_elsewhere_has_a_budget_of_its_own():
    """Readings of this machine say nothing of another one's GPUs."""
    memory = memory_of(card(0), backends={"local": LOCAL, "far": {**REMOTE, "vram": "48GiB"}})
    assert limits(memory) == {"GPU-0": pytest.approx(21.6), "far": 48}
    assert memory.rules["far"].devices == ("far",)
    assert memory.rules["local"].devices == ("GPU-0",)
    assert set(memory.readings.used_bytes()) == {"GPU-0"}


def test_a_limit_over_all_counts_the_devices_here_only():
    backends = {"local": LOCAL, "far": {**REMOTE, "vram": "48GiB"}}
    devices = memory_of(card(0), card(1), backends=backends, max_total="30GiB").devices
    assert devices.most_together() == 30 * GIB
    assert devices.together({"GPU-0": 5, "far": 7}) == 5
    assert devices.budget_bytes == 78 * GIB


def test_a_remote_backend_without_a_budget_shares_the_declared_one_where_nothing_is_here():
    memory = memory_of(backends={"far": REMOTE}, max_total="22GiB")
    assert limits(memory) == {"gpu": 22}
    assert memory.rules["far"].devices == ("gpu",)


def test_an_engine_that_the_settings_do_not_name_uses_the_devices_here():
    """Neither a machine elsewhere, nor, where nothing is known of this one, anything."""
    backends = {"local": LOCAL, "far": {**REMOTE, "vram": "24GiB"}}
    assert memory_of(card(0), backends=backends).rule("service").devices == ("GPU-0",)
    assert memory_of(backends=backends).rule("service").devices == ()


def test_devices_are_read_for_an_engine_beside_the_settings():
    settings = Settings.model_validate({"backends": {"cloud": {"type": "openai"}}})
    assert build_memory(settings, StaticProbe(card(0))) is None
    memory = build_memory(settings, StaticProbe(card(0)), beside=True)
    assert memory is not None
    assert memory.rule("service").devices == ("GPU-0",)


def test_devices_that_are_named_and_not_there_are_told(caplog):
    memory_of(
        card(0), devices={0: {"max": "8GiB"}, "GPU-0": {"max": "8GiB"}}, backends={"a": {**LOCAL, "devices": [0]}}
    )
    assert caplog.text == ""
    memory_of(card(0), devices={7: {"max": "8GiB"}})
    assert "vram.devices: this machine has no GPU 7" in caplog.text
    memory_of(card(0), backends={"a": {**LOCAL, "devices": [3]}})
    assert "backends.a.devices: no such GPU is shared out here (3)" in caplog.text
