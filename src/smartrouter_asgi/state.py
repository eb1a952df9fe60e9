"""What the layers share about one request: one typed object under one key of the scope."""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import Mapping
from typing import Protocol

import msgspec

from .exceptions import AttemptRecord, SmartRouterError
from .resilience.attempt import Attempt
from .resilience.deadline import Timeouts, answer_within_s, client_priority, client_timeout_s, has_wishes
from .routing.plan import RoutePlan
from .types import Scope
from .wire.call import Call
from .wire.stream import Usage

LARGE_BODY_BYTES = 16 * 1024

SCOPE_KEY = "smartrouter_asgi"
"""The only key the package ever sets in a scope."""


class Work(Protocol):
    """What runs for a request, as those see it who may have to end it."""

    def cancel(self) -> None:
        """End it, from any task of the same loop."""

    @property
    def cancel_called(self) -> bool:
        """Whether somebody has ended it."""


class RequestState(msgspec.Struct, kw_only=True, eq=False):
    """One request on its way through the layers. The outermost of ours makes it, all write to it."""

    request_id: str
    started: float
    """Monotonic seconds."""
    headers: Mapping[bytes, bytes] = {}
    """The request's, by their names in lower case, as every server gives them; of several of a name the last."""
    endpoint: str = "other"
    body: bytes | None = None
    """The whole body, once a layer has read it; a disconnect watcher runs from then on."""
    call: Call | None = None
    plan: RoutePlan | None = None
    attempt: Attempt | None = None
    attempts: int = 0
    records: list[AttemptRecord] = msgspec.field(default_factory=list)
    """The attempts that have failed, whichever plan they belonged to."""
    priority: int = 0
    """Its place in a queue: lower goes first."""
    deadline: float = math.inf
    """The monotonic instant at which the whole request ends."""
    commit_by: float = math.inf
    """The instant by which the answer must have begun; for a plain answer that is the deadline."""
    status: int = 0
    """The status that was sent; 0 until commit."""
    impatient: bool = False
    """The client waits less long than the clocks allow: that its time is up says nothing about a backend."""
    complete: bool = False
    """The last byte of the answer was sent."""
    body_hash: int | None = None
    """Of a body that was let go of."""
    left: bool = False
    """The client has left, or the answer is complete."""
    leaving: asyncio.Event | None = None
    """For those who wait for that, where there are any: most apps never do."""
    disconnected: bool = False
    work: Work | None = None
    """What runs for the request: the reading of its body, then the layers."""
    ended: SmartRouterError | None = None
    """What to answer: somebody has cancelled the work before it was committed."""
    outcome: str = ""
    first_token_s: float | None = None
    usage: Usage | None = None

    @property
    def committed(self) -> bool:
        """Whether `http.response.start` was sent: nothing may be retried after it."""
        return self.status != 0

    def leave(self) -> None:
        """Tell whoever waits for the client to leave."""
        self.left = True
        if self.leaving is not None:
            self.leaving.set()

    async def gone(self) -> None:
        """Wait until the client has left, or the answer is complete."""
        if not self.left:
            if self.leaving is None:
                self.leaving = asyncio.Event()
            await self.leaving.wait()

    @property
    def fingerprint(self) -> int:
        """What tells this request from others."""
        return hash(self.body) if self.body_hash is None else self.body_hash

    def let_go_of_body(self) -> None:
        """Keep a large body no longer: the answer has begun, and nobody will ask anybody else."""
        body, call = self.body, self.call
        if body is not None and len(body) > LARGE_BODY_BYTES:
            self.body_hash = hash(body)
            self.body = b""
            if call is not None:
                call.fields = {}  # its values are parts of the body

    def fork(self, attempt: Attempt) -> RequestState:
        """Return a state for one of several attempts that run side by side; it commits by itself."""
        if self.leaving is None:
            self.leaving = asyncio.Event()  # one for all: that the client has left is told to this state alone
        self.attempt = attempt
        self.attempts = max(self.attempts, attempt.number)
        return copy.copy(self)

    def adopt(self, fork: RequestState) -> None:
        """Take over what the attempt that committed has learnt."""
        self.attempt = fork.attempt
        self.outcome = fork.outcome or self.outcome
        self.first_token_s = fork.first_token_s
        self.usage = fork.usage

    def bound(self, timeouts: Timeouts) -> None:
        """Set deadline and priority, once: the first layer that knows the timeouts does it, nobody re-arms them."""
        if self.deadline != math.inf:
            return
        if not has_wishes(self.headers):
            self.deadline = self.commit_by = self.started + timeouts.total_s
            return
        self.priority = client_priority(self.headers)
        client_s = client_timeout_s(self.headers)
        self.impatient = client_s < timeouts.total_s
        client = self.started + answer_within_s(client_s)
        self.deadline = self.started + timeouts.total_s
        if self.call is not None and self.call.stream:
            self.commit_by = min(self.deadline, client)
        else:
            self.deadline = self.commit_by = min(self.deadline, client)


def find_state(scope: Scope) -> RequestState | None:
    """Return the state a layer outside of this one has made, if any."""
    state: RequestState | None = scope.get(SCOPE_KEY)
    return state
