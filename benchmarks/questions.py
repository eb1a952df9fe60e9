"""The questions that `python -m benchmarks` asks, in the order in which it does."""

from __future__ import annotations

from . import body_size, gate_operations, layers, memory, open_loop, overhead, scale, startup, streaming, translation
from .question import Question

QUESTIONS: tuple[Question, ...] = (
    overhead.QUESTION,
    streaming.QUESTION,
    layers.QUESTION,
    scale.QUESTION,
    open_loop.QUESTION,
    memory.QUESTION,
    startup.QUESTION,
    body_size.QUESTION,
    translation.QUESTION,
    gate_operations.QUESTION,
)
