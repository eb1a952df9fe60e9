"""OpenAI messages and tools as Ollama's /api/chat takes them.

Ollama's shapes: a message is `{"role", "content": string, "thinking"?, "images"?: [base64], "tool_calls"?,
"tool_name"?, "tool_call_id"?}`, a tool call `{"id"?, "function": {"name", "arguments": OBJECT}}`; a tool is OpenAI's,
without `strict`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from .decoding import JSON_ERRORS
from .ollama_fields import RequestFields

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
HARMLESS = ("annotations", "cache_control", "id", "provider_specific_fields", "reasoning_details", "thinking_blocks")
"""What clients leave in the turns they send back: notes on an answer, not part of it."""
HARMLESS_IN_PART = ("annotations", "cache_control", "prompt_cache_breakpoint")
MESSAGE_HINTS = {
    "function_call": "use 'tool_calls'",
    "audio": "send the transcript as text",
    "images": "use a content part of type 'image_url' with a data URI",
    "thinking": "use 'reasoning_content'",
    "tool_name": "use 'name'",
}
PART_HINTS = {
    "input_audio": "send a transcript as text",
    "file": "send its text",
    "video_url": "send single images as 'image_url'",
}

_any = msgspec.json.Decoder()


def translate_messages(fields: RequestFields) -> list[dict[str, Any]]:
    """Take and translate `messages`. Raises `RequestError` (400), `UnsupportedParameterError` for what has no place.

    An empty list is refused: to Ollama it means that the model is to be loaded.
    """
    messages = fields.items("messages")
    if not messages:
        raise fields.wrong("messages", "a list with at least one message")
    tool_names: dict[str, str] = {}
    return [
        _message(fields.inside(f"messages[{index}]", message), tool_names) for index, message in enumerate(messages)
    ]


def _message(fields: RequestFields, tool_names: dict[str, str]) -> dict[str, Any]:
    given = fields.string("role")
    role = ROLES.get(given or "")
    if given == "function":
        raise fields.unsupported("role", "use the role 'tool' with a 'tool_call_id'")
    if role is None:
        raise fields.wrong("role", f"one of {', '.join(ROLES)}")
    texts, images = _content(fields)
    message: dict[str, Any] = {"role": role}
    if role == "assistant":
        refusal = fields.string("refusal")
        if refusal:
            texts.append(refusal)
        _assistant(fields, message, tool_names)
    elif role == "tool":
        _tool_result(fields, message, tool_names)
    message["content"] = "\n".join(texts)
    if images:
        message["images"] = images
    fields.close(harmless=("name", *HARMLESS), hints=MESSAGE_HINTS)
    return message


def _assistant(fields: RequestFields, message: dict[str, Any], tool_names: dict[str, str]) -> None:
    thinking = [text for text in (fields.string("reasoning_content"), fields.string("reasoning")) if text]
    if thinking:  # both names mean one text
        message["thinking"] = thinking[0]
    calls = [
        _tool_call(fields.inside(f"tool_calls[{index}]", call))
        for index, call in enumerate(fields.items("tool_calls") or ())
    ]
    if calls:
        message["tool_calls"] = calls
        tool_names.update({call["id"]: call["function"]["name"] for call in calls if "id" in call})


def _tool_result(fields: RequestFields, message: dict[str, Any], tool_names: dict[str, str]) -> None:
    call_id = fields.string("tool_call_id")
    name = fields.string("name") or tool_names.get(call_id or "")
    if call_id:
        message["tool_call_id"] = call_id
    if name:
        message["tool_name"] = name


def _tool_call(fields: RequestFields) -> dict[str, Any]:
    _only_functions(fields)
    call: dict[str, Any] = {}
    call_id = fields.string("id")
    if call_id:
        call["id"] = call_id
    function = fields.inside("function", fields.take("function"))
    name = function.string("name")
    if not name:
        raise function.wrong("name", "the name of a function")
    call["function"] = {"name": name, "arguments": _arguments(function)}
    function.close()
    fields.close(harmless=("index", *HARMLESS))
    return call


def _arguments(function: RequestFields) -> dict[str, Any]:
    given = function.take("arguments")
    if given is None or given == "":
        return {}
    if isinstance(given, str):
        try:
            given = _any.decode(given)
        except JSON_ERRORS as exc:
            raise function.wrong("arguments", f"a string that holds a JSON object: {exc}") from None
    if not isinstance(given, dict):
        raise function.wrong("arguments", "a string that holds a JSON object")
    return given


def _content(fields: RequestFields) -> tuple[list[str], list[str]]:
    """Take the content: its texts in order, and its images as bare base64."""
    content = fields.take("content")
    if content is None:
        return [], []
    if isinstance(content, str):
        return [content], []
    if not isinstance(content, list):
        raise fields.wrong("content", "a string or a list of parts")
    texts: list[str] = []
    images: list[str] = []
    for index, value in enumerate(content):
        part = fields.inside(f"content[{index}]", value)
        kind = part.string("type")
        if kind in ("text", "refusal"):
            text = part.string(kind)
            if text is None:
                raise part.wrong(kind, "a string")
            texts.append(text)
        elif kind == "image_url":
            images.append(_image(part))
        elif kind is None:
            raise part.wrong("type", "'text' or 'image_url'")
        else:
            raise part.unsupported("type", PART_HINTS.get(kind, "send 'text' or 'image_url' parts"))
        part.close(harmless=HARMLESS_IN_PART)
    return texts, images


def _image(part: RequestFields) -> str:
    given = part.take("image_url")
    if isinstance(given, str):
        given = {"url": given}
    image = part.inside("image_url", given)
    url = image.string("url")
    if url is None:
        raise image.wrong("url", "a data URI with base64")
    head, comma, data = url.partition(",")
    head = head.lower()
    if not head.startswith("data:"):
        raise image.unsupported("url", "images are not fetched; send a data URI, data:image/png;base64,...")
    if not (comma and data and head.endswith(";base64") and head.startswith(("data:image/", "data:;"))):
        raise image.wrong("url", "a data URI with base64, data:image/png;base64,...")
    image.close(harmless=("detail", "format"))
    return data


def translate_tools(fields: RequestFields) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Take and translate `tools`, with `tool_choice` and `parallel_tool_calls`, which Ollama does not know.

    Returns the tools to send and the names of which the answer must call one; none: it may do without.
    `tool_choice: "none"` means that no tools are sent, a named one that only this is sent and must be called.
    """
    tools = [_tool(fields.inside(f"tools[{index}]", tool)) for index, tool in enumerate(fields.items("tools") or ())]
    choice = fields.take("tool_choice")
    must_call: tuple[str, ...] = ()
    if choice not in (None, "auto", "none"):
        tools = _chosen(fields, choice, tools)
        must_call = tuple(tool["function"]["name"] for tool in tools)
    parallel = fields.boolean("parallel_tool_calls")
    if parallel is False and tools and choice != "none":
        raise fields.unsupported("parallel_tool_calls", "a model calls as many tools as it likes; leave it out")
    if parallel is not None:
        fields.note("parallel_tool_calls")
    return ([] if choice == "none" else tools), must_call


def _chosen(fields: RequestFields, choice: Any, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the tools of which one must be called."""
    if not isinstance(choice, str | dict):
        raise fields.wrong("tool_choice", "a string or an object")
    if isinstance(choice, str):
        if choice != "required":
            raise fields.wrong("tool_choice", "'none', 'auto', 'required' or a function")
        chosen = tools
    else:
        named = fields.inside("tool_choice", choice)
        _only_functions(named)
        function = named.inside("function", named.take("function"))
        name = function.string("name")
        if not name:
            raise function.wrong("name", "the name of a function")
        function.close()
        named.close()
        chosen = [tool for tool in tools if tool["function"]["name"] == name]
    if not chosen:
        raise fields.wrong("tool_choice", "given together with the tools it means")
    return chosen


def _tool(fields: RequestFields) -> dict[str, Any]:
    _only_functions(fields)
    function = fields.inside("function", fields.take("function"))
    name = function.string("name")
    if not name:
        raise function.wrong("name", "the name of a function")
    translated: dict[str, Any] = {"name": name}
    description = function.string("description")
    if description is not None:
        translated["description"] = description
    parameters = function.mapping("parameters")
    if parameters is not None:
        translated["parameters"] = parameters
    function.close(harmless=("strict",))
    fields.close(harmless=("strict", "cache_control"))
    return {"type": "function", "function": translated}


def _only_functions(fields: RequestFields) -> None:
    kind = fields.string("type")
    if kind not in (None, "function"):
        raise fields.unsupported("type", "only the type 'function' is known")
