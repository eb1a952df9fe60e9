"""The reader of answers: any split is the same answer, what breaks HTTP is broken, and nothing follows the end."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartrouter_asgi.transport.direct.parser import MAX_HEAD_BYTES, MAX_INTERIM, AnswerParser

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
HINT = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"

WHOLE = [
    OK + b"Content-Length: 5\r\nx-a:\r\nx-b:  two words \r\n\r\nhello",
    OK + b"content-length: 0\r\n\r\n",
    OK + b"content-length: 4\r\n\r\n\r\n\r\n",
    OK + b"content-length: 1\r\n\r\n\n",
    CHUNKED + b"5\r\nhello\r\n0\r\n\r\n",
    CHUNKED + b"5;ext=1\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\nx-trailer: 1\r\nx-two:\r\n\r\n",
    CHUNKED + b"2\r\n\r\n\r\n0\r\n\r\n",
    HINT + HINT + OK + b"content-length: 2\r\n\r\nok",
    b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + b"1\r\nx\r\n0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nx: y\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok",
    b"HTTP/1.1 500 \r\ncontent-length: 2\r\n\r\nno",
]
"""Answers after which a connection can be used again."""

SAID_TWICE = [
    OK + b"content-length: 5\r\nContent-Length: 5\r\n\r\nhello",
    OK + b"content-length: 5\r\nx: y\r\ncontent-length:5 \r\nz: 1\r\n\r\nhello",
    OK + b"x: y\r\ncontent-length: 5, 5\r\n\r\nhello",
    OK + b"content-length: 05,05\r\ncontent-length: 05\r\n\r\nhello",
]
"""Whole and last, too: one length several times, as proxies made at home say it."""

LAST = [
    OK + b"connection: close\r\ncontent-length: 2\r\n\r\nok",
    OK + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    b"HTTP/1.1 304 Not Modified\r\ncontent-length: 20\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\n",
    b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
]
"""Answers that are whole, and the last ones on their connections."""

BROKEN = [
    b"\x16\x03\x01\x02\x00\x01",
    b"HTTP/1.1 2x0 OK\r\n\r\n",
    b"HTTP/1.1 099 OK\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
    b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\ncontent-length: 2\r\n\r\nok" + OK,
    b"HTTP/1.1 103 Early Hints\r\ncontent-length: 38\r\n\r\n" + OK + b"content-length: 0\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\ncontent-length: 2\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\ntransfer-encoding: chunked\r\n\r\n" + OK + b"content-length: 0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\ncontent-length: 0\r\n\r\n" + OK + b"content-length: 0\r\n\r\n",
    b"ICY 200 OK\r\n\r\n",
    OK + b"no colon\r\n\r\n",
    OK + b"space : before colon\r\n\r\n",
    OK + b"folded: a\r\n b\r\ncontent-length: 0\r\n\r\n",
    OK + b"x: a\rb\r\ncontent-length: 0\r\n\r\n",
    OK + b"x: a\x00b\r\ncontent-length: 0\r\n\r\n",
    OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
    OK + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n",
    OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\n",
    OK + b"content-length: 5\r\ncontent-length: 05\r\n\r\n",
    OK + b"content-length: 5, 6\r\n\r\n",
    OK + b"content-length: 5,\r\n\r\n",
    OK + b"content-length: 5, 5\r\ntransfer-encoding: chunked\r\n\r\n",
    OK + b"transfer-encoding: chunked\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n",
    OK + b"content-length: 5, 5\r\nno colon\r\n\r\n",
    HINT + OK + b"content-length: 5, 5\r\n\r\n",
    OK + b"content-length: 99999999999999999999999, 5\r\n",
    OK + b"no colon\r\ncontent-length: 5, 5\r\n",
    OK + b"transfer-encoding: gzip\r\ncontent-length: 5\r\ncontent-length: 5\r\n",
    OK + b"content-length: +5\r\n\r\n",
    OK + b"content-length: -5\r\n\r\n",
    OK + b"content-length: 99999999999999999999999\r\n\r\n",
    OK + b"transfer-encoding: chunked, identity\r\n\r\n",
    OK + b"transfer-encoding: gzip, chunked\r\n\r\n",
    OK + b"transfer-encoding: identity\r\n\r\n",
    OK + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
    CHUNKED + b"zz\r\n",
    CHUNKED + b"2 \r\n",
    CHUNKED + b"-5\r\nhello",
    CHUNKED + b"f" * 40 + b"\r\n",
    CHUNKED + b"5\r\nhelloXX",
    CHUNKED + b"5\r\nhello\r\n0\r\nno trailer\r\n\r\n",
]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What came out of a parser."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    complete: bool
    broken: bool
    reusable: bool


def seen(parser: AnswerParser) -> Seen:
    return Seen(
        status=parser.status,
        headers=tuple(parser.headers) if parser.has_head else (),
        body=b"".join(parser.take()),
        complete=parser.complete,
        broken=parser.broken,
        reusable=parser.complete and parser.reusable,
    )


def fed(*pieces: bytes, to_head: bool = False) -> AnswerParser:
    parser = AnswerParser(to_head=to_head)
    for piece in pieces:
        if piece and not parser.broken:
            parser.feed(piece)
    return parser


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut bytes at places that may lie anywhere."""
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(marks)]


SUFFIXES = [b"\r\n", b"\n", OK, b"HTTP/1.1 503 No\r\nx: y\r\ncontent-length: 3\r\n\r\nbad"]
PLACES = st.lists(st.integers(0, 10_000), max_size=12)


@pytest.mark.parametrize("data", [*WHOLE, *LAST, *SAID_TWICE])
def test_every_single_split_is_the_same_answer(data: bytes):
    """Also byte for byte."""
    whole = seen(fed(data))
    assert whole.complete
    for place in range(1, len(data)):
        assert seen(fed(data[:place], data[place:])) == whole, data[:place]
    assert seen(fed(*(data[at : at + 1] for at in range(len(data))))) == whole


@pytest.mark.parametrize("data", WHOLE)
def test_a_whole_answer_leaves_its_connection_free(data: bytes):
    """And nothing short of its last byte is the whole of it."""
    assert seen(fed(data)).reusable
    assert not any(fed(data[:end]).complete for end in range(len(data)))


@pytest.mark.parametrize("more", SUFFIXES)
@pytest.mark.parametrize("data", WHOLE)
def test_what_follows_the_end_ends_the_connection(data: bytes, more: bytes):
    """In one read, or in a read of its own."""
    if data.endswith(b"\r\n\r\n\r\n\r\n"):
        return  # see below
    for parser in (fed(data + more), fed(data, more), fed(data[:-1], data[-1:] + more)):
        assert (parser.complete, parser.reusable) == (True, False)


@pytest.mark.parametrize("data", [*LAST, *SAID_TWICE])
def test_an_answer_may_be_the_last_one(data: bytes):
    """It is whole all the same."""
    assert (fed(data).complete, fed(data).reusable) == (True, False)


@given(data=st.sampled_from(WHOLE), more=st.binary(min_size=1) | st.sampled_from(SUFFIXES), places=PLACES)
def test_nothing_may_follow_the_end(data: bytes, more: bytes, places: list[int]):
    """Whatever it is, stray line ends too, in whatever pieces: the answer stays as it was, its connection is done."""
    parser = fed(*cut(data + more, places))
    if set(more) <= set(b"\r\n") and data.endswith(b"\r\n\r\n\r\n\r\n"):
        return  # a body of line ends alone cannot be told from those after it, and those mean nothing
    without = seen(fed(data))
    assert seen(parser) == Seen(**{**without.__dict__, "reusable": False})


@pytest.mark.parametrize("data", BROKEN)
def test_what_leaves_the_end_in_doubt_is_broken(data: bytes):
    """At once, in two parts or byte for byte; nobody is left to wait for more."""
    halves = ((data[:at], data[at:]) for at in range(len(data)))
    for pieces in (*halves, tuple(data[at : at + 1] for at in range(len(data)))):
        parser = fed(*pieces)
        assert parser.broken, pieces
        assert not parser.complete


def test_what_came_before_it_broke_can_be_taken():
    """A reader gets every byte of body that was good."""
    parser = fed(CHUNKED + b"5\r\nhello\r\nzz\r\n")
    assert (parser.has_head, parser.broken, parser.take()) == (True, True, [b"hello"])


@given(data=st.sampled_from([*WHOLE, *LAST, *SAID_TWICE, *BROKEN]), places=PLACES, change=st.data())
def test_garbage_ends_in_one_of_three_ways_whatever_the_split(data: bytes, places: list[int], change: st.DataObject):
    """Complete, broken or waiting for more, and the same for any split; never an exception."""
    at = change.draw(st.integers(0, len(data)))
    data = data[:at] + change.draw(st.binary(max_size=6)) + data[at + change.draw(st.integers(0, 6)) :]
    one, other = fed(*cut(data, places)), fed(*(data[at : at + 1] for at in range(len(data))))
    assert not (one.complete and one.broken)
    assert one.unread_bytes == other.unread_bytes
    assert seen(one) == seen(other)


@given(data=st.binary(max_size=400), places=PLACES)
def test_noise_is_no_answer(data: bytes, places: list[int]):
    """Bytes of any kind raise nothing."""
    assert not fed(*cut(data, places)).complete


@given(data=st.sampled_from([*WHOLE, *LAST, *SAID_TWICE]), places=PLACES)
def test_it_reads_what_h11_reads(data: bytes, places: list[int]):
    """Another parser, written by others, agrees on status, headers and body."""
    judge = h11.Connection(h11.CLIENT)
    judge.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    judge.send(h11.EndOfMessage())
    head, body = None, b""
    judge.receive_data(data)
    while not isinstance(event := judge.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
    assert head is not None
    found = seen(fed(*cut(data, places)))
    assert (found.status, found.body) == (head.status_code, body)
    assert list(found.headers) == [(bytes(name), bytes(value)) for name, value in head.headers]


@pytest.mark.parametrize("piece", [1000, 100_000])
@pytest.mark.parametrize(
    ("begun", "more"),
    [
        (OK + b"x: ", b"a"),
        (OK, b"x: y\r\n"),
        (OK + b"content-length: 5\r\ncontent-length: 5\r\n", b"x: y\r\n"),
        (b"HTTP/1.1 200 ", b"a"),
        (b"", b"\r\n"),
        (CHUNKED + b"1;", b"a"),
        (CHUNKED + b"1\r\nx\r\n0\r\n", b"x: y\r\n"),
        (CHUNKED + b"1\r\nx\r\n0\r\nx: ", b"a"),
    ],
    ids=["value", "headers", "headers after lengths", "reason", "line ends", "extension", "trailers", "trailer"],
)
def test_what_is_no_body_is_bounded(begun: bytes, more: bytes, piece: int):
    """However it comes, and wherever it is hidden."""
    parser = fed(begun)
    given_bytes = 0
    while not parser.broken and given_bytes < 10 * MAX_HEAD_BYTES:
        parser.feed(more * (piece // len(more)))
        given_bytes += piece
    assert parser.broken
    assert given_bytes <= 4 * MAX_HEAD_BYTES + piece


def test_hints_are_read_over_and_counted():
    """Many of them are odd, more than that are an attack."""
    parser = fed(HINT * 2000 + OK + b"content-length: 0\r\n\r\n")
    assert (parser.status, parser.headers) == (200, [(b"content-length", b"0")])
    assert fed(HINT * (MAX_INTERIM + 1)).broken


@pytest.mark.parametrize("head", [OK + b"content-length: 5\r\n\r\n", CHUNKED, OK + b"x: y\r\n\r\n"])
def test_an_answer_to_head_ends_with_its_head(head: bytes):
    """Whatever it says of a body; its connection is done, for some servers send one all the same."""
    parser = fed(head, to_head=True)
    assert seen(parser) == Seen(
        status=200, headers=tuple(parser.headers), body=b"", complete=True, broken=False, reusable=False
    )


def test_an_answer_without_a_length_ends_with_its_connection():
    """And only such a one."""
    parser = fed(OK + b"x: y\r\n\r\nsome", b" text")
    assert not parser.complete
    parser.finish()
    assert (parser.complete, parser.reusable, b"".join(parser.take())) == (True, False, b"some text")
    for data in (b"", OK, OK + b"content-length: 5\r\n\r\nhell", CHUNKED + b"5\r\nhello\r\n", CHUNKED + b"0\r\n"):
        parser = fed(data)
        parser.finish()
        assert not parser.complete, data
