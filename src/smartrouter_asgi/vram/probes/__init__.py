"""Probes: how much GPU memory there is, and how much of it is free."""

from __future__ import annotations

from .amd import AMDProbe
from .apple import AppleProbe
from .base import DeviceKind, DeviceMemory, MemoryProbe, countable, detect_budget_bytes
from .intel import IntelProbe
from .nvml import NVMLProbe
from .static import StaticProbe, UnifiedProbe
from .system import SystemProbe
from .watch import MemoryWatch

__all__ = [
    "AMDProbe",
    "AppleProbe",
    "DeviceKind",
    "DeviceMemory",
    "IntelProbe",
    "MemoryProbe",
    "MemoryWatch",
    "NVMLProbe",
    "StaticProbe",
    "SystemProbe",
    "UnifiedProbe",
    "countable",
    "detect_budget_bytes",
]
