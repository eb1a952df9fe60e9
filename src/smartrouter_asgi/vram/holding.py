"""What one model holds of the devices' memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .names import ModelKey
    from .placement import Placement


class HoldingState(Enum):
    """How far a holding is in its life."""

    RESERVED = "reserved"  # promised, being loaded
    RESIDENT = "resident"  # loaded, may be used
    UNLOADING = "unloading"  # on its way out, its bytes not free yet


@dataclass(slots=True, kw_only=True, eq=False)
class Holding:
    """The bytes one model holds, by device. `leases` counts every use, the `draining` ones included."""

    key: ModelKey
    placement: Placement
    state: HoldingState
    since: float
    last_used: float
    loaded_at: float = -math.inf
    """When our load of it ended."""
    wanted_since: float = math.inf
    """When the first of those came for whom we loaded it."""
    leases: int = 0
    draining: int = 0
    measured: bool = False
    fixed: bool = False
    """Its engine can neither load nor unload it."""
    offloaded_bytes: int = 0
    """What the engine keeps of it in the machine's own memory, because it did not fit on the GPU."""
    retry_unload_at: float = -math.inf
    """Not to be chosen as a victim before this: its last unload failed."""

    @property
    def size_bytes(self) -> int:
        """What it holds on all devices together."""
        return sum(self.placement.values())
