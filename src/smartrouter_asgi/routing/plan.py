"""The outcome of resolution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..deployment import Deployment


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePlan:
    """Where a request may go, in the order to try. `model` is the configured name or discovered id it resolved to."""

    model: str
    candidates: tuple[Deployment, ...]
    alternatives: Mapping[str, tuple[Deployment, ...]] = field(default_factory=dict)
    """Who to ask instead when all candidates refuse a request for what it is, by the code of the refusal."""
