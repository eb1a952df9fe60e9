"""The right to use a model that stays in memory for as long as it is held."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from types import TracebackType

    from .names import ModelKey


class LeaseHolder(Protocol):
    """Who gave a lease and takes it back; both calls are synchronous."""

    def take_back(self, lease: Lease) -> None:
        """Count the lease as released."""

    def watch(self, lease: Lease) -> None:
        """Release the lease once its engine is idle or the grace has passed."""


class Lease:
    """One use of a resident model, given back exactly once: by `release` or by `drain`, whichever is first.

    A lease without holder is for what is not gated: it holds nothing. `with` releases at the end of the block.
    """

    __slots__ = ("_holder", "draining", "key", "since")

    def __init__(self, key: ModelKey, holder: LeaseHolder | None, *, since: float = 0.0) -> None:
        self.key = key
        self._holder = holder
        self.draining = False
        self.since = since
        """When it was given, on the gate's clock."""

    @property
    def held(self) -> bool:
        """Whether it still keeps the model in memory."""
        return self._holder is not None

    def release(self) -> None:
        """Give the lease back at once; nothing happens when it is draining or released."""
        holder = self._holder
        if holder is not None and not self.draining:
            self._holder = None
            holder.take_back(self)

    def drain(self) -> None:
        """Give the lease back once the engine shows idle or a grace has passed: the client is gone, it may not be."""
        if self._holder is not None and not self.draining:
            self.draining = True
            self._holder.watch(self)

    def finish_draining(self) -> None:
        """Give a draining lease back; for its holder."""
        holder = self._holder
        if holder is not None and self.draining:
            self._holder = None
            holder.take_back(self)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        state = "free" if not self.held else "draining" if self.draining else "held"
        return f"<Lease {self.key.id} {state}>"
