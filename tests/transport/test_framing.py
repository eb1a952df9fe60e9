"""Laws of framing: any cut of a byte stream gives the same events."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartrouter_asgi.exceptions import FramingError
from smartrouter_asgi.transport.framing import LineSplitter, SSESplitter, sse_data

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
LINE_END = st.sampled_from([b"\n", b"\r\n", b"\r"])


def json_bytes(text: str) -> bytes:
    return json.dumps({"c": text}, ensure_ascii=False).encode()


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    places = sorted(draw(st.sets(st.integers(0, len(data)), max_size=12)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@given(st.lists(TEXT, max_size=8), LINE_END, st.data())
def test_any_cut_gives_the_same_events(texts: list[str], end: bytes, data: st.DataObject):
    """Comments, `data:` with and without a space, U+2028 and friends inside JSON."""
    events = [
        (b": ping" if n % 3 == 2 else b"data:" + b" " * (n % 2) + json_bytes(text)) + end + end
        for n, text in enumerate(texts)
    ]
    stream = b"".join(events)
    splitter = SSESplitter()
    got = [event for part in data.draw(cut(stream)) for event in splitter.feed(part)]
    rest = splitter.finish()
    # A CRLF cut in two may leave its LF with the next event; what each event says is the same.
    assert b"".join(got) + rest == stream
    said = [sse_data(event)[0] for event in got]
    assert [value for value in said if value is not None] == [
        json_bytes(text) for n, text in enumerate(texts) if n % 3 != 2
    ]


@given(st.lists(TEXT, max_size=8), st.data())
def test_any_cut_gives_the_same_lines(texts: list[str], data: st.DataObject):
    """Also in the middle of a UTF-8 sequence."""
    stream = b"".join(json_bytes(text) + b"\n" for text in texts)
    splitter = LineSplitter()
    got = [line for part in data.draw(cut(stream)) for line in splitter.feed(part)]
    assert got == [json_bytes(text) for text in texts]
    assert splitter.finish() == b""


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (b"data: a\ndata: b\n\n", (b"a\nb", None, None)),
        (b"data:a\r\n\r\n", (b"a", None, None)),
        (b"event: error\ndata: x\n\n", (b"x", b"error", None)),
        (b"error: {}\n\n", (None, None, b"{}")),
        (b": comment\n\n", (None, None, None)),
        (b"data\n\n", (None, None, None)),
        (b"\n\n", (None, None, None)),
    ],
)
def test_the_fields_of_an_event(event: bytes, expected: tuple[bytes | None, bytes | None, bytes | None]):
    """As the specification of server-sent events has them."""
    assert sse_data(event) == expected


@pytest.mark.parametrize("splitter", [SSESplitter(100), LineSplitter(100)])
def test_a_frame_over_the_limit_is_an_error_and_no_growing_buffer(splitter: SSESplitter | LineSplitter):
    """What was whole before it goes first."""
    end = b"\n\n" if isinstance(splitter, SSESplitter) else b"\n"
    assert len(splitter.feed(b"data: ok" + end + b"x" * 200)) == 1
    with pytest.raises(FramingError) as caught:
        splitter.feed(b"x")
    assert caught.value.code == "event_too_large"
