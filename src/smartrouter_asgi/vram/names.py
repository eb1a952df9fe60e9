"""Which names mean the same model in memory, and which models have to stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


class ModelKey(NamedTuple):
    """A model on a backend: what occupies memory once, however many requests use it."""

    backend: str
    model: str

    @property
    def id(self) -> str:
        """`backend/model`, as `Deployment.id`."""
        return f"{self.backend}/{self.model}"


class ModelNames:
    """Tags told to be one digest are one resident, held under one of them; a pin under any name is a pin."""

    def __init__(self, pinned: Iterable[str] = ()) -> None:
        self._held_as: dict[ModelKey, ModelKey] = {}
        self._pinned = set(pinned)

    def canonical(self, key: ModelKey) -> ModelKey:
        """Return the key a model is held under; itself, unless told otherwise."""
        return self._held_as.get(key, key)

    def of(self, key: ModelKey) -> tuple[ModelKey, ...]:
        """Return every name of a resident, the one it is held under first."""
        return (key, *(name for name, held_as in self._held_as.items() if held_as == key))

    def tell_digests(self, backend: str, digests: Mapping[str, str], *, in_use: Callable[[ModelKey], bool]) -> None:
        """Take the models of one backend with equal digests for one, and forget what was told of it before.

        A model in use keeps its own name; two of them in use at once stay two until told again.
        """
        self._held_as = {name: held_as for name, held_as in self._held_as.items() if name.backend != backend}
        first_of: dict[str, ModelKey] = {}
        keys = sorted(ModelKey(backend, model) for model in digests)
        for key in sorted(keys, key=in_use, reverse=True):
            first = first_of.setdefault(digests[key.model], key)
            if key != first and not in_use(key):
                self._held_as[key] = first

    def pin(self, key: ModelKey) -> None:
        """Make a model stay, loaded or not."""
        self._pinned.add(key.id)

    def unpin(self, key: ModelKey) -> None:
        """Let a model go again, whichever of its names was pinned."""
        self._pinned.difference_update(name.id for name in self.of(self.canonical(key)))

    def is_pinned(self, key: ModelKey) -> bool:
        """Whether a resident has to stay."""
        return bool(self._pinned) and any(name.id in self._pinned for name in self.of(key))
