"""The canonical request: OpenAI JSON decoded one level deep, its values still the bytes that came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from ..exceptions import InvalidJSONError, RequestError
from ..types import Operation

_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_any_decoder = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder()

_QUOTE, _T, _F, _N = b'"tfn'  # a valid JSON value is told by its first byte


@dataclass(slots=True, kw_only=True, eq=False, weakref_slot=True)
class Call:
    """One inference request. `fields` are the body's members, each value raw JSON, a duplicated key already settled.

    A `Call` is shared by all attempts of a request: backends read it and never change it.
    """

    operation: Operation
    model: str
    """The name the client asked for."""
    fields: dict[str, msgspec.Raw]
    stream: bool = False

    @property
    def breaker_operation(self) -> str:
        """The breaker this call counts for: setting up a stream is an operation of its own."""
        return "stream" if self.stream else self.operation

    def value(self, name: str) -> Any:
        """Decode one field fully; None when it is absent or null."""
        raw = self.fields.get(name)
        return None if raw is None else decode_value(raw, name)

    def with_model(self, model: str, extra: dict[str, Any] | None = None) -> bytes:
        """Encode the body again with another model name; every other value stays the bytes that came.

        `extra` members (plain values) are added or replaced, for engines that need one more field.
        """
        body: dict[str, Any] = {**self.fields, "model": model}
        if extra:
            body.update(extra)
        return _encoder.encode(body)


OPERATION_PATHS: dict[str, Operation] = {
    "/chat/completions": "chat",
    "/completions": "completions",
    "/embeddings": "embeddings",
}
"""Where OpenAI's API has each operation, below its version."""

REQUIRED: dict[Operation, tuple[str, bytes, str]] = {
    "chat": ("messages", b"[", "a list of messages"),
    "completions": ("prompt", b'"[', "a string or a list"),
    "embeddings": ("input", b'"[', "a string or a list"),
}


def parse_call(operation: Operation, body: bytes) -> Call:
    """Decode a request body one level deep and check the few fields the layers need.

    Raises `InvalidJSONError` or `RequestError` (400), naming the field.
    """
    fields = decode_fields(body)
    model = _string(fields, "model")
    if model is None:
        raise RequestError("'model' is missing: name the model to use, GET /v1/models lists them", param="model")
    if not model:
        raise RequestError("'model' is empty: name the model to use, GET /v1/models lists them", param="model")
    name, starts, wanted = REQUIRED[operation]
    raw = fields.get(name)
    if raw is None:
        raise RequestError(f"'{name}' is missing: it must be {wanted}", param=name)
    if memoryview(raw)[0] not in starts:
        raise RequestError(f"'{name}' must be {wanted}", param=name)
    stream = operation != "embeddings" and _boolean(fields, "stream")
    return Call(operation=operation, model=model, fields=fields, stream=stream)


def decode_fields(body: bytes) -> dict[str, msgspec.Raw]:
    """Decode a JSON object one level deep. Raises `InvalidJSONError` (400)."""
    if not body:
        raise InvalidJSONError("the body is empty: send a JSON object")
    try:
        if not body.isascii():
            body.decode()  # what lies in strings is not looked at below, and must not break anybody's decoder later
        return _fields_decoder.decode(body)
    except msgspec.ValidationError:
        raise InvalidJSONError("the body must be a JSON object") from None
    except UnicodeDecodeError as exc:
        raise InvalidJSONError(f"the body is not UTF-8: byte {exc.start} does not belong there") from None
    except msgspec.DecodeError as exc:
        raise InvalidJSONError(f"the body is not valid JSON: {exc}") from None
    except RecursionError:
        raise InvalidJSONError("the body is nested too deeply") from None


def decode_value(raw: msgspec.Raw, name: str) -> Any:
    """Decode one raw value fully. Raises `InvalidJSONError` (400) naming the field."""
    try:
        return _any_decoder.decode(raw)
    except msgspec.DecodeError as exc:
        raise InvalidJSONError(f"'{name}' is not valid JSON: {exc}", param=name) from None
    except RecursionError:
        raise InvalidJSONError(f"'{name}' is nested too deeply", param=name) from None


def _string(fields: dict[str, msgspec.Raw], name: str) -> str | None:
    raw = fields.get(name)
    if raw is None or memoryview(raw)[0] == _N:
        return None
    value = decode_value(raw, name) if memoryview(raw)[0] == _QUOTE else None
    if not isinstance(value, str):
        raise RequestError(f"'{name}' must be a string", param=name)
    return value


def _boolean(fields: dict[str, msgspec.Raw], name: str) -> bool:
    raw = fields.get(name)
    if raw is None:
        return False
    first = memoryview(raw)[0]
    if first == _T:
        return True
    if first in (_F, _N):
        return False
    raise RequestError(f"'{name}' must be true or false", param=name)
