"""Ollama's plain answers as OpenAI's: chat, completions and embeddings.

Ollama's shapes: /api/chat `{"model", "created_at", "message": {"role", "content", "thinking"?, "tool_calls"?},
"done", "done_reason"?, "prompt_eval_count"?, "eval_count"?, "logprobs"?}`; /api/generate the same with `response` and
`thinking` in place of `message`; /api/embed `{"model", "embeddings": [[...]], "prompt_eval_count"?}`. A zero is left
out, so an absent count is 0.
"""

from __future__ import annotations

import base64
import sys
from array import array
from datetime import datetime
from typing import Any

import msgspec

from ..exceptions import AttemptError, FailureKind
from ..types import Operation
from .decoding import JSON_ERRORS
from .ollama_errors import STREAM_STATUS, refine_error
from .stream import Usage
from .upstream_errors import ErrorBody, classify_error, read_error


class ToolFunction(msgspec.Struct):
    """The function of a tool call; `arguments` is an object."""

    name: str = ""
    arguments: Any = None


class ToolCall(msgspec.Struct):
    """A whole tool call; Ollama never sends parts of one."""

    function: ToolFunction
    id: str | None = None


class TokenLogprob(msgspec.Struct):
    """A token with its log probability, as OpenAI has it."""

    token: str = ""
    logprob: float = 0.0
    bytes: list[int] | None = None
    top_logprobs: list[TokenLogprob] | None = None


class Message(msgspec.Struct):
    """The message of a chat answer, or what a line of its stream adds to it."""

    content: str | None = None
    thinking: str | None = None
    tool_calls: list[ToolCall] | None = None


class OllamaAnswer(msgspec.Struct):
    """A plain answer of /api/chat or /api/generate, and equally one line of their streams."""

    model: str = ""
    created_at: str = ""
    message: Message | None = None
    response: str | None = None
    thinking: str | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    logprobs: list[TokenLogprob] | None = None
    error: Any = None

    def said(self) -> Message:
        """Return what was said, whichever endpoint said it."""
        return self.message or Message(content=self.response, thinking=self.thinking)

    def usage(self) -> Usage:
        """Return the token counts."""
        return Usage(prompt_tokens=self.prompt_eval_count or 0, completion_tokens=self.eval_count or 0)


class _Vectors(msgspec.Struct):
    model: str = ""
    embeddings: list[msgspec.Raw] = []
    prompt_eval_count: int | None = None
    error: Any = None


answer_decoder = msgspec.json.Decoder(OllamaAnswer)
_vectors_decoder = msgspec.json.Decoder(_Vectors)
_floats_decoder = msgspec.json.Decoder(list[float])
_encode = msgspec.json.Encoder().encode


def translate_answer(
    backend: str, operation: Operation, body: bytes, *, answer_id: str, must_call: tuple[str, ...] = ()
) -> tuple[bytes, Usage]:
    """Turn a whole chat or generate answer into OpenAI's, with its token counts.

    Raises `AttemptError` when it is an error, broken off (`done` is not true), no answer of Ollama's at all, or calls
    none of the tools of which it must call one.
    """
    try:
        answer = answer_decoder.decode(body)
    except JSON_ERRORS as exc:
        raise _not_an_answer(backend) from exc
    if answer.error:
        raise engine_error(backend, answer.error)
    if not answer.done:
        raise AttemptError(
            f"backend '{backend}' broke off its answer", kind=FailureKind.PROTOCOL, code="upstream_truncated"
        )
    said, usage = answer.said(), answer.usage()
    if must_call and not calls_one(said, must_call):
        raise no_call_error(backend, must_call, answer.done_reason)
    if operation == "chat":
        kind = "chat.completion"
        choice: dict[str, Any] = {"index": 0, "message": _message(said, answer_id)}
        choice["logprobs"] = None if answer.logprobs is None else chat_logprobs(answer.logprobs)
    else:
        kind = "text_completion"
        choice = {"index": 0, "text": said.content or ""}
        if said.thinking:
            choice["reasoning_content"] = said.thinking
        choice["logprobs"] = None if answer.logprobs is None else text_logprobs(answer.logprobs, 0)
    choice["finish_reason"] = finish_reason(answer.done_reason, called=bool(said.tool_calls))
    translated = {
        "id": answer_id,
        "object": kind,
        "created": unix_seconds(answer.created_at),
        "model": answer.model,
        "choices": [choice],
        "usage": usage_members(usage),
    }
    return _encode(translated), usage


def translate_embeddings(backend: str, body: bytes, *, inputs: int, as_base64: bool) -> tuple[bytes, Usage]:
    """Turn the vectors of /api/embed into OpenAI's list; as floats they stay the bytes that came.

    Base64 holds little-endian float32. Raises `AttemptError` when there is not one vector for each input.
    """
    try:
        answer = _vectors_decoder.decode(body)
        if answer.error:
            raise engine_error(backend, answer.error)
        vectors: list[Any] = [_packed(raw) for raw in answer.embeddings] if as_base64 else list(answer.embeddings)
    except JSON_ERRORS as exc:
        raise _not_an_answer(backend) from exc
    if len(vectors) != inputs:
        raise AttemptError(
            f"backend '{backend}' sent {len(vectors)} embeddings for {inputs} texts",
            kind=FailureKind.PROTOCOL,
            code="upstream_protocol",
        )
    usage = Usage(prompt_tokens=answer.prompt_eval_count or 0)
    translated = {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)],
        "model": answer.model,
        "usage": {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens},
    }
    return _encode(translated), usage


def engine_error(backend: str, error: Any) -> AttemptError:
    """Return the failure that an `error` member under status 200 means."""
    found = read_error({"error": error})
    if found is None:
        found = ErrorBody("the engine reported an error without a message", None, None, None, None)
    status = found.status or STREAM_STATUS
    return refine_error(classify_error(backend, status, found), status)


def calls_one(said: Message, names: tuple[str, ...]) -> bool:
    """Tell whether one of these tools is called."""
    return any(call.function.name in names for call in said.tool_calls or ())


def no_call_error(backend: str, names: tuple[str, ...], done_reason: str | None) -> AttemptError:
    """Return the failure of an answer that `tool_choice` forbids: the model's, not the server's; another may obey."""
    wanted = f"'{names[0]}'" if len(names) == 1 else "any of its tools"
    how = "used up its tokens before it called" if done_reason == "length" else "answered without calling"
    return AttemptError(
        f"the model at backend '{backend}' {how} {wanted}, as 'tool_choice' demands", kind=FailureKind.MODEL_FAILED
    )


def finish_reason(done_reason: str | None, *, called: bool) -> str:
    """Return OpenAI's word: Ollama says `stop` after tool calls too, `load` and `unload` when it only did that."""
    if done_reason == "length":
        return "length"
    return "tool_calls" if called else "stop"


def usage_members(usage: Usage) -> dict[str, int]:
    """Return the `usage` object."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def unix_seconds(timestamp: Any) -> int:
    """Return the whole Unix seconds of an RFC 3339 time with up to nanoseconds; 0 when it is none."""
    try:
        return int(datetime.fromisoformat(timestamp).timestamp())
    except (ValueError, TypeError, OverflowError):
        return 0


def tool_call_members(call: ToolCall, position: int, answer_id: str) -> dict[str, Any]:
    """Return a tool call with its arguments as a string; an id it lacks is made from the answer's."""
    arguments = call.function.arguments
    if not isinstance(arguments, str):
        arguments = _encode({} if arguments is None else arguments).decode()
    return {
        "id": call.id or f"call_{answer_id.rpartition('-')[2]}_{position}",
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    }


def chat_logprobs(tokens: list[TokenLogprob]) -> dict[str, Any]:
    """Return the `logprobs` of a chat choice."""
    content = [
        {**_token(token), "top_logprobs": [_token(other) for other in token.top_logprobs or ()]} for token in tokens
    ]
    return {"content": content, "refusal": None}


def text_logprobs(tokens: list[TokenLogprob], offset: int) -> dict[str, Any]:
    """Return the `logprobs` of a completion choice; `offset` is the length of the text before the first token."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{other.token: other.logprob for other in token.top_logprobs or ()} for token in tokens],
        "text_offset": offsets,
    }


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.logprob, "bytes": token.bytes}


def _message(said: Message, answer_id: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": said.content or "", "refusal": None}
    if said.thinking:
        message["reasoning_content"] = said.thinking
    if said.tool_calls:
        message["content"] = said.content or None
        message["tool_calls"] = [
            tool_call_members(call, position, answer_id) for position, call in enumerate(said.tool_calls)
        ]
    return message


def _packed(raw: msgspec.Raw) -> str:
    floats = array("f", _floats_decoder.decode(raw))
    if sys.byteorder == "big":
        floats.byteswap()
    return base64.b64encode(floats.tobytes()).decode("ascii")


def _not_an_answer(backend: str) -> AttemptError:
    return AttemptError(
        f"backend '{backend}' answered with something that is no answer of Ollama's",
        kind=FailureKind.PROTOCOL,
        code="upstream_protocol",
    )
