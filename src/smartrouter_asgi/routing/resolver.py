"""Resolution: a name and a catalog make a route plan. Pure; chance and load come in as arguments."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import TypeAlias

from ..deployment import Deployment
from ..exceptions import ModelNotFoundError
from ..types import Random
from .affinity import AffinityKey, by_key
from .balancing import by_load
from .catalog import Catalog, ModelGroup
from .plan import RoutePlan

Load: TypeAlias = Callable[[str, Deployment], float]
"""How busy a deployment is, or how slow, under a balance (`least_busy`, `latency`): smaller is better."""

MAX_NAMES_COMPARED = 500  # comparing takes time, and the event loop waits for it

_NAME = re.compile(r"[\w.:/@+-]{1,200}")


def resolve(
    name: str, catalog: Catalog, *, random: Random, load: Load | None = None, affinity: AffinityKey | None = None
) -> RoutePlan | None:
    """Resolve a model name to candidates in the order to try; None when the catalog does not know it.

    Deployments of the model come first, tier by tier (`order`), each tier ordered by the request's affinity where it
    has one, else by its balance; then those of the models it falls back to, in the order named. `affinity` finds the
    key, and is asked only for a model that wants one and has a choice.
    """
    group = catalog.find(name)
    if group is None:
        return None
    if group.sole_plan is not None:
        return group.sole_plan
    own = _ordered(group, random, load, affinity)
    if not (group.fallbacks or group.context_window_fallbacks or group.content_policy_fallbacks):
        return RoutePlan(model=group.name, candidates=tuple(own))

    def with_models(first: Sequence[Deployment], names: Sequence[str]) -> tuple[Deployment, ...]:
        found = list(first)
        for other in filter(None, map(catalog.find, names)):
            found += [d for d in _ordered(other, random, load, affinity) if d not in found]
        return tuple(found)

    return RoutePlan(
        model=group.name,
        candidates=with_models(own, group.fallbacks),
        alternatives={
            "context_length_exceeded": with_models((), group.context_window_fallbacks),
            "content_filter": with_models((), group.content_policy_fallbacks),
        },
    )


def not_found(name: str, catalog: Catalog) -> ModelNotFoundError:
    """Return the 404 for an unknown name, with near names that exist."""
    shown = name if _NAME.fullmatch(name) else repr(name[:60])
    near = difflib.get_close_matches(name[:200], catalog.names[:MAX_NAMES_COMPARED], n=3, cutoff=0.5)
    if near:
        hint = f"did you mean {', '.join(repr(n) for n in near)}? GET /v1/models lists them all"
    elif catalog.names:
        hint = "GET /v1/models lists the models there are"
    else:
        hint = "no model is configured or discovered yet"
    return ModelNotFoundError(f"the model '{shown}' does not exist here: {hint}", param="model")


def _ordered(
    group: ModelGroup, random: Random, load: Load | None, affinity: AffinityKey | None
) -> Sequence[Deployment]:
    deployments = group.deployments
    if len(deployments) == 1:
        return deployments
    key = affinity(group.affinity) if affinity is not None and group.affinity != "none" else None
    if key is None and (group.balance == "weighted" or load is None):
        # Efraimidis-Spirakis: sorting by u**(1/w) draws without replacement in proportion to the weights.
        return sorted(deployments, key=lambda d: (d.order, -_draw(d.weight, random)))
    ordered: list[Deployment] = []
    for _, tier in groupby(sorted(deployments, key=_order), key=_order):
        if key is not None:
            ordered += by_key(list(tier), key, partial(load, "least_busy") if load is not None else None)
        elif load is not None:
            ordered += by_load(list(tier), partial(load, group.balance), random=random)
    return ordered


def _order(deployment: Deployment) -> int:
    return deployment.order


def _draw(weight: float, random: Random) -> float:
    return math.pow(random() or 1e-12, 1.0 / weight) if weight > 0 else 0.0
