"""What a chain of exceptions says of a connection that did not come about."""

from __future__ import annotations

import errno
import socket
import ssl

import httpx
import pytest

from smartrouter_asgi.exceptions import AttemptError, FailureKind
from smartrouter_asgi.transport.causes import causes_of, connect_error
from smartrouter_asgi.transport.http import HTTPRequest
from smartrouter_asgi.transport.httpx_transport import HttpxTransport


def behind(cause: BaseException, outer: BaseException | None = None) -> BaseException:
    """An exception that another one led to."""
    outer = outer or httpx.ConnectError("All connection attempts failed")
    outer.__cause__ = cause
    return outer


CERTIFICATE = ssl.SSLCertVerificationError(1, "certificate verify failed: engine.internal")


@pytest.mark.parametrize(
    ("exc", "kind", "code"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), FailureKind.CONNECT, "no_backend"),
        (behind(socket.gaierror(-2, "Name or service not known")), FailureKind.CONNECT, "upstream_dns"),
        (behind(UnicodeError("label too long")), FailureKind.CONNECT, "upstream_dns"),
        (behind(behind(CERTIFICATE)), FailureKind.CONNECT, "upstream_tls"),
        *[
            (behind(behind(OSError(number, "x"))), FailureKind.LOCAL, "gateway_overloaded")
            for number in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)
        ],
        (
            behind(ExceptionGroup("", [ConnectionRefusedError(errno.ECONNREFUSED, ""), OSError(errno.EMFILE, "")])),
            FailureKind.LOCAL,
            "gateway_overloaded",
        ),
        (behind(socket.gaierror(socket.EAI_MEMORY, "")), FailureKind.LOCAL, "gateway_overloaded"),
        (behind(socket.gaierror(errno.ENOMEM, "a number of another kind")), FailureKind.CONNECT, "upstream_dns"),
    ],
)
def test_the_cause_decides_wherever_it_stands(exc: BaseException, kind: FailureKind, code: str):
    """Kind for the policy, code for the client; status 503, and nothing of the exceptions' own words."""
    error = connect_error("b", exc)
    assert (error.kind, error.code, error.status) == (kind, code, 503)
    assert "engine.internal" not in error.message


def test_a_chain_that_bites_its_tail_ends():
    """Exceptions can be linked in a circle."""
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert list(causes_of(first)) == [first, second]


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (httpx.WriteError(""), FailureKind.STALE),
        (behind(OSError(errno.ENOBUFS, ""), httpx.WriteError("")), FailureKind.LOCAL),
        (behind(OSError(errno.ENOMEM, ""), httpx.ReadError("")), FailureKind.LOCAL),
    ],
)
async def test_a_limit_met_in_the_middle_is_the_gateway_s_own_too(exc: httpx.HTTPError, kind: FailureKind):
    """Whatever the phase."""

    def fail(_: httpx.Request) -> httpx.Response:
        raise exc

    async with httpx.AsyncClient(transport=httpx.MockTransport(fail)) as client:
        request = HTTPRequest(backend="b", method="POST", url="http://x", body=b"{}")
        with pytest.raises(AttemptError) as caught:
            await HttpxTransport(client).open(request)
    assert caught.value.kind is kind
