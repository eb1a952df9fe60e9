"""`serve --demo`: an embedded, simulated Ollama on a simulated GPU too small for all of its models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import Settings, load_settings
from ..testing.ollama import GIB, SimulatedModel, SimulatedOllama, demo_models

if TYPE_CHECKING:
    from collections.abc import Mapping

BACKEND = "simulated"
"""The backend's name: what answers shows as simulated in headers, lists and metrics."""

GPU_BYTES = 18 * GIB
"""The largest demo model fits alone, and beside none of the others."""

NUM_CTX = 4096

TIME_SCALE = 1.0
"""Real seconds for each second of the engine."""

_VARIABLES = frozenset({"ROUTER_HOST", "ROUTER_PORT", "ROUTER_LOG_LEVEL", "ROUTER_LOG_FORMAT", "ROUTER_ADMIN_API_KEY"})
"""The variables that count in a demo; the rest would describe other engines."""


def demo_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what a demo takes of the environment."""
    return {name: text for name, text in environ.items() if name.upper() in _VARIABLES}


def demo_engine() -> SimulatedOllama:
    """Make the engine, which listens on a free loopback port once it is started."""
    return SimulatedOllama(demo_models(), gpu_bytes=GPU_BYTES, num_ctx=NUM_CTX, time_scale=TIME_SCALE)


def demo_settings(engine: SimulatedOllama, environ: Mapping[str, str], overrides: Mapping[str, object]) -> Settings:
    """Return settings in which the engine is the only backend and its GPU the whole budget."""
    return load_settings(
        environ=demo_environ(environ),
        overrides={
            **overrides,
            f"backends.{BACKEND}.type": "ollama",
            f"backends.{BACKEND}.url": engine.base_url,
            f"backends.{BACKEND}.keep_alive": -1,
            "vram.max_total": GPU_BYTES,
            "vram.footprints": False,
            "models": [
                {
                    "name": model.name,
                    "deployments": [{"backend": BACKEND, "model": model.name, "vram": footprint_bytes(model)}],
                }
                for model in engine.models
            ],
        },
    )


def footprint_bytes(model: SimulatedModel) -> int:
    """Return what a demo model takes of the simulated GPU."""
    tokens = min(NUM_CTX, model.context_length)
    return model.size_bytes + model.kv_bytes_per_token * tokens + model.overhead_bytes


def largest_model(engine: SimulatedOllama) -> str:
    """Return the name of the model that needs most of the GPU to itself."""
    return max(engine.models, key=footprint_bytes).name
