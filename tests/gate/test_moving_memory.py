"""The story of `tests/gpu/test_gpu_gate.py`, on a card that exists here only."""

from __future__ import annotations

from smartrouter_asgi.testing.ollama import GIB

from ..harness.cards import Card, CardProbe
from ..harness.moving_memory import memory_moves


async def test_memory_that_moves_is_followed():
    card = Card(total_bytes=24 * GIB)
    card.take("a desktop", GIB)
    told = await memory_moves(CardProbe(card), card.uuid, card, step_bytes=2 * GIB)
    assert next(row["step"] for row in told) == "idle"
    for row in told:
        assert row["ledger_used_bytes"] + row["ledger_outside_bytes"] == row["driver_used_bytes"]
