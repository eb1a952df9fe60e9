"""Anthropic's endpoint for OpenAI's clients. What it would take in silence and ignore is refused, or listed."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from ..deployment import ModelInfo
from ..transport.http import HTTPRequest
from ..types import Headers
from ..wire.call import Call
from .openai_compat import OpenAICompatBackend, model_info

MAX_TEMPERATURE = 1
"""Above it is capped there."""
MAX_PAGES = 50
"""A list that goes on beyond this goes round in circles."""

_DROPPED_PARTS = frozenset({"input_audio", "file"})


class AnthropicBackend(OpenAICompatBackend):
    """Chat at Anthropic's OpenAI-compatible endpoint: a bearer's key there, `x-api-key` at the list of models."""

    type = "anthropic"

    def auth_headers(self, secret: str) -> Headers:
        """Headers that carry a key, in both forms; `request` keeps the one that the path takes."""
        return [*super().auth_headers(secret), (b"x-api-key", secret.encode())]

    def request(self, *args: Any, **kwargs: Any) -> HTTPRequest:
        """Build a request with the key in the form that its path takes."""
        request = super().request(*args, **kwargs)
        listing = request.url.startswith(self.url_of("/models"))
        other = b"authorization" if listing else b"x-api-key"
        return msgspec.structs.replace(request, headers=[pair for pair in request.headers if pair[0] != other])

    def ignored_fields(self, call: Call) -> tuple[str, ...]:
        """Name the fields without effect, parts of tools and messages too; refuse what would be capped or dropped."""
        ignored = super().ignored_fields(call)
        self._check_sampling(call)
        return (*ignored, *self._inside_tools(call), *self._inside_messages(call))

    def _check_sampling(self, call: Call) -> None:
        temperature = call.value("temperature")
        if isinstance(temperature, int | float) and temperature > MAX_TEMPERATURE:
            raise self.unsupported("temperature", f"it is capped at {MAX_TEMPERATURE} there; send no more than that")
        stop = call.value("stop")
        if any(isinstance(one, str) and one and one.isspace() for one in (stop if isinstance(stop, list) else [stop])):
            raise self.unsupported("stop", "a sequence of blanks alone is dropped there")

    def _inside_tools(self, call: Call) -> tuple[str, ...]:
        raw = call.fields.get("tools")
        if raw is None or b'"strict"' not in bytes(raw):
            return ()
        tools = call.value("tools")
        functions = [t.get("function") for t in tools if isinstance(t, dict)] if isinstance(tools, list) else []
        strict = any(isinstance(f, dict) and f.get("strict") is not None for f in functions)
        return ("tools.function.strict",) if strict else ()

    def _inside_messages(self, call: Call) -> tuple[str, ...]:
        """Look at what messages hold beside text and images, where their bytes say that there may be such."""
        body = bytes(call.fields.get("messages", b""))
        if not any(mark in body for mark in (b'"input_audio"', b'"file"', b'"name"')):
            return ()
        named = False
        for number, message in enumerate(call.value("messages") or ()):
            if not isinstance(message, dict):
                continue
            named = named or message.get("name") is not None
            content = message.get("content")
            for part in content if isinstance(content, list) else ():
                kind = part.get("type") if isinstance(part, dict) else None
                if isinstance(kind, str) and kind in _DROPPED_PARTS:
                    raise self.unsupported(f"messages[{number}].content", f"a part of type '{kind}' is dropped there")
        return ("messages.name",) if named else ()

    async def list_models(self) -> tuple[ModelInfo, ...]:
        """Read `/models`, page by page."""
        found: list[ModelInfo] = []
        path = "/models?limit=1000"
        for _ in range(MAX_PAGES):
            page = await self.call_json("GET", path)
            found += [model_info(entry, self.capabilities) for entry in self.entries(page, path)]
            last = page.get("last_id") if isinstance(page, dict) and page.get("has_more") else None
            if not isinstance(last, str) or not last:
                break
            path = f"/models?limit=1000&after_id={quote(last, safe='')}"
        return tuple(found)
