"""The outermost layer: errors become answers."""

from __future__ import annotations

from .._asgi import with_envelope
from ..events import Observer
from ..types import ASGIApp, Receive, Scope, Send
from ..wire.errors import ErrorEncoder, openai_envelope


class ErrorEnvelopeMiddleware:
    """Renders errors as JSON in the shape of the API surface, gives every answer an `x-request-id`, tells the observer.

    An error after the answer has begun passes on: it cannot be rendered any more.
    """

    def __init__(
        self, app: ASGIApp, *, encoder: ErrorEncoder = openai_envelope, observer: Observer | None = None
    ) -> None:
        self.app = app
        self._encoder = encoder
        self._observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await with_envelope(
            self.app, scope, receive, send, encoder=self._encoder, observer=self._observer, catch_all=True
        )
