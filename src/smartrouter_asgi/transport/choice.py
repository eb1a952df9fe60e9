"""Which transport a configuration means."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from ..exceptions import ConfigurationError
from .divided import DividedTransport
from .http import Transport

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger("smartrouter_asgi")

AUTO: Final[str] = "direct"
"""What `auto` stands for where the parser of the direct one is installed; `httpx` elsewhere."""

CONTROL: Final[str] = "httpx"
"""What carries control calls beside `direct`: `httpx`, or `direct` for one pool of connections for everything.

They are few, and a second client that reads more kinds of broken HTTP keeps lists and unloads going where the lane
refuses an engine. It costs a start some 60 ms and the process 6 MB; and they have to be cancelled by anyio's scopes.
"""


def choose_transport(
    name: str, http_client: httpx.AsyncClient | None = None, *, connect_timeout_s: float = 5.0
) -> Transport:
    """Return a new transport for `auto`, `direct` or `httpx`.

    A client that was handed in is used whatever the name: it may have proxies, certificates or mocks of its own. Raises
    `ConfigurationError` when `direct` is asked for and its parser is not installed.
    """
    wanted = AUTO if name == "auto" else name
    if http_client is not None:
        return _httpx(http_client, connect_timeout_s, "a client was handed in")
    if wanted == "httpx":
        return _httpx(None, connect_timeout_s, f"the settings say '{name}'")
    if find_spec("httptools") is None:
        if name == "direct":
            raise ConfigurationError(
                "transport: 'direct' needs the package httptools: pip install httptools, or use 'auto'"
            )
        return _httpx(None, connect_timeout_s, "the package httptools is not installed")
    from .direct.transport import DirectTransport

    logger.debug("transport: direct, for the settings say '%s'", name)
    direct = DirectTransport(connect_timeout_s=connect_timeout_s)
    if CONTROL == "direct":
        return direct
    return DividedTransport(direct, lambda: _httpx(None, connect_timeout_s, "control calls go over it"))


def _httpx(client: httpx.AsyncClient | None, connect_timeout_s: float, reason: str) -> Transport:
    from .httpx_transport import HttpxTransport

    logger.debug("transport: httpx, for %s", reason)
    return HttpxTransport(client, connect_timeout_s=connect_timeout_s)
