"""Answers of engines, as the load client keeps them."""

from __future__ import annotations

import json
from typing import Any

from smartrouter_asgi.bench.client import Answer, Target

OPENAI = Target(url="http://engine/v1/chat/completions", headers=[], model="m", secret="sk-secret-word")
OLLAMA = Target(url="http://engine/api/chat", headers=[], model="m", dialect="ollama")


def answer(*parts: tuple[float, bytes], status: int = 200, sent_at: float = 10.0, ended_at: float = 20.0) -> Answer:
    return Answer(status=status, sent_at=sent_at, ended_at=ended_at, parts=parts)


def line(**told: Any) -> bytes:
    return json.dumps(told).encode() + b"\n"
