"""What a demo is told, without serving one."""

from __future__ import annotations

from smartrouter_asgi.cli.demo import demo_engine, demo_settings


def test_a_demo_leaves_nothing_behind():
    """What its simulated models take is not kept with what real ones take."""
    assert demo_settings(demo_engine(), {}, {}).vram.footprints_file is None
