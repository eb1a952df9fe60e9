"""Whom the lane trusts: the same authorities as httpx with `trust_env=False`, so that a switch changes no verdict.

Those are certifi's, which httpx brings; `SSL_CERT_FILE` and `SSL_CERT_DIR` are not read. A server with a certificate of
its own is reached with a client that trusts it: `SmartRouter(settings, http_client=...)`.
"""

from __future__ import annotations

import ssl
from functools import lru_cache

import certifi


@lru_cache(maxsize=1)
def default_context() -> ssl.SSLContext:
    """Return the context of every connection that was given none; it verifies certificate and host name."""
    context = ssl.create_default_context(cafile=certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context
