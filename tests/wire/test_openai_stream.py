"""Laws of looking at OpenAI's own stream without rebuilding it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartrouter_asgi.exceptions import AttemptError, FailureKind, FramingError
from smartrouter_asgi.wire.openai import OpenAIStreamCodec, read_plain
from smartrouter_asgi.wire.stream import Piece, PieceKind, Usage

from ..harness.engines import DONE, ROLE, chunk


def kinds(*events: bytes, choices: int = 1) -> list[PieceKind]:
    codec = OpenAIStreamCodec("b", choices=choices)
    return [piece.kind for event in events for piece in codec.feed(event)]


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


HELD, CONTENT, PING, END, ERROR = (
    PieceKind.HELD,
    PieceKind.CONTENT,
    PieceKind.PING,
    PieceKind.END,
    PieceKind.ERROR,
)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (ROLE, HELD),
        (event({"choices": []}), HELD),
        (event({"choices": [], "prompt_filter_results": [{}]}), HELD),
        (event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]}), HELD),
        (event({"choices": [{"index": 0, "delta": {}}]}), HELD),
        (event({"choices": [{"index": 0, "delta": {"content": "x"}}]}), CONTENT),
        (event({"choices": [{"index": 0, "delta": {"reasoning_content": "x"}}]}), CONTENT),
        (event({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0}]}}]}), CONTENT),
        (event({"choices": [{"index": 0, "text": "x"}]}), CONTENT),
        (event({"choices": [{"index": 0, "text": ""}]}), HELD),
        (event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}), CONTENT),
        (b": ping\n\n", PING),
        (DONE, END),
        (event({"error": {"message": "x"}}), ERROR),
    ],
)
def test_what_a_first_event_means(value: bytes, kind: PieceKind):
    """Roles, empty deltas and filters say nothing yet; text, thoughts, tools and an end do."""
    assert kinds(value) == [kind]


def test_text_that_looks_like_a_mark_is_text():
    """`"error"`, `"finish_reason":"stop"` and [DONE] inside an answer are what the model said."""
    tricky = 'say "error": {"finish_reason":"stop"} and data: [DONE]'
    assert kinds(chunk("a"), chunk(tricky), chunk("b"), chunk(finish="stop"), DONE) == [
        CONTENT,
        CONTENT,
        CONTENT,
        CONTENT,
        END,
    ]


@pytest.mark.parametrize("error", [None, False, "", {}])
def test_an_empty_error_is_none(error: Any):
    """Some servers always send the member."""
    assert kinds(event({"choices": [{"delta": {"content": "x"}}], "error": error})) == [CONTENT]


def test_a_stream_is_whole_when_every_choice_has_finished():
    """With n = 2 one finish_reason is not enough."""
    one = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    two = event({"choices": [{"index": 1, "delta": {}, "finish_reason": "length"}]})
    codec = OpenAIStreamCodec("b", choices=2)
    codec.feed(one)
    with pytest.raises(FramingError):
        codec.finish()
    codec = OpenAIStreamCodec("b", choices=2)
    codec.feed(one + two)
    assert [(p.kind, p.data) for p in codec.finish()] == [(END, DONE)]


def test_usage_is_read_wherever_it_comes():
    """In the finish chunk (llama.cpp) or in one of its own; null is none."""
    codec = OpenAIStreamCodec("b")
    codec.feed(chunk("x", usage=None))
    assert codec.usage is None
    codec.feed(event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}))
    assert codec.usage == Usage(prompt_tokens=3, completion_tokens=5)


@given(st.lists(st.text(max_size=10), min_size=1, max_size=6), st.data())
def test_the_bytes_pass_however_they_are_cut(texts: list[str], data: st.DataObject):
    """What goes out is what came in."""
    stream = b"".join([ROLE, *[chunk(text) for text in texts], chunk(finish="stop"), DONE])
    places = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=10)))
    codec = OpenAIStreamCodec("b")
    out = b""
    for a, b in zip([0, *places], [*places, len(stream)], strict=True):
        out += b"".join(piece.data for piece in codec.feed(stream[a:b]))
    assert out == stream
    assert codec.finish() == []


@pytest.mark.parametrize("before", [[], [chunk("Hel")]], ids=["first", "later"])
@pytest.mark.parametrize("content", ["\ud83d", "\x00", "a\u2028b\u0085c"])
def test_whatever_json_allows_in_a_text_passes_as_it_came(content: str, before: list[bytes]):
    """Half a surrogate pair among it: engines cut text between two tokens."""
    escaped = chunk(content)
    plain = escaped.replace(b"\\u2028", "\u2028".encode()).replace(b"\\u0085", "\u0085".encode())
    for said in (escaped, plain):
        codec = OpenAIStreamCodec("b")
        pieces = [piece for event in [*before, said] for piece in codec.feed(event)]
        assert (pieces[-1].kind, pieces[-1].data) == (CONTENT, said)


@pytest.mark.parametrize("bad", [b"\xff", b"\xed\xa0\x80", b"\xc3", b"\xc0\x80"])
@pytest.mark.parametrize(
    "event_with", [b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n', b": %s\n\n", b"event: %s\n\n"]
)
def test_what_is_no_utf_8_is_no_event(event_with: bytes, bad: bytes):
    """Wherever it stands; what came before it still counts."""
    codec = OpenAIStreamCodec("b")
    codec.feed(chunk("Hel"))
    with pytest.raises(FramingError) as caught:
        codec.feed(chunk("lo") + event_with % bad)
    assert [piece.data for piece in caught.value.before] == [chunk("lo")]


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (b'{"choices": [{"message": {"content": "\\ud83d"}}], "usage": {"prompt_tokens": 3}}', Usage(3, 0)),
        (b'{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}', Usage(3, 4)),
        (b'{"choices": [], "usage": null}', None),
        (b'{"choices": []}', None),
        (b'{"usage": {"prompt_tokens": null}}', Usage(0, 0)),
        (b'{"usage": {"prompt_tokens": 1.5, "completion_tokens": 2}, "error": null}', Usage(0, 2)),
    ],
)
def test_a_plain_answer_tells_its_tokens(body: bytes, usage: Usage | None):
    """Leniently: a strange count is no reason to lose an answer."""
    assert read_plain("b", body) == usage


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", FailureKind.PROTOCOL, 502),
        (b"[]", FailureKind.PROTOCOL, 502),
        (b'"x"', FailureKind.PROTOCOL, 502),
        (b"<html>", FailureKind.PROTOCOL, 502),
        (b'{"x": "\xff"}', FailureKind.PROTOCOL, 502),
        (b'{"x": "\\ud83d", "y": NaN}', FailureKind.PROTOCOL, 502),
        (b'["\\ud83d"]', FailureKind.PROTOCOL, 502),
        (b'{"error": {"message": "x", "code": 503}}', FailureKind.SERVER, 503),
        (b'{"error": "x"}', FailureKind.SERVER, 502),
        (b'{"error": {"message": "out of memory", "code": 500}}', FailureKind.MODEL_FAILED, 503),
    ],
)
def test_a_plain_200_that_is_no_answer_is_a_failure(body: bytes, kind: FailureKind, status: int):
    """Errors under 200, and what is no JSON object."""
    with pytest.raises(AttemptError) as caught:
        read_plain("b", body)
    assert (caught.value.kind, caught.value.status) == (kind, status)


USAGE = {"prompt_tokens": 3, "completion_tokens": 5}
EVENTS = st.one_of(
    st.text(max_size=400).map(chunk),
    st.text(max_size=20).map(lambda text: event({"choices": [{"delta": {"content": text}, "finish_reason": None}]})),
    st.sampled_from(
        [
            b": ping\n\n",
            event({"choices": [], "usage": None}).replace(b": null", b":null"),
            event({"choices": [], "usage": USAGE}),
            event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
            chunk("crlf").replace(b"\n\n", b"\r\n\r\n"),
            b"event: message\n" + chunk("named"),
            b"data: not json\n\n",
            b'data: {"choices": "\xff"}\n\n',
            event({"error": {"message": "broke"}}),
            DONE,
        ]
    ),
)


def told(codec: OpenAIStreamCodec, reads: list[bytes]) -> tuple[bytes, str, Usage | None, set[int]]:
    """Feed reads, and return what goes on, how that ended, and what was noted beside it."""
    out: list[Piece] = []
    try:
        for read in reads:
            out += codec.feed(read)
            if out and out[-1].kind >= END:
                break  # nobody asks for more
        else:
            out += codec.finish()
    except FramingError as exc:
        out += exc.before
        end = exc.code
    else:
        end = out[-1].kind.name if out and out[-1].kind >= END else "open"
    return b"".join(piece.data for piece in out), end, codec.usage, codec._finished


@given(st.lists(EVENTS, max_size=12), st.integers(1, 2), st.data())
def test_a_large_read_says_what_its_events_say_one_by_one(events: list[bytes], choices: int, data: st.DataObject):
    """Text that is told from its bytes as a whole goes out as it would event by event; so does all around it."""
    events = [ROLE, chunk("begun"), *events]
    stream = b"".join(events)
    places = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=3)))
    reads = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
    one_by_one = told(OpenAIStreamCodec("b", choices=choices), events)
    assert told(OpenAIStreamCodec("b", choices=choices), reads) == one_by_one


@pytest.mark.parametrize("last", [chunk(finish="stop"), event({"choices": [], "usage": USAGE}), DONE])
def test_the_text_before_an_end_in_one_large_read_is_one_piece(last: bytes):
    """However many events it was: nothing is done for each of them."""
    codec = OpenAIStreamCodec("b")
    codec.feed(ROLE + chunk("begun"))
    text = b"".join(chunk(f"word {number}") for number in range(100))
    pieces = codec.feed(text + last + DONE)
    assert pieces[0] == (CONTENT, text, None)
    assert len(pieces) == 2 + (last != DONE)


def test_the_text_of_a_large_first_read_is_one_piece_after_its_first_events():
    """An answer that comes whole at once costs no more for each event than a later part of a stream."""
    text = b"".join(chunk(f"word {number}") for number in range(100))
    pieces = OpenAIStreamCodec("b").feed(ROLE + chunk("begun") + text + chunk(finish="stop") + DONE)
    assert [piece.kind for piece in pieces] == [HELD, CONTENT, CONTENT, CONTENT, END]
    assert pieces[2].data == text


def test_what_was_whole_before_a_large_first_read_breaks_is_told():
    pieces = ROLE + chunk("begun")
    with pytest.raises(FramingError) as caught:
        OpenAIStreamCodec("b").feed(pieces + b"data: \xff\n\n" + chunk("x") * 50)
    assert b"".join(piece.data for piece in caught.value.before) == pieces
