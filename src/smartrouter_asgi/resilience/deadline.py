"""The clocks of a request: how long each phase may take, the instant that bounds them all, its place in a queue."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

MAX_PRIORITY = 6
"""Either way; a step is worth ten seconds in a queue, so one minute at most."""

CLIENT_MARGIN = 0.1
CLIENT_MARGIN_S = 1.0
"""How much sooner than its client gives up a request ends: this share of the time, at most so many seconds."""

_PRIORITY_HEADERS = (b"x-smartrouter-priority", b"x-litellm-priority")
_PRIORITY = re.compile(rb"-?[0-9]{1,9}")
_CLIENT_HEADERS = (b"x-stainless-read-timeout", b"x-litellm-timeout")
_WISHES = frozenset((*_PRIORITY_HEADERS, *_CLIENT_HEADERS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Limits in seconds. `connect` and `total` bound every request, the others streams only."""

    connect_s: float = 5.0
    first_token_s: float = 120.0
    """From admission to the first content event."""
    first_token_cold_s: float = 300.0
    """The same while the engine may be loading the model."""
    idle_s: float = 60.0
    client_stall_s: float = 60.0
    total_s: float = 600.0


def has_wishes(headers: Mapping[bytes, bytes]) -> bool:
    """Tell whether a client may have said how long it waits, or where in a queue it wants to be."""
    return not _WISHES.isdisjoint(headers)


def client_timeout_s(headers: Mapping[bytes, bytes]) -> float:
    """Return how long the client says it will wait, `inf` when it does not say or says something absurd."""
    bound = math.inf
    for name in _CLIENT_HEADERS:
        value = headers.get(name)
        if value is not None and len(value) <= 32:
            try:
                seconds = float(value)
            except ValueError:
                continue
            if 0 < seconds < bound:
                bound = seconds
    return bound


def answer_within_s(client_s: float) -> float:
    """Return how long to take when the client waits for so long: a little less, or it never hears why.

    A client that runs into its own timeout does not know that nothing more will come, and asks again.
    """
    return client_s - min(CLIENT_MARGIN_S, client_s * CLIENT_MARGIN)


def client_priority(headers: Mapping[bytes, bytes]) -> int:
    """Return the place in a queue that the client asks for: lower goes first, 0 when it does not say.

    Bounded, so that nobody is put off for ever; LiteLLM's name for the header is taken too.
    """
    for name in _PRIORITY_HEADERS:
        value = headers.get(name)
        if value is not None and _PRIORITY.fullmatch(value):
            return max(-MAX_PRIORITY, min(MAX_PRIORITY, int(value)))
    return 0
