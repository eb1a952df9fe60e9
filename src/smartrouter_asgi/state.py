"""What the layers share about one request: one typed object under one key of the scope."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field

from .resilience.attempts import Attempt
from .resilience.deadline import Timeouts, client_timeout_s
from .routing.plan import RoutePlan
from .types import Scope
from .wire.call import Call
from .wire.stream import Usage

SCOPE_KEY = "smartrouter_asgi"
"""The only key the package ever sets in a scope."""


@dataclass(slots=True, eq=False, kw_only=True)
class RequestState:
    """One request on its way through the layers. The outermost of ours makes it, all write to it."""

    request_id: str
    started: float
    """Monotonic seconds."""
    endpoint: str = "other"
    body: bytes | None = None
    """The whole body, once a layer has read it; a disconnect watcher runs from then on."""
    call: Call | None = None
    plan: RoutePlan | None = None
    attempt: Attempt | None = None
    attempts: int = 0
    deadline: float = math.inf
    """The monotonic instant at which the whole request ends."""
    commit_by: float = math.inf
    """The instant by which the answer must have begun; for a plain answer that is the deadline."""
    status: int = 0
    """The status that was sent; 0 until commit."""
    complete: bool = False
    """The last byte of the answer was sent."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the client has left, or the answer is complete."""
    disconnected: bool = False
    outcome: str = ""
    first_token_s: float | None = None
    usage: Usage | None = None

    @property
    def committed(self) -> bool:
        """Whether `http.response.start` was sent: nothing may be retried after it."""
        return self.status != 0

    def bound(self, timeouts: Timeouts, scope: Scope) -> None:
        """Set the deadline, once: the first layer that knows the timeouts does it, nobody re-arms it."""
        if self.deadline != math.inf:
            return
        client = self.started + client_timeout_s(scope["headers"])
        self.deadline = self.started + timeouts.total_s
        if self.call is not None and self.call.stream:
            self.commit_by = min(self.deadline, client)
        else:
            self.deadline = self.commit_by = min(self.deadline, client)


def find_state(scope: Scope) -> RequestState | None:
    """Return the state a layer outside of this one has made, if any."""
    state = scope.get(SCOPE_KEY)
    return state if isinstance(state, RequestState) else None
