"""From a host name to a connected socket: all its addresses are tried, the next one before the last has given up."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any, TypeAlias

import anyio

HAPPY_EYEBALLS_DELAY_S = 0.25
"""How long an address has before the next one is tried beside it (RFC 8305). uvloop's `create_connection` has none."""

Address: TypeAlias = tuple[int, int, int, Any]
"""Family, type, protocol and what `connect` takes."""


async def dial(host: str, port: int) -> socket.socket:
    """Return a socket connected to a host. Raises `OSError`, `UnicodeError`, or a group of `OSError`s."""
    addresses = await resolve(host, port)
    return await (_connect(addresses[0]) if len(addresses) == 1 else _race(addresses))


async def resolve(host: str, port: int) -> Sequence[Address]:
    """Return a host's addresses, families in turn. Raises `OSError` or `UnicodeError`."""
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        if "%" not in host:
            family = socket.AF_INET if literal.version == 4 else socket.AF_INET6
            return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, (host, port))]
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [(family, kind, proto, address) for family, kind, proto, _, address in found]
    if not addresses:
        raise socket.gaierror(socket.EAI_NONAME, "no address")
    first = [one for one in addresses if one[0] == addresses[0][0]]
    others = [one for one in addresses if one[0] != addresses[0][0]]
    return [one for one in chain.from_iterable(zip_longest(first, others)) if one is not None]


async def _connect(address: Address) -> socket.socket:
    family, kind, proto, where = address
    sock = socket.socket(family, kind, proto)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


async def _race(addresses: Sequence[Address]) -> socket.socket:
    """Return the first socket that connects; the others are closed."""
    won: list[socket.socket] = []
    errors: list[OSError] = []

    async def attempt(address: Address, failed: anyio.Event) -> None:
        try:
            sock = await _connect(address)
        except OSError as exc:
            errors.append(exc)
            failed.set()
            return
        if won:
            sock.close()
        else:
            won.append(sock)
            group.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as group:
            for address in addresses:
                failed = anyio.Event()
                group.start_soon(attempt, address, failed)
                with anyio.move_on_after(HAPPY_EYEBALLS_DELAY_S):
                    await failed.wait()
    except BaseException:  # whoever called is gone: perhaps in the very turn in which one had won
        for sock in won:
            sock.close()
        raise
    if won:
        return won[0]
    raise ExceptionGroup("no address accepts connections", errors)
