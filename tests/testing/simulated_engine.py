"""What the tests of the simulated Ollama share."""

from __future__ import annotations

import json
from typing import Any

from smartrouter_asgi.testing.ollama import GIB, SimulatedModel


def plain(name: str, gib: float, **settings: Any) -> SimulatedModel:
    """A model whose footprint is its size, to the byte."""
    return SimulatedModel(name, int(gib * GIB), **{"kv_bytes": 0, "overhead_bytes": 0, "load_s": 1.0, **settings})


def ask(model: str, text: str = "hello there", **fields: Any) -> dict[str, Any]:
    """The body of a chat request that is not streamed."""
    return {"model": model, "stream": False, "messages": [{"role": "user", "content": text}], **fields}


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]
