"""A simulated Ollama: a real HTTP server that behaves as Ollama 0.33 does, with simulated models on a simulated GPU.

It needs nothing but the core dependencies. Loads, evictions, queueing, streaming and errors follow Ollama; the answers
are made up and say so. Faults can be set while it runs, and everything that happened can be asked for.
"""

from __future__ import annotations

from .engine import SimulatedOllama
from .errors import OOM_ON_LOAD, RUNNER_STOPPED, SERVER_BUSY
from .faults import Fault, Faults
from .models import GIB, MIB, SimulatedModel, demo_models
from .observation import Exchange, Stats

__all__ = [
    "GIB",
    "MIB",
    "OOM_ON_LOAD",
    "RUNNER_STOPPED",
    "SERVER_BUSY",
    "Exchange",
    "Fault",
    "Faults",
    "SimulatedModel",
    "SimulatedOllama",
    "Stats",
    "demo_models",
]
