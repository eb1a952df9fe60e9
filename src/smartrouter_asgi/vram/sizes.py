"""What is known of the sizes of models before they are loaded, on its way into the books and out of them again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..deployment import Deployment, FootprintKey
    from .footprints import Footprints
    from .ledger import VRAMLedger
    from .names import ModelKey


class Sizes:
    """Gives the ledger what a deployment should need, and the store what it was measured to need."""

    def __init__(self, ledger: VRAMLedger, store: Footprints | None) -> None:
        self._ledger = ledger
        self._store = store
        self._loads: dict[ModelKey, FootprintKey] = {}

    def tell(self, key: ModelKey, deployment: Deployment) -> None:
        """Tell the ledger what is known of a deployment: declared, measured in an earlier run, estimated."""
        key = self._ledger.names.canonical(key)
        if deployment.vram_bytes is not None:
            self._ledger.declare(key, deployment.vram_bytes)
        if deployment.estimate_bytes is not None:
            self._ledger.estimate(key, deployment.estimate_bytes)
        if self._store is not None and deployment.footprint_key is not None:
            self._loads[key] = deployment.footprint_key
            known_bytes = self._store.get(deployment.footprint_key)
            if known_bytes is not None:
                self._ledger.recall(key, known_bytes)

    def learn(self) -> None:
        """Give the store what has been measured of the models in memory."""
        if self._store is None:
            return
        for key, load in self._loads.items():
            size_bytes = self._ledger.measured_bytes(key)
            if size_bytes is not None:
                self._store.put(load, size_bytes)

    @property
    def dirty(self) -> bool:
        """Whether the store has something to write."""
        return self._store is not None and self._store.dirty

    async def save(self) -> None:
        """Write it, in a thread; never raises."""
        if self._store is not None:
            await asyncio.to_thread(self._store.save)
