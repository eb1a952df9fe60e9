"""What resilience does around a foreign app: an answer that another attempt may better is kept back."""

from __future__ import annotations

import time

from ..exceptions import AttemptError, FailureKind
from ..types import Headers, Message, Send
from ..wire.retry_after import parse_retry_after

RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
MAX_HELD_BYTES = 64 * 1024


class StatusGuard:
    """A `send` that keeps back an answer whose status says that another attempt may do better.

    An answer too large to keep is let go: it is then the one the client gets.
    """

    __slots__ = ("_size", "held", "overflowed", "send")

    def __init__(self, send: Send) -> None:
        self.send = send
        self._size = 0
        self.held: list[Message] = []
        """The messages kept back, `http.response.start` first."""
        self.overflowed = False

    async def __call__(self, message: Message) -> None:
        """Send a message, or keep it back."""
        if not self.held and not (message["type"] == "http.response.start" and message["status"] in RETRYABLE_STATUSES):
            await self.send(message)
            return
        self.held.append(message)
        self._size += len(message.get("body", b""))
        if self._size > MAX_HELD_BYTES:
            self.overflowed = True
            await self._let_go([])

    def forget(self) -> None:
        """Begin another attempt."""
        self.held = []
        self._size = 0

    async def replay(self, headers: Headers) -> None:
        """Send what was kept back after all, with more headers (those it has itself stay), and end it."""
        whole = len(self.held) > 1 and not self.held[-1].get("more_body", False)
        await self._let_go(headers)
        if not whole:
            await self.send({"type": "http.response.body", "body": b""})

    async def _let_go(self, headers: Headers) -> None:
        held, self.held = self.held, []
        start = held[0]
        own = list(start.get("headers", ()))
        known = {name.lower() for name, _ in own}
        own += [(name, value) for name, value in headers if name not in known]
        await self.send({**start, "headers": own})
        for message in held[1:]:
            await self.send(message)

    def failure(self, name: str) -> AttemptError | None:
        """Say what the answer kept back means; None when there is none."""
        if not self.held:
            return None
        status, headers = self.held[0]["status"], self.held[0].get("headers", ())
        limited = status == 429
        return AttemptError(
            f"'{name}' answered {status}",
            kind=FailureKind.RATE_LIMITED if limited else FailureKind.SERVER,
            status=status,
            code="rate_limited" if limited else "upstream_error",
            type="rate_limit_error" if limited else "upstream_error",
            retry_after_s=parse_retry_after(headers, now_wall=time.time()),
        )
