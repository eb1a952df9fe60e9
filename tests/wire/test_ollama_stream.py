"""Ollama's lines become chunks, however the bytes were cut."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk

from smartrouter_asgi.exceptions import FailureKind, FramingError
from smartrouter_asgi.wire.ollama_stream import OllamaStreamCodec
from smartrouter_asgi.wire.stream import Piece, PieceKind, Usage

AT = "2026-01-01T00:00:00.1Z"


def line(message: dict[str, Any] | None = None, **members: Any) -> bytes:
    body: dict[str, Any] = {"model": "m", "created_at": AT, "done": False}
    if message is not None:
        body["message"] = {"role": "assistant", "content": "", **message}
    return json.dumps({**body, **members}, ensure_ascii=False).encode() + b"\n"


def text_line(text: str, **members: Any) -> bytes:
    return line(response=text, **members)


DONE = {"done": True, "done_reason": "stop", "total_duration": 9, "prompt_eval_count": 5, "eval_count": 7}


def codec(**how: Any) -> OllamaStreamCodec:
    return OllamaStreamCodec("b", **{"answer_id": "chatcmpl-abc", **how})


def run(*lines: bytes, **how: Any) -> list[Piece]:
    reader = codec(**how)
    return [*reader.feed(b"".join(lines)), *reader.finish()]


def events(pieces: list[Piece]) -> list[Any]:
    found: list[Any] = []
    for event in b"".join(piece.data for piece in pieces).decode().split("\n\n"):
        if event:
            data = event.removeprefix("data: ")
            found.append(data if data == "[DONE]" else json.loads(data))
    return found


def chunks(*lines: bytes, **how: Any) -> list[dict[str, Any]]:
    *found, end = events(run(*lines, **how))
    assert end == "[DONE]"
    if how.get("operation", "chat") == "chat":
        for chunk in found:
            ChatCompletionChunk.model_validate(chunk)
    return found


def deltas(*lines: bytes) -> list[dict[str, Any]]:
    return [chunk["choices"][0]["delta"] for chunk in chunks(*lines)]


def test_a_chat_stream_is_role_and_text_then_finish_then_done() -> None:
    pieces = run(line({"content": "He"}), line({"content": "llo é"}), line({}, **DONE))
    assert [piece.kind for piece in pieces] == [PieceKind.CONTENT] * 3 + [PieceKind.END]
    head = {"id": "chatcmpl-abc", "object": "chat.completion.chunk", "created": 1767225600, "model": "m"}
    assert events(pieces) == [
        {**head, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "He"}, "finish_reason": None}]},
        {**head, "choices": [{"index": 0, "delta": {"content": "llo é"}, "finish_reason": None}]},
        {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        "[DONE]",
    ]
    assert pieces[-1].data == b"data: [DONE]\n\n"


def test_an_empty_first_line_is_held_and_carries_the_role() -> None:
    reader = codec()
    (first,) = reader.feed(line({}))
    assert first.kind is PieceKind.HELD
    (event,) = events([first])
    assert event["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    (second,) = reader.feed(line({"content": "x"}))
    assert second.kind is PieceKind.CONTENT
    assert events([second])[0]["choices"][0]["delta"] == {"content": "x"}


def test_a_later_empty_line_is_a_sign_of_life_and_nothing_to_send() -> None:
    reader = codec()
    reader.feed(line({"content": "x"}))
    assert reader.feed(line({})) == [Piece(PieceKind.HELD, b"")]


def test_thinking_streams_as_reasoning_content() -> None:
    assert deltas(line({"thinking": "2+"}), line({"thinking": "2"}), line({"content": "4"}), line({}, **DONE)) == [
        {"role": "assistant", "content": "", "reasoning_content": "2+"},
        {"reasoning_content": "2"},
        {"content": "4"},
        {},
    ]


def test_tool_calls_come_whole_and_are_numbered_through_the_stream() -> None:
    def called(name: str, **more: Any) -> dict[str, Any]:
        return {"function": {"index": 0, "name": name, "arguments": {"a": name}}, **more}

    found = chunks(
        line({"tool_calls": [called("one", id="call_1")]}),
        line({"tool_calls": [called("two"), called("three", id="call_3")]}),
        line({}, **DONE),
    )
    first, second, last = (chunk["choices"][0] for chunk in found)
    assert first["delta"]["role"] == "assistant"
    assert first["delta"]["content"] is None
    calls = [*first["delta"]["tool_calls"], *second["delta"]["tool_calls"]]
    assert [call["index"] for call in calls] == [0, 1, 2]
    assert [call["function"] for call in calls] == [
        {"name": name, "arguments": f'{{"a":"{name}"}}'} for name in ("one", "two", "three")
    ]
    assert (calls[0]["id"], calls[2]["id"]) == ("call_1", "call_3")
    assert calls[1]["id"]
    assert last["finish_reason"] == "tool_calls"


def test_tool_calls_in_the_last_line_are_sent_before_the_finish() -> None:
    call = {"id": "call_1", "function": {"name": "one", "arguments": {}}}
    calling, last = (chunk["choices"][0] for chunk in chunks(line({"tool_calls": [call]}, **DONE)))
    assert calling["delta"]["tool_calls"][0]["id"] == "call_1"
    assert calling["finish_reason"] is None
    assert last == {"index": 0, "delta": {}, "finish_reason": "tool_calls"}


def test_an_answer_without_a_word_still_has_its_role_and_its_finish() -> None:
    assert deltas(line({}, **DONE)) == [{"role": "assistant", "content": ""}, {}]


def test_a_limit_is_finish_reason_length() -> None:
    assert (
        chunks(line({"content": "x"}), line({}, **{**DONE, "done_reason": "length"}))[-1]["choices"][0]["finish_reason"]
        == "length"
    )


def test_the_usage_chunk_comes_last_and_only_when_asked_for() -> None:
    lines = (line({"content": "x"}), line({}, **DONE))
    *others, last = chunks(*lines, include_usage=True)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    assert [chunk["usage"] for chunk in others] == [None, None]
    assert all("usage" not in chunk for chunk in chunks(*lines))


def test_the_codec_tells_the_usage_whether_or_not_the_client_wants_it() -> None:
    told = []
    for last in (line({"content": "x"}), line({}, done=True), line({}, **DONE)):
        reader = codec()
        reader.feed(last)
        told.append(reader.usage)
    assert told == [None, Usage(), Usage(prompt_tokens=5, completion_tokens=7)]


def test_one_id_and_one_time_hold_for_the_whole_stream() -> None:
    later = line({"content": "b"}, created_at="2026-01-01T00:01:00Z")
    found = chunks(line({"content": "a"}), later, line({}, **{**DONE, "created_at": "2026-01-01T00:02:00Z"}))
    assert {(chunk["id"], chunk["created"]) for chunk in found} == {("chatcmpl-abc", 1767225600)}


def test_logprobs_go_with_their_text() -> None:
    found = chunks(line({"content": "x"}, logprobs=[{"token": "x", "logprob": -1.0}]), line({}, **DONE))
    assert found[0]["choices"][0]["logprobs"] == {
        "content": [{"token": "x", "logprob": -1.0, "bytes": None, "top_logprobs": []}],
        "refusal": None,
    }


def test_a_completion_stream_has_text_and_no_role() -> None:
    lines = (
        text_line("On", logprobs=[{"token": "On", "logprob": -1.0}]),
        text_line("ce"),
        text_line("!", logprobs=[{"token": "!", "logprob": -2.0}]),
        text_line("", thinking="hm"),
        text_line("", **DONE, context=[1, 2]),
    )
    choices = [chunk["choices"][0] for chunk in chunks(*lines, operation="completions")]
    assert [choice["text"] for choice in choices] == ["On", "ce", "!", "", ""]
    assert [(choice["logprobs"] or {}).get("text_offset") for choice in choices] == [[0], None, [4], None, None]
    assert choices[3]["reasoning_content"] == "hm"
    assert [choice["finish_reason"] for choice in choices] == [None] * 4 + ["stop"]


def test_an_empty_line_of_a_completion_is_held_and_empty() -> None:
    assert codec(operation="completions").feed(text_line("")) == [Piece(PieceKind.HELD, b"")]


@pytest.mark.parametrize(
    ("error", "kind", "status", "code"),
    [
        ("model runner has unexpectedly stopped", FailureKind.MODEL_FAILED, 500, "model_failed"),
        ("CUDA error: out of memory", FailureKind.MODEL_FAILED, 503, "vram_exhausted"),
        ({"message": "something broke"}, FailureKind.SERVER, 500, "upstream_error"),
        (["odd"], FailureKind.SERVER, 500, "upstream_error"),
    ],
)
@pytest.mark.parametrize("end", [b"\n", b""])
def test_an_error_line_is_the_last_piece_and_no_finish_follows(
    error: Any, kind: FailureKind, status: int, code: str, end: bytes
) -> None:
    pieces = run(line({"content": "x"}), json.dumps({"error": error}).encode() + end)
    assert [piece.kind for piece in pieces] == [PieceKind.CONTENT, PieceKind.ERROR]
    failed = pieces[-1]
    assert failed.data == b""
    assert failed.error is not None
    assert (failed.error.kind, failed.error.status, failed.error.code) == (kind, status, code)


def test_nothing_is_read_after_the_end() -> None:
    assert run(line({}, **DONE), line({"content": "more"}), b"garbage\n")[-1].kind is PieceKind.END


@pytest.mark.parametrize("rest", [b"", b"{", b'{"model":"m","message":{"content":"h\xc3', line({"content": "x"})[:-1]])
def test_an_end_without_done_is_a_truncation(rest: bytes) -> None:
    reader = codec()
    reader.feed(line({"content": "x"}) + rest)
    with pytest.raises(FramingError) as caught:
        reader.finish()
    assert caught.value.code == "upstream_truncated"


def test_a_last_line_without_its_line_end_counts() -> None:
    assert run(line({"content": "x"}), line({}, **DONE)[:-1])[-1].kind is PieceKind.END


@pytest.mark.parametrize(
    "garbage", [b"oops\n", b"[]\n", b'"x"\n', b'{"done":"yes"}\n', b"\xff\xfe\n", b"[" * 9999 + b"\n"]
)
def test_a_line_that_is_no_answer_breaks_the_stream(garbage: bytes) -> None:
    with pytest.raises(FramingError) as caught:
        codec().feed(garbage)
    assert caught.value.code == "upstream_protocol"


def test_the_context_of_a_long_completion_fits_into_its_last_line() -> None:
    last = text_line("", **DONE, context=list(range(100_000, 362_144)))
    assert run(text_line("x"), last, operation="completions")[-1].kind is PieceKind.END


words = st.text()
spoken = st.one_of(
    st.builds(lambda text: line({"content": text}), words),
    st.builds(lambda text: line({"thinking": text}), words),
    st.builds(lambda text, more: line({"content": text, "thinking": more}), words, words),
    st.builds(
        lambda name, value: line({"tool_calls": [{"function": {"name": name, "arguments": {"a": value}}}]}),
        words,
        words,
    ),
)
endings = st.sampled_from(
    [
        line({}, **DONE),
        line({}, **DONE)[:-1],
        line({"content": "日本"}, **DONE),
        b'{"error":"kaputt \xe2\x9c\x97"}\n',
        b"",
        b'{"model":"m","mess',
    ]
)


def outcome(parts: list[bytes]) -> tuple[bytes, list[str], str]:
    reader = codec(include_usage=True)
    pieces: list[Piece] = []
    broken = ""
    try:
        for part in parts:
            pieces += reader.feed(part)
        pieces += reader.finish()
    except FramingError as exc:
        broken = exc.code
    errors = [piece.error.message for piece in pieces if piece.error is not None]
    return b"".join(piece.data for piece in pieces), errors, broken


@given(st.lists(spoken, max_size=5), endings, st.lists(st.integers(0, 2000), max_size=12), st.booleans())
def test_where_the_bytes_are_cut_makes_no_difference(
    lines: list[bytes], ending: bytes, cuts: list[int], bytewise: bool
) -> None:
    data = b"".join(lines) + ending
    if bytewise:
        parts = [data[at : at + 1] for at in range(len(data))]
    else:
        marks = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
        parts = [data[start:stop] for start, stop in itertools.pairwise(marks)]
    assert outcome(parts) == outcome([data])


@given(st.lists(words, max_size=8))
def test_the_text_of_the_chunks_is_the_text_of_the_lines(texts: list[str]) -> None:
    found = deltas(*(line({"content": text}) for text in texts), line({}, **DONE))
    assert "".join(delta.get("content", "") for delta in found) == "".join(texts)


CALLED = {"tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Rome"}}}]}


def test_nothing_commits_before_the_call_that_must_come() -> None:
    """What was thought and said meanwhile comes with it, in order."""
    reader = codec(must_call=("weather",))
    first = reader.feed(line({"thinking": "hm"}) + line({"content": "Let me see"}))
    assert {piece.kind for piece in first} == {PieceKind.HELD}
    assert not b"".join(piece.data for piece in first)
    (called,) = reader.feed(line(CALLED))
    assert called.kind is PieceKind.CONTENT
    assert called.data.index(b"hm") < called.data.index(b"Let me see") < called.data.index(b"weather")


def test_with_the_call_an_answer_is_the_same_as_without_the_demand() -> None:
    lines = [line({"content": "So:"}), line(CALLED), line({"content": "Done"}), line(**DONE)]
    held, free = run(*lines, must_call=("weather",)), run(*lines)
    assert b"".join(piece.data for piece in held) == b"".join(piece.data for piece in free)
    assert held[-1].kind is PieceKind.END


@pytest.mark.parametrize("last", [{}, {"message": {"role": "assistant", "content": "", "tool_calls": []}}])
def test_a_stream_without_the_call_it_must_make_is_an_error_before_any_content(last: dict[str, Any]) -> None:
    pieces = run(line({"content": "Sunny"}), line(**{**DONE, **last}), must_call=("weather",))
    assert [piece.kind for piece in pieces] == [PieceKind.HELD, PieceKind.ERROR]
    assert not b"".join(piece.data for piece in pieces)
    error = pieces[-1].error
    assert error is not None
    assert (error.kind, error.status) == (FailureKind.MODEL_FAILED, 502)


def test_a_call_in_the_last_line_is_in_time() -> None:
    pieces = run(line({"content": "So:"}), line(CALLED, **DONE), must_call=("weather",))
    assert [piece.kind for piece in pieces] == [PieceKind.HELD, PieceKind.CONTENT, PieceKind.END]


def test_a_call_of_another_tool_does_not_count() -> None:
    pieces = run(line(CALLED), line(**DONE), must_call=("time",))
    assert pieces[-1].kind is PieceKind.ERROR


def test_what_is_held_back_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smartrouter_asgi.wire.ollama_stream.MAX_UNCALLED_BYTES", 1000)
    reader = codec(must_call=("weather",))
    pieces = reader.feed(line({"content": "x" * 600}) * 3)
    assert [piece.kind for piece in pieces] == [PieceKind.HELD, PieceKind.ERROR]
