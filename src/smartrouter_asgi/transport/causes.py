"""What the failures of an exchange mean, whichever client met them; knows no client library.

Why a connection did not come about is read from the chain of exceptions that told of it.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator

from ..exceptions import AttemptError, FailureKind

_OWN_LIMITS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
"""What this machine is short of: file descriptors, memory, free ports. It says nothing about the other side."""

UPLOAD_BYTES = 1024 * 1024
"""A body over this may be refused while it is sent: the early answer is lost when the connection is reset under it."""


def connect_error(backend: str, exc: BaseException) -> AttemptError:
    """Return the failure of a request that was never sent; it names no host."""
    causes = tuple(causes_of(exc))
    if any(map(_is_own_limit, causes)):
        return local_error(backend)
    if any(isinstance(cause, ssl.SSLError) for cause in causes):  # a handshake that was cut has one behind it, too
        code, reason = "upstream_tls", "its TLS handshake failed; check the scheme of its URL, and its certificate"
    elif any(isinstance(cause, (socket.gaierror, UnicodeError)) for cause in causes):
        code, reason = "upstream_dns", "its host name cannot be resolved"
    else:
        code, reason = "no_backend", "nothing accepts connections at its address"
    return AttemptError(
        f"backend '{backend}' cannot be reached: {reason}",
        kind=FailureKind.CONNECT,
        status=503,
        code=code,
        type="service_unavailable",
    )


def local_error(backend: str) -> AttemptError:
    """Return the failure of a gateway that has no means left to ask anybody."""
    return AttemptError(
        f"the gateway is out of file descriptors, ports or memory and could not ask backend '{backend}'",
        kind=FailureKind.LOCAL,
        status=503,
        code="gateway_overloaded",
        type="service_unavailable",
    )


def connect_timeout_error(backend: str) -> AttemptError:
    """Return the failure of a connection that did not come about in time; nothing was sent."""
    return AttemptError(
        f"backend '{backend}' did not accept the connection in time",
        kind=FailureKind.CONNECT,
        status=504,
        code="upstream_connect_timeout",
        type="timeout_error",
    )


def disconnected_error(backend: str, *, reused: bool, body_bytes: int = 0) -> AttemptError:
    """Return the failure of a request of whose answer nothing was seen.

    On a `reused` connection it may be the connection's age that did it, under a large body its size.
    """
    kind, reason = FailureKind.RESET, "closed the connection before it had answered"
    if reused:
        kind = FailureKind.STALE
    elif body_bytes > UPLOAD_BYTES:
        kind = FailureKind.UPLOAD
        reason = f"closed the connection under a request of {body_bytes} bytes: perhaps it takes none of that size"
    return AttemptError(f"backend '{backend}' {reason}", kind=kind, code="upstream_disconnected")


def cut_off_error(backend: str) -> AttemptError:
    """Return the failure of an answer that had begun."""
    return AttemptError(
        f"backend '{backend}' closed the connection in the middle of its answer",
        kind=FailureKind.RESET,
        code="upstream_disconnected",
    )


def protocol_error(backend: str) -> AttemptError:
    """Return the failure of an answer that breaks HTTP."""
    return _protocol_error(f"backend '{backend}' does not speak HTTP as it should")


def oversized_error(backend: str, limit: int) -> AttemptError:
    """Return the failure of an answer that nobody wants whole."""
    return _protocol_error(f"backend '{backend}' sent an answer over {limit} bytes")


def unsendable_error(backend: str, reason: str) -> AttemptError:
    """Return the failure of a request that HTTP has no way to write."""
    return _protocol_error(f"a request to backend '{backend}' cannot be written: {reason}")


def _protocol_error(message: str) -> AttemptError:
    return AttemptError(message, kind=FailureKind.PROTOCOL, code="upstream_protocol")


def is_own_limit(exc: BaseException) -> bool:
    """Tell whether a limit of this machine is among the causes."""
    return any(map(_is_own_limit, causes_of(exc)))


def causes_of(exc: BaseException) -> Iterator[BaseException]:
    """Yield an exception and all that led to it, the members of groups included."""
    waiting, seen = [exc], set[int]()
    while waiting:
        cause = waiting.pop()
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        if isinstance(cause, BaseExceptionGroup):
            waiting.extend(cause.exceptions)
        before = cause.__cause__ or cause.__context__
        if before is not None:
            waiting.append(before)


def _is_own_limit(cause: BaseException) -> bool:
    if isinstance(cause, socket.gaierror):  # numbers of its own, some of them equal to others' on some systems
        return cause.errno == socket.EAI_MEMORY
    return isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError) and cause.errno in _OWN_LIMITS
