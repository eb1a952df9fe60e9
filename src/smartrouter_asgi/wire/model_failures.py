"""What engines say when one model fails and the server is well, each told by how its text begins.

Engines quote requests in their errors, as a JSON parser does that shows where it stopped. So no text counts but from
its first word on: what a client wrote stands further back, or in quotes.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

ModelFailure: TypeAlias = Literal["vram_exhausted", "model_load_failed", "model_failed"]
"""The code it becomes: no memory for it, it does not start, or it fails for a request, perhaps for that one only."""

_FORWARDED = (
    r"\s*(?:(?:error|unspecific error|unable to start process|failed to load model with internal loader"
    r"|llama_model_load\w*|rpc error: code = \w+ desc =): )*"
)
"""What servers put before the words of the part that failed."""

_NOT_LOADED = re.compile(
    _FORWARDED + r"(?:"
    r"(?:llama runner|llama-server) process has terminated"  # Ollama
    r"|timed out waiting for (?:llama runner|llama-server) to start"  # Ollama
    r"|failed to start (?:llama runner|llama-server)"  # Ollama
    r"|(?:failed|failure|unable) to load (?:the )?model|(?:error|exception) loading (?:the )?model"  # Ollama, LM Studio
    r"|could not load model"  # LocalAI
    r"|model name=\S{1,200} failed to load"  # llama.cpp's router
    r"|upstream command exited prematurely"  # llama-swap
    r")",
    re.IGNORECASE,
)
_FAILED = re.compile(
    _FORWARDED + r"(?:"
    r"model runner has unexpectedly stopped|an error was encountered while running the model"  # Ollama
    r"|llama runner process no longer running"  # Ollama
    r"|template: \S{0,200}:\d+:\d+: executing "  # Go's templates, in Ollama
    r"|jinja exception: |unable to generate parser for this template"  # llama.cpp
    r"|-{3,}\s+while executing \w+ at line \d+, column \d+ in source"  # llama.cpp
    r"|[^'\"`\n]{1,80} at row \d+, column \d+:\n"  # llama.cpp until 2025
    r"|this custom template is not supported|tools param requires --jinja"  # llama.cpp without its flag
    r"|(?:jinja2\.)?(?:exceptions\.)?(?:Template|TemplateSyntax|Undefined)Error\b"  # vLLM, SGLang
    r"|(?:this model|\S{1,200}) does not support (?:tools|thinking|chat|generate|completions?|embeddings?|insert)\b"
    r")",
    re.IGNORECASE,
)
_NO_MEMORY = r"out of memory|cudamalloc failed|failed to allocate|insufficient memory|requires more (?:system )?memory"
_MEMORY = re.compile(_NO_MEMORY, re.IGNORECASE)
_MEMORY_UNQUOTED = re.compile(rf"(?:[^'\"`]|(?<=\w)'(?=\w)){{0,400}}?\b(?:{_NO_MEMORY})", re.IGNORECASE)
"""Before any quote; an apostrophe is none."""


def read_model_failure(message: str) -> ModelFailure | None:
    """Say what an engine's text tells of a model; None when it is about something else."""
    if _NOT_LOADED.match(message):  # what the engine itself says after that is its own
        return "vram_exhausted" if _MEMORY.search(message) else "model_load_failed"
    if _MEMORY_UNQUOTED.match(message):
        return "vram_exhausted"
    return "model_failed" if _FAILED.match(message) else None
