"""Where loads really went: engines choose the devices themselves, and only what they take there tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .holding import HoldingState
from .placement import seen_placement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .ledger import VRAMLedger
    from .names import ModelKey


class Arrivals:
    """Compares what devices held before a load and after it, and corrects the books.

    Loads that overlapped with another one tell nothing: their bytes cannot be told apart.
    """

    def __init__(self, ledger: VRAMLedger) -> None:
        self._ledger = ledger
        self._before: dict[ModelKey, dict[str, int]] = {}

    def begin(self, key: ModelKey, used_bytes: Mapping[str, int | None]) -> None:
        """Note what is in use as a load begins."""
        known = {device: used for device, used in used_bytes.items() if used is not None}
        if self._before:  # one begins while another one is on its way
            for before in self._before.values():
                before.clear()
            known = {}
        self._before[key] = known

    def settle(self, used_bytes: Mapping[str, int | None], *, asked_at: float) -> None:
        """Take a reading, asked for at `asked_at`, for the loads that had ended by then."""
        for key in list(self._before):
            held = self._ledger.get(key)
            if held is not None and (held.state is HoldingState.RESERVED or held.loaded_at > asked_at):
                continue
            before = self._before.pop(key)
            after = {device: used for device, used in used_bytes.items() if used is not None}
            if held is None or held.state is not HoldingState.RESIDENT or len(self._ledger.devices) < 2:
                continue
            placement = seen_placement(held.size_bytes, before, after, self._ledger.rule(key.backend))
            if placement is not None:
                self._ledger.relocate(key, placement)
