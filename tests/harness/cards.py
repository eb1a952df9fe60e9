"""GPUs that exist in tests only: what one engine holds of a card the others have not got, and a driver tells of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from smartrouter_asgi.testing.ollama import GIB, SimulatedOllama
from smartrouter_asgi.testing.ollama.faults import Faults
from smartrouter_asgi.vram.probes import DeviceMemory

if TYPE_CHECKING:
    from collections.abc import Sequence


class OutOfMemoryError(Exception):
    """A card was asked for more than it had left."""


@dataclass
class Card:
    """One GPU. Several scripted engines may hold parts of it, and one simulated Ollama, made with `faults=card.faults`.

    `peak_bytes` is the most that was ever held; more than there is nobody gets.
    """

    total_bytes: int = 24 * GIB
    index: int = 0
    uuid: str = "GPU-0"
    ollama: SimulatedOllama | None = None
    faults: Faults = field(default_factory=Faults)
    held: dict[str, int] = field(default_factory=dict)
    peak_bytes: int = 0

    @property
    def free_bytes(self) -> int:
        ollama = self.ollama.gpu.used_bytes if self.ollama is not None else 0
        return self.total_bytes - sum(self.held.values()) - ollama

    def take(self, owner: str, size_bytes: int) -> None:
        """Hold so much of it; `OutOfMemoryError` when that is not free."""
        if size_bytes > self.free_bytes:
            raise OutOfMemoryError(f"{owner} wants {size_bytes / GIB:g} GiB of {self.free_bytes / GIB:g}")
        self.held[owner] = size_bytes
        self._changed()

    def give_back(self, owner: str) -> None:
        """Hold nothing of it any more."""
        self.held.pop(owner, None)
        self._changed()

    def _changed(self) -> None:
        self.faults.stolen_vram_bytes = sum(self.held.values())
        self.peak_bytes = max(self.peak_bytes, self.total_bytes - self.free_bytes)

    def reading(self) -> DeviceMemory:
        return DeviceMemory(
            uuid=self.uuid,
            index=self.index,
            name=f"card {self.uuid}",
            total_bytes=self.total_bytes,
            free_bytes=self.free_bytes,
            kind="nvidia",
        )


class CardProbe:
    """A driver's word on some cards. Any may be `silent` or `gone`, by UUID; and the driver may hang, or break."""

    def __init__(self, *cards: Card) -> None:
        self.cards: Sequence[Card] = cards
        self.silent: set[str] = set()
        self.gone: set[str] = set()
        self.error: Exception | None = None
        self.reads = 0
        self.answering = threading.Event()
        """Cleared: the driver hangs until it is set again."""
        self.answering.set()

    def read(self) -> tuple[DeviceMemory, ...]:
        self.reads += 1
        assert self.answering.wait(30), "a test has left its driver hanging"
        if self.error is not None:
            raise self.error
        readings = [card.reading() for card in self.cards if card.uuid not in self.gone]
        return tuple(one.silent() if one.uuid in self.silent else one for one in readings)
