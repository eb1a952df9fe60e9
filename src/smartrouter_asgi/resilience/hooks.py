"""Other people's code that a breaker calls: listeners, observer, storage."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)


class Hooks:
    """Calls what may raise: an exception breaks nothing and the first one is logged, by its type only.

    News are told after the step that made them, in the order they happened, even when who hears them makes more.
    """

    __slots__ = ("_complained", "_name", "_news")

    def __init__(self, name: str) -> None:
        self._name = name
        self._complained = False
        self._news: deque[tuple[object, str, tuple[Any, ...], dict[str, Any]]] = deque()

    def guard(self, act: Callable[..., object], *args: Any) -> None:
        """Call `act` now."""
        try:
            act(*args)
        except Exception as exc:
            self.complain(exc)

    def note(self, listener: object, method: str, /, *args: Any, **kwargs: Any) -> None:
        """Remember to tell `listener`."""
        self._news.append((listener, method, args, kwargs))

    def tell(self) -> None:
        """Tell what was noted, oldest first: one queue for all, so a listener's own move is told after this one's."""
        while self._news:
            listener, method, args, kwargs = self._news.popleft()
            try:
                getattr(listener, method)(*args, **kwargs)  # looked up in here: who lacks it breaks nothing either
            except Exception as exc:
                self.complain(exc)

    def complain(self, exc: Exception) -> None:
        """Log an exception, unless one was logged before."""
        if not self._complained:
            self._complained = True
            _log.warning("a hook or storage of circuit breaker %s raised %s", self._name, type(exc).__name__)
