"""The bodies of requests, checked as Ollama's decoder checks them; errors are worded as Go's."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, TypeVar

from .errors import APIError
from .gotime import parse_keep_alive

T = TypeVar("T")
_GO_NAMES: dict[type, str] = {
    str: "string",
    bool: "bool",
    list: "array",
    dict: "object",
    int: "number",
    float: "number",
}


class Fields:
    """The members of a body; a missing one and null are the type's zero. Raises `APIError` (400) on a wrong type."""

    def __init__(self, body: bytes, struct: str) -> None:
        self._struct = struct
        self._members = decode_object(body, struct)

    def string(self, name: str) -> str:
        """Return a string, empty when missing."""
        return self._typed(name, str, "string") or ""

    def boolean(self, name: str, *, default: bool) -> bool:
        """Return a boolean."""
        value = self._typed(name, bool, "bool")
        return default if value is None else value

    def integer(self, name: str) -> int:
        """Return an integer, 0 when missing."""
        value = self._members.get(name)
        if isinstance(value, bool):
            raise wrong_type(value, f"{self._struct}.{name}", "int")
        return self._typed(name, int, "int") or 0

    def items(self, name: str, go_type: str) -> list[Any]:
        """Return a list, empty when missing."""
        return self._typed(name, list, go_type) or []

    def object(self, name: str) -> dict[str, Any]:
        """Return an object, empty when missing."""
        return self._typed(name, dict, "map[string]interface {}") or {}

    def any(self, name: str) -> Any:
        """Return whatever is there, None when missing."""
        return self._members.get(name)

    def _typed(self, name: str, wanted: type[T], go_type: str) -> T | None:
        value = self._members.get(name)
        if value is not None and not isinstance(value, wanted):
            raise wrong_type(value, f"{self._struct}.{name}", go_type)
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a chat."""

    role: str
    content: str
    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """What /api/chat and /api/generate have in common; `messages` of a generate request are its system and prompt."""

    model: str
    is_empty: bool
    """No messages, or an empty prompt: the request only loads, or unloads."""
    messages: tuple[Message, ...]
    stream: bool
    format: Any
    keep_alive_s: float | None
    options: dict[str, Any]
    tools: tuple[dict[str, Any], ...]
    think: bool | str | None
    shift: bool
    suffix: str
    logprobs: bool
    top_logprobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """A request for vectors; `texts` are in the order of the input."""

    model: str
    texts: tuple[str, ...]
    truncate: bool
    dimensions: int
    keep_alive_s: float | None
    options: dict[str, Any]


def parse_chat(body: bytes) -> Inference:
    """Decode the body of /api/chat."""
    fields = Fields(body, "ChatRequest")
    messages = tuple(_message(one) for one in fields.items("messages", "[]api.Message"))
    tools = fields.items("tools", "api.Tools")
    for tool in tools:
        if not isinstance(tool, dict):
            raise wrong_type(tool, "ChatRequest.tools", "api.Tool")
    return _inference(fields, messages, is_empty=not messages, tools=tuple(tools))


def parse_generate(body: bytes) -> Inference:
    """Decode the body of /api/generate."""
    fields = Fields(body, "GenerateRequest")
    images = _images(fields.items("images", "[]api.ImageData"))
    prompt = fields.string("prompt")
    messages: tuple[Message, ...] = (Message(role="user", content=prompt, images=images),)
    system = fields.string("system")
    if system:
        messages = (Message(role="system", content=system, images=0), *messages)
    return _inference(fields, messages, is_empty=not prompt)


def parse_embed(body: bytes) -> Embedding:
    """Decode the body of /api/embed; raises `APIError` (400) on token ids."""
    fields = Fields(body, "EmbedRequest")
    given = fields.any("input")
    if not isinstance(given, str | list | None):
        raise APIError(400, "invalid input type")
    texts = [] if not given else [given] if isinstance(given, str) else given
    if not all(isinstance(text, str) for text in texts):
        raise APIError(400, "invalid input type")
    return _embedding(fields, tuple(texts))


def parse_embeddings(body: bytes) -> Embedding:
    """Decode the body of the legacy /api/embeddings."""
    fields = Fields(body, "EmbeddingRequest")
    prompt = fields.string("prompt")
    return _embedding(fields, (prompt,) if prompt else ())


def decode_object(body: bytes, struct: str) -> dict[str, Any]:
    """Decode a JSON object; raises `APIError` (400)."""
    if not body.strip():
        raise APIError(400, "missing request body")
    try:
        value = json.loads(body)
    except json.JSONDecodeError as exc:
        at = exc.doc[exc.pos : exc.pos + 1]
        raise APIError(
            400, f"invalid character '{at}' looking for beginning of value" if at else "unexpected EOF"
        ) from None
    except (UnicodeDecodeError, RecursionError):
        raise APIError(400, "invalid character looking for beginning of value") from None
    if not isinstance(value, dict):
        raise APIError(400, f"json: cannot unmarshal {_go_name(value)} into Go value of type api.{struct}")
    return value


def wrong_type(value: Any, field: str, go_type: str) -> APIError:
    """Return Go's complaint about a member of the wrong type."""
    return APIError(400, f"json: cannot unmarshal {_go_name(value)} into Go struct field {field} of type {go_type}")


def _go_name(value: Any) -> str:
    return _GO_NAMES.get(type(value), "null")


def _inference(
    fields: Fields, messages: tuple[Message, ...], *, is_empty: bool, tools: tuple[dict[str, Any], ...] = ()
) -> Inference:
    top_logprobs = fields.integer("top_logprobs")
    if not 0 <= top_logprobs <= 20:
        raise APIError(400, "top_logprobs must be between 0 and 20")
    return Inference(
        model=fields.string("model"),
        is_empty=is_empty,
        messages=messages,
        stream=fields.boolean("stream", default=True),
        format=fields.any("format"),
        keep_alive_s=parse_keep_alive(fields.any("keep_alive")),
        options=fields.object("options"),
        tools=tools,
        think=_think(fields.any("think")),
        shift=fields.boolean("shift", default=True),
        suffix=fields.string("suffix"),
        logprobs=fields.boolean("logprobs", default=False),
        top_logprobs=top_logprobs,
    )


def _embedding(fields: Fields, texts: tuple[str, ...]) -> Embedding:
    return Embedding(
        model=fields.string("model"),
        texts=texts,
        truncate=fields.boolean("truncate", default=True),
        dimensions=fields.integer("dimensions"),
        keep_alive_s=parse_keep_alive(fields.any("keep_alive")),
        options=fields.object("options"),
    )


def _think(value: Any) -> bool | str | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if value in ("low", "medium", "high", "max"):
            return value
        raise APIError(400, f'invalid think value: "{value}" (must be "high", "medium", "low", "max", true, or false)')
    raise APIError(400, 'think must be a boolean or string ("high", "medium", "low", "max", true, or false)')


def _message(value: Any) -> Message:
    if not isinstance(value, dict):
        raise wrong_type(value, "ChatRequest.messages", "api.Message")
    for name in ("role", "content", "thinking", "tool_name", "tool_call_id"):
        if value.get(name) is not None and not isinstance(value[name], str):
            raise wrong_type(value[name], f"Message.messages.{name}", "string")
    for call in value.get("tool_calls") or ():
        function = call.get("function") if isinstance(call, dict) else None
        arguments = function.get("arguments") if isinstance(function, dict) else None
        if arguments is not None and not isinstance(arguments, dict):
            raise wrong_type(
                arguments,
                "ToolCallFunction.messages.tool_calls.function.arguments",
                "api.ToolCallFunctionArguments",
            )
    return Message(
        role=(value.get("role") or "").lower(),
        content=value.get("content") or "",
        images=_images(value.get("images") or []),
    )


def _images(values: Any) -> int:
    for value in values if isinstance(values, list) else [values]:
        if not isinstance(value, str):
            raise wrong_type(value, "Message.messages.images", "[]uint8")
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise APIError(400, "illegal base64 data at input byte 0") from None
    return len(values)
