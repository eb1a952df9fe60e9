"""Which breaker a request to a foreign app counts for, when nobody has said so."""

from __future__ import annotations

OTHER = "other"


class PathKeys:
    """A key for each path, at most `max_keys` of them, and one for all others.

    A path is anything a client likes to send. One that turns out not to exist gives its place back; one that has once
    been served keeps it, whatever it says to other methods.
    """

    __slots__ = ("_known", "_max_keys", "_served")

    def __init__(self, max_keys: int = 100) -> None:
        self._known: set[str] = set()
        self._served: set[str] = set()
        self._max_keys = max_keys

    def key(self, path: str) -> str:
        """Return the path itself while there is a place for it, else `other`."""
        if path not in self._known:
            if len(self._known) >= self._max_keys:
                return OTHER
            self._known.add(path)
        return path

    def keep(self, path: str) -> None:
        """Take note that a path exists."""
        if path in self._known:
            self._served.add(path)

    def forget(self, path: str) -> bool:
        """Give a path's place back; False when it had none, or has been served before."""
        if path not in self._known or path in self._served:
            return False
        self._known.remove(path)
        return True
