"""For tests of what is built on this package: engines, a backend and a server to play with, and a clock to set.

- `SimulatedOllama`, `SimulatedModel`, `Faults`: an Ollama on a real socket, with a simulated GPU and faults at will
- `ScriptedBackend`: a backend without sockets that answers what it is told
- `drive`, `http_scope`: an ASGI app called message by message
- `ManualClock`: monotonic time that passes when it is told to
- `write_tiny_gguf`: a model of half a megabyte that a real llama.cpp server loads (needs the package `gguf`)
"""

from __future__ import annotations

from .asgi import Drive, drive, http_scope
from .backend import ScriptedBackend
from .clock import ManualClock
from .gguf import write_tiny_gguf
from .ollama import Fault, Faults, SimulatedModel, SimulatedOllama, demo_models

__all__ = [
    "Drive",
    "Fault",
    "Faults",
    "ManualClock",
    "ScriptedBackend",
    "SimulatedModel",
    "SimulatedOllama",
    "demo_models",
    "drive",
    "http_scope",
    "write_tiny_gguf",
]
