"""What a request needs of a model, and why a model cannot serve it. Pure; fields are decoded only where it matters."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from ..deployment import Capabilities
from ..exceptions import RequestError, UnsupportedParameterError
from ..wire.call import Call

CHARACTERS_PER_TOKEN = 16
"""More than tokenizers make of text, long runs of blanks included: what is too long by this measure is so by any."""

_PROMPTS = {"chat": "messages", "completions": "prompt"}
_NOTHING = (b"null", b"[]", b"{}", b'""')
_OPERATIONS = {"chat": "does not chat", "completions": "completes no text", "embeddings": "makes no embeddings"}


class Needs:
    """What one call needs. Each member is found out when it is first asked for, and then kept."""

    def __init__(self, call: Call) -> None:
        self._call = call

    @cached_property
    def tools(self) -> bool:
        """Tools that the model may call."""
        return self._is_given("tools") and bytes(self._call.fields.get("tool_choice", b"")) != b'"none"'

    @cached_property
    def vision(self) -> bool:
        """Images among the messages."""
        raw = self._call.fields.get("messages")
        if raw is None or b"image" not in bytes(raw):
            return False
        return any(part.get("type") == "image_url" for message in self._messages for part in _parts(message))

    @cached_property
    def json_schema(self) -> bool:
        """An answer that follows a schema."""
        if not self._is_given("response_format"):
            return False
        wanted = self._call.value("response_format")
        return isinstance(wanted, dict) and wanted.get("type") == "json_schema"

    @cached_property
    def insert(self) -> bool:
        """Text between a prompt and a suffix."""
        return self._is_given("suffix")

    def exceeds(self, context_length: int) -> bool:
        """Tell whether the prompt is clearly longer than a context; a short one is told by its bytes alone."""
        name = _PROMPTS.get(self._call.operation)
        raw = self._call.fields.get(name) if name is not None else None  # an engine may cut what it embeds
        if raw is None or memoryview(raw).nbytes <= context_length * CHARACTERS_PER_TOKEN:
            return False
        return self._characters > context_length * CHARACTERS_PER_TOKEN

    def refusal(self, can: Capabilities, *, by: str) -> RequestError | None:
        """Say why a model that can do so much cannot serve the call (400); None when it can. `by` names it."""
        call = self._call
        if not getattr(can, call.operation):
            return UnsupportedParameterError(f"'{by}' {_OPERATIONS[call.operation]}: use another model", param="model")
        if call.operation == "chat":
            if not can.tools and self.tools:
                return UnsupportedParameterError(f"'tools' is not supported: '{by}' calls no tools", param="tools")
            if not can.vision and self.vision:
                return UnsupportedParameterError(
                    f"'messages' with images are not supported: '{by}' sees none", param="messages"
                )
            if not can.json_schema and self.json_schema:
                return UnsupportedParameterError(
                    f"'response_format' of type 'json_schema' is not supported: '{by}' follows no schema",
                    param="response_format",
                )
        elif call.operation == "completions" and not can.insert and self.insert:
            return UnsupportedParameterError(f"'suffix' is not supported: '{by}' inserts no text", param="suffix")
        if can.context_length is not None and self.exceeds(can.context_length):
            return RequestError(
                f"the prompt is too long: '{by}' takes {can.context_length} tokens, prompt and answer together",
                code="context_length_exceeded",
                param=_PROMPTS[call.operation],
            )
        return None

    @cached_property
    def _messages(self) -> list[dict[str, Any]]:
        return [message for message in self._call.value("messages") if isinstance(message, dict)]

    @cached_property
    def _characters(self) -> int:
        if self._call.operation == "chat":
            return sum(map(_length, self._messages))
        prompt = self._call.value("prompt")
        if isinstance(prompt, list):  # several prompts are answered each for itself
            return max((len(text) for text in prompt if isinstance(text, str)), default=0)
        return len(prompt) if isinstance(prompt, str) else 0

    def _is_given(self, name: str) -> bool:
        raw = self._call.fields.get(name)
        return raw is not None and bytes(memoryview(raw)[:32]).translate(None, b" \t\r\n") not in _NOTHING


def needs(call: Call) -> Needs:
    """Return what a call needs; costs nothing until something is asked of it."""
    return Needs(call)


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def _length(message: dict[str, Any]) -> int:
    """Count the characters of a message's text; an image's are none."""
    content = message.get("content")
    if isinstance(content, str):
        return len(content)
    return sum(len(text) for part in _parts(message) if isinstance(text := part.get("text"), str))
