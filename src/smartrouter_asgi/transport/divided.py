"""Two transports as one: clients' requests go one way, the gateway's own the other."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from .http import HTTPAnswer, HTTPRequest, Transport


class DividedTransport:
    """Sends each request over `data`, or over the transport that `make_control` returns if it is a control call.

    The second is made when it is first needed. See `Transport`. `cancels_natively` is said of the requests of clients;
    control calls are cancelled by anyio's scopes.
    """

    def __init__(self, data: Transport, make_control: Callable[[], Transport]) -> None:
        self.data = data
        self.control: Transport | None = None
        """None until the first control call."""
        self._make_control = make_control
        self.cancels_natively = bool(getattr(data, "cancels_natively", False))

    def open(self, request: HTTPRequest) -> Coroutine[Any, Any, HTTPAnswer]:
        """Send a request and wait for the head of its answer; see `Transport.open`."""
        if not request.control:
            return self.data.open(request)
        if self.control is None:
            self.control = self._make_control()
        return self.control.open(request)

    async def aclose(self) -> None:
        """Close the connections of both; they can be used again afterwards."""
        try:
            await self.data.aclose()
        finally:
            if self.control is not None:
                await self.control.aclose()
