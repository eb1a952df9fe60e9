"""GPU memory: who holds it, who gets it, who has to go. Usable with any asyncio service, without the rest."""

from __future__ import annotations

from .effects import Decision
from .gate import VRAMGate
from .lease import Lease
from .ledger import VRAMLedger
from .lifecycle import CallbackLifecycle, ModelLifecycle
from .names import ModelKey
from .policy import GatePolicy
from .probes import DeviceMemory, MemoryProbe, NVMLProbe, StaticProbe, detect_budget_bytes
from .scheduler import Scheduler
from .snapshot import GateSnapshot, QueueView, ReservationView, ResidentView

__all__ = [
    "CallbackLifecycle",
    "Decision",
    "DeviceMemory",
    "GatePolicy",
    "GateSnapshot",
    "Lease",
    "MemoryProbe",
    "ModelKey",
    "ModelLifecycle",
    "NVMLProbe",
    "QueueView",
    "ReservationView",
    "ResidentView",
    "Scheduler",
    "StaticProbe",
    "VRAMGate",
    "VRAMLedger",
    "detect_budget_bytes",
]
