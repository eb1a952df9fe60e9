"""The head of a request as it goes over the wire, and where it goes."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, urlsplit

_PORTS = {"http": 80, "https": 443}
_METHOD = re.compile(r"[A-Z]+")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
"""No line end, above all: what follows one would be a header of somebody else's making."""
_OURS = frozenset({b"content-length", b"transfer-encoding"})
_KEEP = "".join(map(chr, range(0x21, 0x7F)))


class Origin(NamedTuple):
    """What a connection leads to."""

    scheme: str
    host: str
    port: int


class HeaderError(ValueError):
    """A header cannot be written without changing what it says; its value is not told."""


def render_head(method: str, url: str, headers: tuple[tuple[bytes, bytes], ...]) -> tuple[Origin, bytes]:
    """Return where a request goes, and its head but for the length of its body and the blank line.

    How its body is framed is never the caller's to say. Raises `HeaderError`, and `ValueError` for a URL that leads to
    nothing this lane can reach.
    """
    origin, target = locate(url)
    if not _METHOD.fullmatch(method):
        raise HeaderError("a method is a word in capitals")
    parts = [b"%b %b HTTP/1.1\r\n" % (method.encode(), target)]
    if not any(name.lower() == b"host" for name, _ in headers):
        parts.append(b"host: %b\r\n" % _host(origin))
    for name, value in headers:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise HeaderError(f"the header {name[:40]!r} cannot be sent")
        if name.lower() not in _OURS:
            parts.append(b"%b: %b\r\n" % (name, value))
    return origin, b"".join(parts)


def locate(url: str) -> tuple[Origin, bytes]:
    """Split a URL into the origin and the target of a request. Raises `ValueError`."""
    split = urlsplit(url)
    host = split.hostname
    if split.scheme not in _PORTS or not host or "@" in split.netloc:
        raise ValueError("not a URL of http or https with a host and without a user")
    port = _PORTS[split.scheme] if split.port is None else split.port
    if not host.isascii():
        host = host.encode("idna").decode()
    target = split.path or "/"
    if split.query:
        target += f"?{split.query}"
    return Origin(split.scheme, host, port), quote(target, safe=_KEEP).encode()


def _host(origin: Origin) -> bytes:
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    return (host if origin.port == _PORTS[origin.scheme] else f"{host}:{origin.port}").encode()
