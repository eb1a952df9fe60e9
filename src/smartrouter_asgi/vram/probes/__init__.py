"""Probes: how much GPU memory there is, and how much of it is free."""

from __future__ import annotations

from .base import DeviceMemory, MemoryProbe, detect_budget_bytes
from .nvml import NVMLProbe
from .static import StaticProbe

__all__ = ["DeviceMemory", "MemoryProbe", "NVMLProbe", "StaticProbe", "detect_budget_bytes"]
