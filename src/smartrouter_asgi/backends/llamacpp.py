"""llama.cpp's own server: OpenAI-compatible under /v1, with health and slots beside it."""

from __future__ import annotations

from ..deployment import Capabilities
from ..exceptions import AttemptError, FailureKind
from ..transport.http import Transport
from .base import BackendSpec
from .openai_compat import OpenAICompatBackend


class LlamaCppBackend(OpenAICompatBackend):
    """One llama-server with one model. `url` may end in `/v1` or not.

    While it loads, every path answers 503: `ping` says so, and requests retry. `is_idle` reads `/slots`.
    """

    type = "llama.cpp"
    capabilities = Capabilities(can_report_idle=True)

    def __init__(self, spec: BackendSpec, transport: Transport) -> None:
        super().__init__(spec, transport)
        self._root = spec.url.removesuffix("/v1")

    def url_of(self, path: str) -> str:
        """Return the full URL: `/health` and `/slots` live beside `/v1`, all else under it."""
        return self._root + path if path in ("/health", "/slots") else f"{self._root}/v1{path}"

    async def ping(self) -> None:
        """Raise `AttemptError` while it loads its model or does not answer."""
        await self.call_json("GET", "/health")

    async def is_idle(self, model: str) -> bool | None:
        """Tell from `/slots` whether no slot is processing; None when the server hides them."""
        try:
            slots = await self.call_json("GET", "/slots", timeout_s=1.0)
        except AttemptError as exc:
            if exc.kind is FailureKind.CONNECT:
                return True  # no server, nothing at work
            return None
        if not isinstance(slots, list):
            return None
        return not any(isinstance(slot, dict) and slot.get("is_processing") for slot in slots)
