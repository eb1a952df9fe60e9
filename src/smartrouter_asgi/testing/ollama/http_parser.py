"""HTTP/1.1 requests out of bytes: an incremental parser without I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024

_REQUEST_LINE = re.compile(rb"([A-Za-z]+) (\S+) HTTP/1\.([01])")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?")


class BadRequestError(Exception):
    """Bytes that are no request; the answer has this status and the connection ends."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One complete request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    minor_version: int

    @property
    def keeps_alive(self) -> bool:
        """Tell whether the client wants the connection to stay open."""
        connection = self.headers.get("connection", "").lower()
        return connection != "close" if self.minor_version else connection == "keep-alive"


class RequestParser:
    """Bytes go in by `feed`, requests come out of `next_request`, in order."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: Request | None = None
        self._left: int | None = None
        """Bytes of a body of known length that are still to come; None while chunks are read."""
        self._body = bytearray()

    def feed(self, data: bytes) -> None:
        """Take in bytes."""
        self._buffer += data

    @property
    def wants_continue(self) -> bool:
        """Tell whether the client waits for a `100 Continue` before it sends the body."""
        head = self._head
        return head is not None and not self._buffer and head.headers.get("expect", "").lower() == "100-continue"

    def next_request(self) -> Request | None:
        """Return the next complete request, None when bytes are missing; raises `BadRequestError`."""
        if self._head is None and not self._read_head():
            return None
        if not (self._read_chunks() if self._left is None else self._read_body()):
            return None
        head, body = self._head, bytes(self._body)
        assert head is not None
        self._head, self._body = None, bytearray()
        return Request(
            method=head.method, path=head.path, headers=head.headers, body=body, minor_version=head.minor_version
        )

    def _read_head(self) -> bool:
        while self._buffer.startswith(b"\r\n"):
            del self._buffer[:2]
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise BadRequestError(431)
            return False
        lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        match = _REQUEST_LINE.fullmatch(lines[0])
        if match is None:
            raise BadRequestError(400)
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(b":")
            if not colon or not name or name != name.strip():
                raise BadRequestError(400)
            headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
        self._head = Request(
            method=match[1].decode(),
            path=unquote(urlsplit(match[2].decode("latin-1")).path) or "/",
            headers=headers,
            body=b"",
            minor_version=int(match[3]),
        )
        self._left = self._body_length(headers)
        return True

    def _body_length(self, headers: dict[str, str]) -> int | None:
        encoding = headers.get("transfer-encoding")
        if encoding is not None:
            if encoding.lower() != "chunked":
                raise BadRequestError(501)
            return None
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            raise BadRequestError(400)
        if int(length) > MAX_BODY_BYTES:
            raise BadRequestError(413)
        return int(length)

    def _read_body(self) -> bool:
        assert self._left is not None
        part = self._buffer[: self._left]
        del self._buffer[: len(part)]
        self._body += part
        self._left -= len(part)
        return self._left == 0

    def _read_chunks(self) -> bool:
        while True:
            end = self._buffer.find(b"\r\n")
            if end < 0:
                return False
            match = _CHUNK_SIZE.fullmatch(self._buffer[:end])
            if match is None:
                raise BadRequestError(400)
            size = int(match[1], 16)
            if size == 0:
                return self._read_trailers(end)
            if len(self._body) + size > MAX_BODY_BYTES:
                raise BadRequestError(413)
            start = end + 2
            if len(self._buffer) < start + size + 2:
                return False
            if self._buffer[start + size : start + size + 2] != b"\r\n":
                raise BadRequestError(400)
            self._body += self._buffer[start : start + size]
            del self._buffer[: start + size + 2]

    def _read_trailers(self, end: int) -> bool:
        if self._buffer[end : end + 4] == b"\r\n\r\n":
            del self._buffer[: end + 4]
            return True
        last = self._buffer.find(b"\r\n\r\n", end)
        if last < 0:
            return False
        del self._buffer[: last + 4]
        return True
