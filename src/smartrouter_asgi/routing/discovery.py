"""Discovery: the catalog made of what is configured and what the backends list, refreshed on demand."""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from types import MappingProxyType

from ..deployment import Deployment, ModelInfo
from ..exceptions import NoBackendError, SmartRouterError
from ..types import Clock
from .catalog import Catalog, ModelGroup
from .listing import Listing

logger = logging.getLogger("smartrouter_asgi.discovery")

REFRESH_WAIT_S = 3.0  # a backend that hangs does not keep the list of the others for longer
LOOK_S = 0.05
"""How often it is looked whether a list has grown old, at most: requests come far more often than lists age."""
MISS_TTL_S = 1.0  # how old a list may be when it is the reason for a 404


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoverySource:
    """One backend as discovery sees it."""

    backend: str
    list_models: Callable[[], Awaitable[Sequence[ModelInfo]]]
    deploy: Callable[[ModelInfo], Deployment]
    """Makes the deployment of a listed model; its upstream id is taken as it is."""
    learn: Callable[[Sequence[ModelInfo]], None] = lambda _: None
    """Told of each list that is believed, before deployments are made of it."""
    prefix: str = ""
    """Taken off a listed id to make the name that clients use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryRules:
    """Which listed ids become models, and how long a list is good for."""

    enabled: bool = True
    ttl_s: float = 30.0
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def takes(self, name: str) -> bool:
        """Tell whether an id passes the globs."""
        return any(fnmatch.fnmatchcase(name, g) for g in self.include) and not any(
            fnmatch.fnmatchcase(name, g) for g in self.exclude
        )


@dataclass(slots=True, kw_only=True, eq=False)
class Discovery:
    """A `CatalogSource` over several backends; one that hangs delays nobody who asks for another's model."""

    sources: Sequence[DiscoverySource]
    configured: Callable[[], Sequence[ModelGroup]] = tuple
    aliases: Mapping[str, str] = field(default_factory=dict)
    rules: DiscoveryRules = field(default_factory=DiscoveryRules)
    clock: Clock = time.monotonic
    _listings: dict[str, Listing] = field(default_factory=dict)
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _by_operator: set[str] = field(default_factory=set)
    _catalog: Catalog = field(default_factory=Catalog)
    _look_at: float = -math.inf
    """When to look next whether a list has grown old."""

    def __post_init__(self) -> None:
        self._listings = {source.backend: Listing() for source in self.sources}
        self.rebuild()

    def current(self) -> Catalog:
        """Return the catalog; one that has grown old is refreshed in the background."""
        if self.rules.enabled and (now := self.clock()) >= self._look_at:
            self._look_at = now + LOOK_S
            for source in self.sources:
                listing = self._listings[source.backend]
                if listing.tried_at is not None and listing.is_due(now=now, max_age_s=self.rules.ttl_s):
                    self._refresh(source)
        return self._catalog

    def rebuild(self) -> None:
        """Make the catalog anew from what is known: something that deployments depend on has changed."""
        self._catalog = build_catalog(self.configured(), self.aliases, self.sources, self._listings, self.rules)

    async def refreshed(self, name: str) -> Catalog:
        """Ask every backend that was not asked just now; return as soon as one of them has the name."""
        pending = self._refresh_older_than(MISS_TTL_S)
        until = self.clock() + REFRESH_WAIT_S
        while pending and self._catalog.find(name) is None and (left_s := until - self.clock()) > 0:
            _, pending = await asyncio.wait(pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        return self._catalog

    async def refresh(self, *, max_age_s: float | None = None, by_operator: bool = False) -> Catalog:
        """Ask every backend whose list is older than `max_age_s` (default: the TTL); wait for them, not for ever.

        Asked `by_operator`, a backend's second empty list is believed at once.
        """
        if by_operator:
            self._by_operator.update(self._listings)
        pending = self._refresh_older_than(self.rules.ttl_s if max_age_s is None else max_age_s)
        if pending:
            await asyncio.wait(pending, timeout=REFRESH_WAIT_S)
        return self._catalog

    async def rechecked(self, backends: Set[str]) -> Catalog:
        """Ask these backends, where they were not asked within the last second; wait for them, not for ever."""
        pending = self._refresh_older_than(MISS_TTL_S, backends)
        if pending:
            await asyncio.wait(pending, timeout=REFRESH_WAIT_S)
        return self._catalog

    def why_missing(self, name: str) -> SmartRouterError | None:
        """A backend that never listed anything may have it: then the answer is 503, not 404."""
        if not self.rules.enabled:
            return None
        silent = [backend for backend, listing in self._listings.items() if listing.listed_at is None]
        if not silent:
            return None
        names = ", ".join(f"'{backend}'" for backend in silent)
        why = self._listings[silent[0]].error or "it has not answered yet"
        return NoBackendError(
            f"the model may be served by {names}, which cannot be asked now: {why}", retry_after_s=2.0
        )

    def ages(self) -> dict[str, float | None]:
        """Return how old each backend's list is, in seconds; None when there was none yet."""
        now = self.clock()
        return {b: None if x.listed_at is None else now - x.listed_at for b, x in self._listings.items()}

    async def aclose(self) -> None:
        """Stop what is under way."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _refresh_older_than(self, max_age_s: float, backends: Set[str] | None = None) -> set[asyncio.Task[None]]:
        if not self.rules.enabled:
            return set()
        now = self.clock()
        pending = set()
        for source in self.sources:
            if backends is not None and source.backend not in backends:
                continue
            is_due = self._listings[source.backend].is_due(now=now, max_age_s=max_age_s)
            if is_due or source.backend in self._tasks:
                pending.add(self._refresh(source))
        return pending

    def _refresh(self, source: DiscoverySource) -> asyncio.Task[None]:
        """Start asking one backend, or join the asking under way; a request that leaves ends nothing."""
        task, loop = self._tasks.get(source.backend), asyncio.get_running_loop()
        if task is None or task.done() or task.get_loop() is not loop:
            task = loop.create_task(self._ask(source))
            self._tasks[source.backend] = task
        return task

    async def _ask(self, source: DiscoverySource) -> None:
        listing, asked_at = self._listings[source.backend], self.clock()
        try:
            models = await source.list_models()
            by_operator, was_in_doubt = source.backend in self._by_operator, listing.emptied_at is not None
            if listing.take(models, asked_at=asked_at, by_operator=by_operator, now=self.clock()):
                source.learn(models)
            elif not was_in_doubt:
                logger.warning(
                    "backend '%s' lists no models any more; those it had stay until its next list confirms that",
                    source.backend,
                )
        except SmartRouterError as exc:
            if listing.error is None:
                logger.warning("%s; its models stay as they were last known", exc)
            listing.fail(exc, now=self.clock())
        except Exception as exc:  # an adapter from outside the package: its bug is its backend's failure
            logger.exception("the adapter of backend '%s' failed to list models", source.backend)
            error = NoBackendError(f"its adapter failed with {type(exc).__name__}")
            listing.fail(error, now=self.clock())
        finally:
            self._by_operator.discard(source.backend)
            self._tasks.pop(source.backend, None)
        self.rebuild()


def build_catalog(
    configured: Iterable[ModelGroup],
    aliases: Mapping[str, str],
    sources: Sequence[DiscoverySource],
    listings: Mapping[str, Listing],
    rules: DiscoveryRules,
) -> Catalog:
    """Make the snapshot: configured names win, an id listed by several backends has a deployment at each."""
    models = {group.name: group for group in configured}
    found: dict[str, list[tuple[ModelInfo, Deployment]]] = {}
    for source in sources:
        for info in listings[source.backend].models:
            name = info.id.removeprefix(source.prefix) or info.id
            if name not in models and rules.takes(name):
                found.setdefault(name, []).append((info, source.deploy(info)))
    for name, entries in found.items():
        models[name] = ModelGroup(
            name=name,
            deployments=tuple(dict.fromkeys(deployment for _, deployment in entries)),
            info=entries[0][0],
            discovered=True,
        )
    return Catalog(models=MappingProxyType(models), aliases=MappingProxyType(dict(aliases)))
