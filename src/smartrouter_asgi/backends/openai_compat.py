"""Any server with an OpenAI-compatible API: requests and answers pass as the bytes they are."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..deployment import Capabilities, Deployment, ModelInfo
from ..exceptions import AttemptError, FailureKind
from ..wire.call import OPERATION_PATHS, Call
from ..wire.openai import OpenAIStreamCodec, read_plain
from .base import PlainAnswer
from .http import LIST_TIMEOUT_S, Exchange, HTTPBackend

PATHS = {operation: path for path, operation in OPERATION_PATHS.items()}


class OpenAICompatBackend(HTTPBackend):
    """Passes OpenAI-shaped traffic through: only the model's name is replaced, every other value stays its bytes.

    The base URL ends where `/chat/completions` begins, so it usually ends in `/v1`.
    """

    type = "openai"
    capabilities = Capabilities()

    def prepare(self, call: Call, deployment: Deployment) -> Exchange:
        """Replace the model's name and nothing else."""
        return Exchange(
            path=PATHS[call.operation],
            body=call.with_model(deployment.model),
            decode=self._decode,
            codec=partial(OpenAIStreamCodec, self.name, choices=_choices(call)),
        )

    async def list_models(self) -> tuple[ModelInfo, ...]:
        """Read `/models`: `{"data": [...]}` or a bare list of objects with an `id`."""
        listed = await self.call_json("GET", "/models", timeout_s=LIST_TIMEOUT_S)
        entries: Any = listed.get("data") if isinstance(listed, dict) else listed
        if not isinstance(entries, list):
            raise AttemptError(
                f"backend '{self.name}' lists no models: /models holds neither a list nor 'data'",
                kind=FailureKind.PROTOCOL,
                code="upstream_protocol",
            )
        return tuple(
            ModelInfo(
                id=entry["id"],
                created=created if isinstance(created := entry.get("created"), int) else 0,
                owned_by=owner if isinstance(owner := entry.get("owned_by"), str) else "",
            )
            for entry in entries
            if isinstance(entry, dict) and isinstance(entry.get("id"), str) and entry["id"]
        )

    def _decode(self, body: bytes) -> PlainAnswer:
        return PlainAnswer(body=body, usage=read_plain(self.name, body))


def _choices(call: Call) -> int:
    """Return how many answers were asked for; what is no number is the engine's to refuse."""
    n = call.value("n") if "n" in call.fields else 1
    return n if isinstance(n, int) and n > 0 else 1
