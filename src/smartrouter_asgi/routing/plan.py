"""The outcome of resolution."""

from __future__ import annotations

from dataclasses import dataclass

from ..deployment import Deployment


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePlan:
    """Where a request may go, in the order to try. `model` is the configured name or discovered id it resolved to."""

    model: str
    candidates: tuple[Deployment, ...]
