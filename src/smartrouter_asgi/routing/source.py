"""Where the resolution layer gets its catalog from."""

from __future__ import annotations

from collections.abc import Set
from typing import Protocol

from ..exceptions import SmartRouterError
from .catalog import Catalog


class CatalogSource(Protocol):
    """Something that holds the current catalog and can look again."""

    def current(self) -> Catalog:
        """Return the catalog as it stands; never waits."""

    async def refreshed(self, name: str) -> Catalog:
        """Return a catalog fresh enough to say that `name` does not exist. Single-flight; bounded in time."""

    async def rechecked(self, backends: Set[str]) -> Catalog:
        """Return a catalog for which these backends were asked just now: one of them has lost a model."""

    def why_missing(self, name: str) -> SmartRouterError | None:
        """Say why a name may be missing although it exists (a backend that never answered); None: it does not exist."""


class FixedCatalog:
    """A catalog that does not change."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def current(self) -> Catalog:
        """Return the catalog."""
        return self._catalog

    async def refreshed(self, name: str) -> Catalog:
        """Return the catalog: there is nothing to look for."""
        return self._catalog

    async def rechecked(self, backends: Set[str]) -> Catalog:
        """Return the catalog: nobody can be asked."""
        return self._catalog

    def why_missing(self, name: str) -> SmartRouterError | None:
        """Return None: what is not in it does not exist."""
        return None
