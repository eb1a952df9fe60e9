"""Where a backend's secret comes from: configuration, an environment variable, or a callback that fetches tokens.

`backend.credentials = TokenSource(callback)` is all that Azure's Entra tokens, Vertex's OAuth tokens and others that
expire need: `TokenSource(lambda: tuple(azure_credential.get_token(scope)[:2]))`.
"""

from __future__ import annotations

import inspect
import logging
import math
import os
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

import anyio
import anyio.to_thread

from ..types import Clock, Secret

RENEW_AGE_S = 10.0
"""A token younger than this that is refused is not fetched again: the next one would be no better."""
RETRY_CALLBACK_S = 2.0
TOKENS_KEPT = 4  # for redaction: answers under way may still quote an older one

_VISIBLE = re.compile(r"[\x21-\x7e]+")

Token: TypeAlias = str | tuple[str, float | None]
"""A token, or a token and when it expires (Unix seconds; None: never)."""

logger = logging.getLogger("smartrouter_asgi")


class TokenError(Exception):
    """There is no secret to be had; the message is fit for clients. Never leaves the backends."""


class Credential(Protocol):
    """Where a backend's secret comes from. Its `repr` shows nothing of it."""

    renewable: bool
    """Another secret may be had after this one was refused."""

    @property
    def seen(self) -> tuple[str, ...]:
        """The secrets that may still be in use: what has to be kept out of messages."""

    async def secret(self) -> str:
        """Return the secret to use now. Raises `TokenError`."""

    def renew(self, secret: str) -> bool:
        """Say that a secret was refused with 401; true when another may be had at once."""


class FixedKey:
    """A key from configuration."""

    renewable = False

    def __init__(self, key: Secret) -> None:
        self._key = key

    @property
    def seen(self) -> tuple[str, ...]:
        """The key."""
        return (self._key.reveal(),)

    async def secret(self) -> str:
        """Return the key."""
        return self._key.reveal()

    def renew(self, secret: str) -> bool:
        """Say no: there is no other."""
        return False


class EnvironmentKey:
    """A key from an environment variable, read at each use: what replaces it in the process is used at once."""

    renewable = True

    def __init__(self, name: str) -> None:
        self.name = name
        self._seen: deque[str] = deque(maxlen=TOKENS_KEPT)

    def __repr__(self) -> str:
        return f"EnvironmentKey({self.name!r})"

    @property
    def seen(self) -> tuple[str, ...]:
        """The values it had lately."""
        return tuple(self._seen)

    async def secret(self) -> str:
        """Return the variable's value. Raises `TokenError` when it is not set or no key."""
        value = self._value()
        if not value:
            raise TokenError(f"the environment variable {self.name} is not set")
        if not _VISIBLE.fullmatch(value):
            raise TokenError(f"the environment variable {self.name} holds no key of visible ASCII characters")
        _remember(self._seen, value)
        return value

    def renew(self, secret: str) -> bool:
        """Tell whether the variable has another value by now."""
        return self._value() not in ("", secret)

    def _value(self) -> str:
        return os.environ.get(self.name, "").strip()


class TokenSource:
    """Tokens from a callback, fetched when first used and again `refresh_before_s` before they expire.

    The callback returns a token, or `(token, expires_at)` in Unix seconds; it is `async`, or runs in a thread. One call
    is under way at a time, and requests go on with the last good token meanwhile. That token is kept until it expires
    when the callback fails. Nothing the callback raises is shown but the name of the exception's class.
    """

    renewable = True

    def __init__(
        self,
        callback: Callable[[], Token | Awaitable[Token]],
        *,
        refresh_before_s: float = 300.0,
        timeout_s: float = 15.0,
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
    ) -> None:
        self._callback = callback
        self._refresh_before_s = refresh_before_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._wall = wall
        self._lock: anyio.Lock | None = None
        self._token: str | None = None
        self._fetched_at = self._refresh_at = self._expires_at = 0.0
        self._retry_at = 0.0
        self._failure: str | None = None
        self._seen: deque[str] = deque(maxlen=TOKENS_KEPT)

    def __repr__(self) -> str:
        return f"TokenSource({getattr(self._callback, '__qualname__', type(self._callback).__name__)})"

    @property
    def seen(self) -> tuple[str, ...]:
        """The last tokens that were fetched."""
        return tuple(self._seen)

    async def secret(self) -> str:
        """Return a token that has not expired, fetching one if need be. Raises `TokenError`."""
        token = self._usable(refreshing=self._lock is not None and self._lock.locked())
        if token is not None:
            return token
        if self._lock is None:
            self._lock = anyio.Lock()
        async with self._lock:
            token = self._usable(refreshing=False)
            if token is None:
                await self._fetch()
                token = self._usable(refreshing=True)
        if token is None:
            raise TokenError(self._failure or "the token has expired")
        return token

    def renew(self, secret: str) -> bool:
        """Drop a refused token, unless it is so young that another would be no better."""
        if self._token == secret:
            if self._clock() < self._fetched_at + RENEW_AGE_S:
                return False
            self._token = None
        return True

    def _usable(self, *, refreshing: bool) -> str | None:
        """Return the token when it will do; one that is due will do while it is being refreshed or cannot be."""
        now = self._clock()
        if self._token is not None and now < self._expires_at:
            return self._token if refreshing or now < max(self._refresh_at, self._retry_at) else None
        if now < self._retry_at:
            raise TokenError(self._failure or "the token has expired")
        return None

    async def _fetch(self) -> None:
        try:
            with anyio.fail_after(self._timeout_s):
                token, expires_at = _read(await self._call())
            now = self._clock()
            left_s = math.inf if expires_at is None else float(expires_at) - self._wall()
            if left_s <= 0:
                raise TokenError("the token callback returned a token that has expired")
        except Exception as exc:
            known = self._failure is not None
            told = isinstance(exc, TokenError)
            self._failure = str(exc) if told else f"the token callback failed ({type(exc).__name__})"
            self._retry_at = self._clock() + RETRY_CALLBACK_S
            if not known:
                logger.warning("no new token from %s: %s; the last one is used until it expires", self, self._failure)
            return
        self._token, self._failure, self._retry_at = token, None, 0.0
        self._fetched_at, self._expires_at = now, now + left_s
        self._refresh_at = now + left_s - min(self._refresh_before_s, left_s / 2)
        _remember(self._seen, token)

    async def _call(self) -> object:
        if inspect.iscoroutinefunction(self._callback):
            return await self._callback()
        result = await anyio.to_thread.run_sync(self._callback, abandon_on_cancel=True)
        return await result if inspect.isawaitable(result) else result


def _read(result: object) -> tuple[str, float | None]:
    token, expires_at = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if not isinstance(token, str) or not _VISIBLE.fullmatch(token):
        raise TokenError("the token callback returned no token of visible ASCII characters")
    if expires_at is not None and (not isinstance(expires_at, int | float) or math.isnan(expires_at)):
        raise TokenError("the token callback returned an expiry that is no number of Unix seconds")
    return token, expires_at


def _remember(seen: deque[str], secret: str) -> None:
    if secret not in seen:
        seen.append(secret)
