"""Answers on their way to the server: noted where the outermost of ours sends them, and written by who makes them."""

from __future__ import annotations

from collections.abc import Awaitable

from .state import RequestState
from .types import Headers, Message, Send


class Answer:
    """How an answer is written when a `send` is all there is: three messages of ASGI's."""

    __slots__ = ("_send",)

    def __init__(self, send: Send) -> None:
        self._send = send

    def start(self, status: int, headers: Headers) -> Awaitable[None]:
        """Send status and headers; the list of headers may be added to."""
        return self._send({"type": "http.response.start", "status": status, "headers": headers})

    def more(self, data: bytes) -> Awaitable[None]:
        """Send a part of the body, after which another one comes."""
        return self._send({"type": "http.response.body", "body": data, "more_body": True})

    def last(self, data: bytes) -> Awaitable[None]:
        """Send the last part of the body."""
        return self._send({"type": "http.response.body", "body": data, "more_body": False})


class TrackedSend(Answer):
    """The `send` that the outermost of ours gives to what is inside: it notes the commit and the end in the state.

    Whoever makes an answer and got this very object may write it as an `Answer`: what would be found out from messages
    is then known. `request_id` becomes the answer's header, whatever the app says of it; None leaves that to the app.
    """

    __slots__ = ("_id_header", "_state")

    def __init__(self, send: Send, state: RequestState, *, request_id: str | None) -> None:
        self._send = send
        self._state = state
        self._id_header = None if request_id is None else (b"x-request-id", request_id.encode("ascii"))

    async def __call__(self, message: Message) -> None:
        """Send a message of an app's."""
        kind = message["type"]
        if kind == "http.response.body":
            if not message.get("more_body", False):
                self._state.complete = True
        elif kind == "http.response.start":
            self._state.status = message["status"]
            if self._id_header is not None:
                headers = [pair for pair in message.get("headers", ()) if pair[0] != b"x-request-id"]
                message = {**message, "headers": [*headers, self._id_header]}
        await self._send(message)

    def start(self, status: int, headers: Headers) -> Awaitable[None]:
        """Send status and headers, which do not have the request's id."""
        self._state.status = status
        if self._id_header is not None:
            headers.append(self._id_header)
        return self._send({"type": "http.response.start", "status": status, "headers": headers})

    def last(self, data: bytes) -> Awaitable[None]:
        """Send the last part of the body."""
        self._state.complete = True
        return self._send({"type": "http.response.body", "body": data, "more_body": False})


def answer_of(send: Send) -> Answer:
    """Return how to write an answer with a `send`."""
    return send if isinstance(send, TrackedSend) else Answer(send)
