"""Which transport a configuration means."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from ..exceptions import ConfigurationError
from .http import Transport

if TYPE_CHECKING:
    import httpx

AUTO: Final[str] = "httpx"
"""What `auto` stands for where the parser of the direct one is installed; `httpx` elsewhere."""


def choose_transport(
    name: str, http_client: httpx.AsyncClient | None = None, *, connect_timeout_s: float = 5.0
) -> Transport:
    """Return a new transport for `auto`, `direct` or `httpx`.

    A client that was handed in is used whatever the name: it may have proxies, certificates or mocks of its own. Raises
    `ConfigurationError` when `direct` is asked for and its parser is not installed.
    """
    wanted = AUTO if name == "auto" else name
    if wanted == "direct" and http_client is None:
        if find_spec("httptools") is not None:
            from .direct.transport import DirectTransport

            return DirectTransport(connect_timeout_s=connect_timeout_s)
        if name == "direct":
            raise ConfigurationError(
                "transport: 'direct' needs the package httptools: pip install 'smartrouter-asgi[server]', or use 'auto'"
            )
    from .httpx_transport import HttpxTransport

    return HttpxTransport(http_client, connect_timeout_s=connect_timeout_s)
