"""The address `serve` listens on: bound before anything else starts, so that what is wrong with it is told first."""

from __future__ import annotations

import errno
import ipaddress
import socket

from .errors import FAILED, MISUSED, CommandError

BACKLOG = 2048


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind every address of a host, without listening yet. Raises `CommandError` (exit code 1) in one line."""
    bound: list[socket.socket] = []
    refused: OSError | None = None
    for family, address in _addresses(host, port):
        # asyncio turns Nagle's algorithm off only where the protocol is named: else an answer waits 40 ms for an ACK.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # Port 0: what the first address got, the others take too.
            sock.bind((address, port or (bound[0].getsockname()[1] if bound else 0)))
        except OSError as error:
            sock.close()
            if error.errno == errno.EADDRNOTAVAIL:  # `localhost` may name an IPv6 address the machine does not have
                refused = refused or error
                continue
            for other in bound:
                other.close()
            raise CommandError(_why(error, host, port), exit_code=FAILED) from None
        bound.append(sock)
    if not bound:
        assert refused is not None
        raise CommandError(_why(refused, host, port), exit_code=FAILED)
    return bound


def port_of(sockets: list[socket.socket]) -> int:
    """Return the port that bound sockets share."""
    port: int = sockets[0].getsockname()[1]
    return port


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches a host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refuse_open_door(host: str, *, allowed: bool) -> None:
    """Raise `CommandError` (exit code 2) for an address that others reach, unless that was asked for."""
    if not allowed and not is_loopback(host):
        raise CommandError(
            f"refusing to listen on {host}: other machines may reach it, and no client keys are configured "
            "(this version has none yet), so anybody there could use the models.\n"
            "  Listen on 127.0.0.1 behind a proxy that authenticates, or mount the router in an app that does;\n"
            "  if everybody who reaches this address may use it, say so with --allow-unauthenticated.",
            exit_code=MISUSED,
        )


def base_url(host: str, port: int) -> str:
    """Return the URL at which a client on this machine reaches a host that is listened on."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{port}"
    if address.is_unspecified:
        return f"http://127.0.0.1:{port}" if address.version == 4 else f"http://[::1]:{port}"
    return f"http://{host}:{port}" if address.version == 4 else f"http://[{host}]:{port}"


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise CommandError(f"cannot listen on {host}: no such host is known", exit_code=FAILED) from None
    places = dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found)
    return sorted(places, key=lambda place: place[0] != socket.AF_INET)


def _why(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use: stop what listens there, or choose another with --port"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} of {host} needs more rights: choose one above 1023 with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"cannot listen on {host}: this machine has no such address"
    return f"cannot listen on port {port} of {host}: {error.strerror or type(error).__name__}"
