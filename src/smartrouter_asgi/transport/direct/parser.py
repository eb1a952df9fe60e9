"""Reads one answer from bytes that arrive in any pieces; sans-IO.

`httptools` does the reading, with all its leniencies off. On top of it stand the rules it leaves to its user: where an
answer ends must be beyond doubt, its head and whatever else is not body is bounded, and what comes after the end is
never part of anything.

That is stricter than h11 in what no engine sends: bare line feeds and folded headers in a head, spaces after the size
of a chunk, another version of HTTP in the status line. Where RFC 9112 leaves a choice and servers made at home need it,
it is lenient, and the connection is not used again: one length said twice, chunks in an answer of HTTP/1.0.
"""

from __future__ import annotations

import httptools

from ...types import Headers
from .lengths import repeated_at, with_one_length

MAX_HEAD_BYTES = 64 * 1024
"""Of a head; also of what may come in a row without a byte of body: chunk extensions, trailers."""
MAX_INTERIM = 10_000
"""Answers of 1xx before the one that counts."""
SLICE_BYTES = 64 * 1024
"""The parser gets no more at once, so that what it holds back inside stays bounded."""
NO_BODY = frozenset({204, 304})

_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_BLANK_LINE = b"\r\n\r\n"
_VERSIONS = frozenset({"1.0", "1.1"})


class _BrokenError(Exception):
    """Stops the parser from within; it comes out as an error of the parser's own."""


class AnswerParser:
    """One answer: `feed` it until it is `complete` or `broken`, take its body with `take`.

    `reusable` says of a complete answer that its connection may carry another one: the server means to keep it open,
    and nothing came after the end.
    """

    # What every answer begins with stands at the class: most answers never change most of it.

    begun = False
    """A byte has come, be it of a 1xx."""
    has_head = False
    complete = False
    broken = False
    reusable = False
    status = 0
    unread_bytes = 0
    _chunked = False
    _framed = False
    _until_close = False
    _held = b""
    """What has come of a head that is not whole yet."""
    _mended = False
    _interims = 0
    _silent_bytes = 0
    _moved = False
    _head_in_slice = False
    _last_part = b""
    _tail: bytes | memoryview = b""
    """What came last, five bytes of it at least."""

    def __init__(self, *, to_head: bool = False) -> None:
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._to_head = to_head
        """The request was a HEAD: the answer ends with its own head, whatever that says of a body."""
        self.headers: Headers = []
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> None:
        """Read what has come. What breaks HTTP makes the answer `broken`; what came before it can still be taken."""
        self.begun = True
        if len(data) <= SLICE_BYTES:
            self._feed(data)
            return
        view = memoryview(data)
        for start in range(0, len(data), SLICE_BYTES):
            if self.broken:
                return
            self._feed(view[start : start + SLICE_BYTES])

    def finish(self) -> None:
        """Read the end of the stream: it ends an answer that had no other end, and no other."""
        if self._until_close and not self.complete and not self.broken:
            self.complete = True
            self._parser = None

    def take(self) -> list[bytes]:
        """Return the parts of the body that have come since the last time."""
        parts, self._parts = self._parts, []
        self.unread_bytes = 0
        return parts

    def _feed(self, data: bytes | memoryview) -> None:
        parser = self._parser
        if parser is None:
            if self.complete:  # nobody asked for what comes now
                self.reusable = False
            elif not self._mend(data):
                self.broken = True
            return
        self._moved = self._head_in_slice = False
        self._last_part = b""
        try:
            parser.feed_data(data)
        except httptools.HttpParserError:
            if self.complete:
                self.reusable = False
            elif self._mend(data):
                return
            else:
                self.broken = True
        if self.complete or self.broken:
            self._parser = None  # they hold each other
            self.reusable = self.reusable and self._ends_with(data)
            return
        if self._moved:
            self._silent_bytes = 0
        else:
            self._silent_bytes += len(data)
            if self._silent_bytes > MAX_HEAD_BYTES:
                self.broken = True
                self._parser = None
        if not self.has_head and not self._interims:
            self._held += data
        self._tail = data if len(data) > 4 else bytes(self._tail[-4:]) + data

    def _mend(self, data: bytes | memoryview) -> bool:
        """Read a head again that says one length twice, once it is whole; tell whether that may be its fault."""
        held = self._held = self._held + data
        is_news = self._parser is not None
        self._parser = None
        at = None if self.has_head or self._mended or self._interims else repeated_at(held)
        if at is None or (is_news and _breaks(held[:at])):
            return False
        if b"\r\n\r\n" not in held:
            self.broken = len(held) > MAX_HEAD_BYTES
            return True
        again = with_one_length(held)
        if again is None:
            return False
        self._mended = True
        self.headers = []
        self._silent_bytes = 0
        self._framed = self._chunked = False
        self._parser = httptools.HttpResponseParser(self)
        self.feed(again)
        return True

    def _ends_with(self, data: bytes | memoryview) -> bool:
        """Tell whether the answer's last byte is the last one that came: the parser reads over stray line ends."""
        part = self._last_part
        if part and not self._chunked:
            before = len(data) - len(part)
            if before > 3 and self._head_in_slice:
                return data[before - 4 : before] == _BLANK_LINE and data[before:] == part
            if not self._head_in_slice:
                return before == 0
            head = (bytes(self._tail[-4:]) + bytes(data[max(0, before - 4) : before]))[-4:]
            return head == _BLANK_LINE and data[before:] == part
        end = (bytes(self._tail[-5:]) + bytes(data[-5:]))[-5:]
        return end[1:] == _BLANK_LINE and end[0] not in b"\r\n"

    # -- called by the parser, inside `feed_data`

    def on_message_begin(self) -> None:
        """Refuse what follows the end."""
        if self.complete:
            raise _BrokenError

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or read over a trailer: nothing an engine says there counts."""
        if self.has_head:
            return
        name = name.lower()
        value = value.strip(b" \t")
        if name in _FRAMING:
            self._chunked = name == b"transfer-encoding"
            if self._framed or (self._chunked and value.lower() != b"chunked"):
                raise _BrokenError
            self._framed = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Decide how the answer ends."""
        parser = self._parser
        assert parser is not None
        self._moved = self._head_in_slice = True
        if self._silent_bytes and sum(len(n) + len(v) + 4 for n, v in self.headers) > MAX_HEAD_BYTES:
            raise _BrokenError  # a head that came in one slice is smaller than that
        version = parser.get_http_version()
        if version not in _VERSIONS:
            raise _BrokenError
        status = parser.get_status_code()
        if status < 200:
            self._interims += 1
            if status < 100 or status == 101 or self._framed or self._interims > MAX_INTERIM:
                raise _BrokenError  # nobody asked to speak something else
            return
        self.status = status
        self.has_head = True
        self._held = b""
        if self._to_head or (self._framed and status in NO_BODY):
            self.complete = True
            raise _BrokenError  # the parser would wait for a body; where that one ends nobody knows
        self._until_close = not self._framed and status not in NO_BODY
        doubtful = self._mended or (self._chunked and version == "1.0")
        self.reusable = parser.should_keep_alive() and not doubtful

    def on_body(self, part: bytes) -> None:
        """Take a part of the body."""
        self._moved = True
        self._last_part = part
        self._parts.append(part)
        self.unread_bytes += len(part)

    def on_message_complete(self) -> None:
        """End the answer, or a 1xx before it."""
        if self.has_head:
            self.complete = True
        else:
            self.headers = []


def _breaks(begun: bytes) -> bool:
    """Tell whether a head is broken already in what has come of it."""
    parser = AnswerParser()
    parser.feed(begun)
    return parser.broken
