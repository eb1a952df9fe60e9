"""A value that fits a JSON schema: the keywords that tool definitions and structured answers commonly use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_DEPTH = 16


def example(schema: Any, *, text: str = "simulated", root: Any = None, depth: int = 0) -> Any:
    """Return a value for a schema, strings made from `text`; what is not understood becomes a string."""
    root = schema if root is None else root
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return text
    if "$ref" in schema:
        return example(_referred(root, schema["$ref"]), text=text, root=root, depth=depth + 1)
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(key), list) and schema[key]:
            return example(schema[key][0], text=text, root=root, depth=depth + 1)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind is None:
        kind = "object" if "properties" in schema else "string"
    match kind:
        case "object":
            properties: Mapping[str, Any] = schema.get("properties") or {}
            return {name: example(part, text=text, root=root, depth=depth + 1) for name, part in properties.items()}
        case "array":
            count = max(1, _number(schema, "minItems", 1))
            return [example(schema.get("items", {}), text=text, root=root, depth=depth + 1) for _ in range(count)]
        case "integer" | "number":
            return _number(schema, "minimum", min(42, _number(schema, "maximum", 42)))
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return (text + " " * _number(schema, "minLength", 0))[: _number(schema, "maxLength", 200)]


def _number(schema: Mapping[str, Any], key: str, default: int) -> int:
    value = schema.get(key, default)
    return int(value) if isinstance(value, int | float) else default


def _referred(root: Any, reference: Any) -> Any:
    node = root
    for part in str(reference).removeprefix("#").strip("/").split("/"):
        node = node.get(part, {}) if isinstance(node, dict) else {}
    return node
