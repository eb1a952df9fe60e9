"""An OpenAI request as Ollama's native API takes it: chat to /api/chat, completions to /api/generate, embeddings.

Native, because only there a gateway can say how long a model stays loaded and how large its context is, and hears of
errors in the middle of a stream. Every field of a request is translated, refused by name (400), or listed as ignored
when it has no effect on the answer; the tables below and the order of the code are the whole of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from ..exceptions import RequestError
from .call import Call
from .ollama_fields import RequestFields
from .ollama_messages import translate_messages, translate_tools
from .ollama_options import Residency, take_options, take_think

HARMLESS = (
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prediction"),
    *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "stream_options"),
)
"""Fields that serve accounts, caches and speed, never the answer."""

HINTS = {
    "audio": "it has no audio output; leave it out",
    "functions": "use 'tools'",
    "function_call": "use 'tool_choice'",
    "web_search_options": "it searches nothing; leave it out",
    "moderation": "it moderates nothing; leave it out",
    "keep_alive": "the gateway says how long a model stays loaded: set it on the backend",
    "num_ctx": "the gateway pins the context size, for a change reloads the model: set it on the backend",
    "options": "put temperature, top_p, top_k and the like at the top level",
    "num_predict": "use 'max_completion_tokens'",
    "think": "use 'reasoning_effort'",
    "reasoning": "use 'reasoning_effort'",
    "thinking": "use 'reasoning_effort'",
    "format": "use 'response_format'",
    "images": "use a content part of type 'image_url' with a data URI",
}
"""What would be right instead of a field that is refused."""

_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaRequest:
    """A request in Ollama's language, and what is needed to read its answer."""

    path: str
    body: bytes = field(repr=False)
    ignored: tuple[str, ...] = ()
    include_usage: bool = False
    """The client wants a usage chunk at the end of its stream."""
    inputs: int = 0
    """How many texts are to be embedded."""
    base64: bool = False
    """The client wants vectors as base64."""
    must_call: tuple[str, ...] = ()
    """Tools of which the answer must call one, or it is none."""


def translate_request(call: Call, *, model: str, residency: Residency, can_think: bool | None = None) -> OllamaRequest:
    """Write a call for Ollama. `can_think` says whether the model has the capability, None when that is not known.

    Raises `RequestError` for a field of the wrong type and `UnsupportedParameterError` for one that Ollama cannot
    honour (both 400, `param` names it).
    """
    fields = RequestFields({name: call.value(name) for name in call.fields if name != "model"})
    stream = fields.boolean("stream")
    if call.operation == "embeddings":
        if stream:
            raise fields.unsupported("stream", "embeddings come in one piece; leave it out")
        return _embeddings(fields, model, residency)
    include_usage = _stream_options(fields, stream=call.stream)
    body: dict[str, Any] = {"model": model, "stream": call.stream}
    must_call: tuple[str, ...] = ()
    if call.operation == "chat":
        path = "/api/chat"
        body["messages"] = translate_messages(fields)
        tools, must_call = translate_tools(fields)
        if tools:
            body["tools"] = tools
        body.update(_chat(fields))
    else:
        path = "/api/generate"
        body.update(_completion(fields))
    think = take_think(fields, can_think)
    if think is not None:
        body["think"] = think
    body.update(residency.members(take_options(fields)))
    fields.expect("n", fields.integer("n", low=1), 1, "it gives one answer; ask once for each")
    fields.expect("logit_bias", fields.mapping("logit_bias"), {}, "it cannot bias tokens; leave it out")
    fields.close(harmless=HARMLESS, hints=HINTS)
    return OllamaRequest(
        path=path,
        body=_encoded(body),
        ignored=tuple(fields.ignored),
        include_usage=include_usage,
        must_call=must_call,
    )


def _chat(fields: RequestFields) -> dict[str, Any]:
    body: dict[str, Any] = {}
    shape = _format(fields)
    if shape is not None:
        body["format"] = shape
    wanted = fields.boolean("logprobs")
    top = fields.integer("top_logprobs", low=0, high=20)
    if top and not wanted:
        raise fields.wrong("top_logprobs", "given together with 'logprobs': true")
    if wanted:
        body.update(_logprobs(top))
    fields.expect("modalities", fields.items("modalities"), ["text"], "it answers in text only; leave it out")
    verbosity = fields.string("verbosity")
    fields.expect("verbosity", verbosity, "medium", "ask for a short or long answer in a message")
    return body


def _completion(fields: RequestFields) -> dict[str, Any]:
    prompt = fields.take("prompt")
    if isinstance(prompt, list):
        if len(prompt) != 1 or not isinstance(prompt[0], str):
            raise fields.unsupported("prompt", "send one string; several prompts or token ids are not taken")
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise fields.wrong("prompt", "a string")
    if not prompt:
        raise fields.unsupported("prompt", "an empty one only loads the model; send some text")
    body: dict[str, Any] = {"prompt": prompt}
    suffix = fields.string("suffix")
    if suffix:
        body["suffix"] = suffix
    top = fields.integer("logprobs", low=0, high=20)
    if top is not None:
        body.update(_logprobs(top))
    if fields.boolean("echo"):
        raise fields.unsupported("echo", "it does not repeat the prompt; leave it out")
    fields.expect("best_of", fields.integer("best_of", low=1), 1, "it gives one answer; leave it out")
    return body


def _embeddings(fields: RequestFields, model: str, residency: Residency) -> OllamaRequest:
    given = fields.take("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or given == "":
        raise fields.wrong("input", "a text or a list of texts, not empty")
    if not all(isinstance(text, str) for text in texts):
        raise fields.unsupported("input", "token ids are not taken; send text")
    body: dict[str, Any] = {"model": model, "input": given}
    dimensions = fields.integer("dimensions", low=1)
    if dimensions is not None:
        body["dimensions"] = dimensions
    truncate = fields.boolean("truncate")
    if truncate is not None:
        body["truncate"] = truncate
    encoding = fields.string("encoding_format")
    if encoding not in (None, "float", "base64"):
        raise fields.wrong("encoding_format", "'float' or 'base64'")
    body.update(residency.members())
    fields.close(harmless=HARMLESS, hints=HINTS)
    return OllamaRequest(
        path="/api/embed",
        body=_encoded(body),
        ignored=tuple(fields.ignored),
        inputs=len(texts),
        base64=encoding == "base64",
    )


def _format(fields: RequestFields) -> Any:
    given = fields.mapping("response_format")
    if given is None:
        return None
    wanted = fields.inside("response_format", given)
    kind = wanted.string("type")
    shape: Any = None
    if kind == "json_object":
        shape = "json"
    elif kind == "json_schema":
        described = wanted.inside("json_schema", wanted.take("json_schema"))
        shape = described.mapping("schema")
        if shape is None:
            raise described.wrong("schema", "a JSON schema")
        described.close(harmless=("name", "description", "strict"))
    elif kind is None:
        raise wanted.wrong("type", "'text', 'json_object' or 'json_schema'")
    elif kind != "text":
        raise wanted.unsupported("type", "use 'text', 'json_object' or 'json_schema'")
    wanted.close()
    return shape


def _logprobs(top: int | None) -> dict[str, Any]:
    return {"logprobs": True, "top_logprobs": top} if top else {"logprobs": True}


def _stream_options(fields: RequestFields, *, stream: bool) -> bool:
    given = fields.mapping("stream_options")
    if given is None:
        return False
    if not stream:
        fields.note("stream_options")
        return False
    options = fields.inside("stream_options", given)
    include_usage = options.boolean("include_usage") or False
    options.close(harmless=("include_obfuscation",))
    return include_usage


def _encoded(body: dict[str, Any]) -> bytes:
    try:
        return _encoder.encode(body)
    except RecursionError:  # tool arguments lie deeper here than in the string they came in
        raise RequestError("the request is nested too deeply") from None
