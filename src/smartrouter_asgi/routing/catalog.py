"""The catalog: an immutable snapshot from names to deployments, swapped whole and never mutated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ..deployment import Deployment, ModelInfo
from .affinity import Affinity
from .plan import RoutePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelGroup:
    """A name that clients may ask for, and who serves it."""

    name: str
    deployments: tuple[Deployment, ...]
    balance: str = "weighted"
    affinity: Affinity = "none"
    fallbacks: tuple[str, ...] = ()
    """Names to go on with once every deployment here has failed."""
    context_window_fallbacks: tuple[str, ...] = ()
    content_policy_fallbacks: tuple[str, ...] = ()
    info: ModelInfo | None = None
    """What the backend says of a discovered model."""
    discovered: bool = False
    sole_plan: RoutePlan | None = field(init=False, compare=False, repr=False)
    """Where every request for it goes; None where there is a choice."""

    def __post_init__(self) -> None:
        has_choice = len(self.deployments) != 1 or (
            self.fallbacks or self.context_window_fallbacks or self.content_policy_fallbacks
        )
        plan = None if has_choice else RoutePlan(model=self.name, candidates=self.deployments)
        object.__setattr__(self, "sole_plan", plan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Names to model groups, and aliases to names."""

    models: Mapping[str, ModelGroup] = field(default_factory=lambda: MappingProxyType({}))
    aliases: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def find(self, name: str) -> ModelGroup | None:
        """Look a name up: a configured model, then an alias, then a discovered id; a bare id also means `:latest`."""
        found = self.models.get(name)
        if found is not None and not found.discovered:
            return found
        target = self.aliases.get(name)
        if target is not None and target != name:
            return self.models.get(target) or self.models.get(target + ":latest")
        return found or self.models.get(name + ":latest")

    @property
    def names(self) -> tuple[str, ...]:
        """Every name a client may use: models first, then aliases."""
        return (*self.models, *(alias for alias in self.aliases if alias not in self.models))
