"""What is simulated: models, requests, and a pattern that holds both with the devices they meet."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1024**3

LOAD_FIXED_S = 0.5
LOAD_BYTES_PER_S = 2.5 * GIB
"""Weights from a good disk or the page cache: 8 GiB take 3.7 s."""
UNLOAD_MIN_S, UNLOAD_MAX_S = 0.5, 1.5
"""Until the memory is back: the smallest model, and one of 24 GiB or more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What an engine has to load before it serves `parallel` requests at once."""

    name: str
    size_bytes: int
    parallel: int = 4

    @property
    def load_s(self) -> float:
        """How long a load takes."""
        return LOAD_FIXED_S + self.size_bytes / LOAD_BYTES_PER_S

    @property
    def unload_s(self) -> float:
        """How long it takes until the memory is back."""
        return UNLOAD_MIN_S + (UNLOAD_MAX_S - UNLOAD_MIN_S) * min(1.0, self.size_bytes / (24 * GIB))

    @property
    def swap_s(self) -> float:
        """What one turn of this model costs: its load and, later, its unload."""
        return self.load_s + self.unload_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request; `service_s` is what it takes once it has a slot in the engine."""

    ticket: int
    at: float
    model: str
    service_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """One experiment: devices (bytes each), models, and requests by rising arrival."""

    name: str
    title: str
    devices: tuple[int, ...]
    models: tuple[Model, ...]
    requests: tuple[Request, ...]

    @property
    def span_s(self) -> float:
        """How long requests keep coming."""
        return self.requests[-1].at
