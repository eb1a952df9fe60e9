"""Those who are told what happens: the log, and several observers as one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from .events import BreakerChanged, Event, ModelSwapped, Observer, RequestFinished

logger = logging.getLogger("smartrouter_asgi.requests")


Listener: TypeAlias = Callable[[Any], None]


class LoggingObserver:
    """One INFO line for each request, one for each swap; breakers that open are warnings. No prompt, no key, no URL."""

    def __init__(self) -> None:
        self.hears = dict.fromkeys((RequestFinished, BreakerChanged, ModelSwapped), self.on_event)

    def on_event(self, event: Event) -> None:
        """Log one event."""
        if isinstance(event, RequestFinished):
            if event.endpoint != "other" and logger.isEnabledFor(logging.INFO):
                logger.info(
                    "%s %s %s -> %s %d %s attempts=%d %.3fs tokens=%d+%d",
                    event.request_id,
                    event.endpoint,
                    event.model,
                    event.backend,
                    event.status,
                    event.outcome,
                    event.attempts,
                    event.duration_s,
                    event.prompt_tokens,
                    event.completion_tokens,
                )
        elif isinstance(event, BreakerChanged):
            level = logging.WARNING if event.state == "open" else logging.INFO
            logger.log(level, "breaker of %s/%s is %s", event.backend, event.operation, event.state)
        elif isinstance(event, ModelSwapped):
            logger.info("gate: %s %s took %.1fs", event.action, event.deployment, event.seconds)


class ThresholdWarning:
    """Warns once when GPU memory in use passes the threshold, and again only after it has been below."""

    def __init__(self, above: Callable[[], bool], threshold_pct: float) -> None:
        self._above = above
        self._threshold_pct = threshold_pct
        self._warned = False
        self.hears = {ModelSwapped: self.on_event}

    def on_event(self, event: Event) -> None:
        """Look whenever a model came or went."""
        if isinstance(event, ModelSwapped):
            above = self._above()
            if above and not self._warned:
                logger.warning("gate: more than %g %% of the GPU memory budget is in use", self._threshold_pct)
            self._warned = above


class Observers:
    """Several observers as one. One that raises is logged once and spoils neither the others nor the traffic."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)
        self._listeners: dict[type[Event], tuple[Listener, ...]] = {}
        """Those who hear a type of event, once there has been one."""
        self._failed: set[int] = set()

    def on_event(self, event: Event) -> None:
        """Tell all who hear of such events."""
        kind = type(event)
        listeners = self._listeners.get(kind)
        if listeners is None:
            listeners = self._listeners[kind] = tuple(filter(None, (_listener(o, kind) for o in self._observers)))
        for tell in listeners:
            try:
                tell(event)
            except Exception:
                self._complain(tell, kind)

    def _complain(self, tell: Listener, kind: type[Event]) -> None:
        observer = id(getattr(tell, "__self__", tell))
        if observer not in self._failed:
            self._failed.add(observer)
            logger.exception(
                "an observer failed on %s; it is told of what comes, and not heard of again", kind.__name__
            )


def _listener(observer: Observer, kind: type[Event]) -> Listener | None:
    """Return who takes events of a type for an observer; None when it hears of none."""
    hears = getattr(observer, "hears", None)
    return hears.get(kind) if isinstance(hears, Mapping) else observer.on_event
