"""The base of all backends that speak HTTP."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import anyio
import msgspec

from ..deployment import Capabilities, Deployment
from ..exceptions import AttemptError, FailureKind
from ..transport.http import HTTPAnswer, HTTPRequest, Transport, header
from ..types import Clock, Headers
from ..wire.call import Call
from ..wire.decoding import JSON_ERRORS
from ..wire.retry_after import parse_retry_after
from ..wire.upstream_errors import classify_answer, redact
from .base import BackendSpec, BaseBackend
from .credentials import (
    NO_TOKEN_REST_S,
    KeyPool,
    KeyRefusedError,
    KeyState,
    KeyTrial,
    Verdict,
    judge,
)
from .http_exchange import Exchange, HTTPUpstream, without
from .tokens import Credential, FixedKey, TokenError

logger = logging.getLogger("smartrouter_asgi")

_PACKAGE = __name__.partition(".")[0]

MAX_ERROR_BYTES = 64 * 1024
MAX_URLS = 64
LIST_TIMEOUT_S = 5.0
ERROR_BODY_TIMEOUT_S = 2.0  # the status says enough to go on with
MIN_SECRET_LENGTH = 6  # anything shorter would take common words out of messages


class HTTPBackend(BaseBackend):
    """Base of the backends that speak HTTP: subclasses say how a call is written (`prepare`) and what lists look like.

    Translation stays pure: `prepare` gets a call and returns an `Exchange`; this class does the I/O around it.
    """

    type = "http"
    capabilities = Capabilities()

    def __init__(
        self, spec: BackendSpec, transport: Transport, *, credentials: Credential | Sequence[Credential] | None = None
    ) -> None:
        super().__init__(spec.name)
        self.spec = spec
        self._transport = transport
        self._clock: Clock = time.monotonic
        self._headers = tuple(self.base_headers())  # one object for all requests: a transport may know it again
        self._urls: dict[str, str] = {}
        """Of the paths that requests go to: few, and always the same."""
        headers = [value.reveal() for value in spec.headers.values()]
        words = [word for value in headers for word in value.split()]  # "Basic abc" may be quoted as "abc"
        self._hidden = (*(key.reveal() for key in spec.api_keys), *headers, *words)
        if credentials is None:
            credentials = [FixedKey(key) for key in dict.fromkeys(spec.api_keys) if key]
        self.credentials = credentials

    @property
    def cancels_natively(self) -> bool:
        """Whether a call may be cancelled in any way, not by anyio's scopes alone: its transport says so.

        Where tokens come from nobody knows, perhaps over httpx, nor what an `open` from outside the package waits for.
        """
        return self._cancels_natively

    @property
    def credentials(self) -> tuple[Credential, ...]:
        """Where the secrets of its requests come from: the spec's keys, or what was put here.

        `backend.credentials = TokenSource(callback)`, or several, before the first request. Empty: no auth header.
        """
        return self._credentials

    @credentials.setter
    def credentials(self, sources: Credential | Sequence[Credential]) -> None:
        self._credentials = tuple(sources) if isinstance(sources, Sequence) else (sources,)
        self._pool = KeyPool(len(self._credentials))
        fixed = all(isinstance(source, FixedKey) for source in self._credentials)
        ours = type(self).open.__module__.startswith(f"{_PACKAGE}.")
        self._cancels_natively = fixed and ours and bool(getattr(self._transport, "cancels_natively", False))

    def key_states(self) -> tuple[KeyState, ...]:
        """Return how each key is, in the order of the configuration; nothing in it is secret."""
        return self._pool.states(self._clock())

    def base_headers(self) -> Headers:
        """Headers of every request, keys aside: nothing of the client's is among them."""
        headers: Headers = [
            (b"content-type", b"application/json"),
            (b"accept-encoding", b"identity"),
            (b"user-agent", b"smartrouter-asgi"),
        ]
        headers.extend((k.lower().encode(), v.reveal().encode()) for k, v in self.spec.headers.items())
        return headers

    def auth_headers(self, secret: str) -> Headers:
        """Headers that carry one key or token; engines that want it elsewhere override this."""
        return [(b"authorization", b"Bearer " + secret.encode())]

    def prepare(self, call: Call, deployment: Deployment) -> Exchange:
        """Write a call in the engine's language. Raises `UnsupportedParameterError` (400)."""
        raise NotImplementedError

    async def open(self, call: Call, deployment: Deployment) -> HTTPUpstream:
        """Send a call and wait for the head of the answer; see `Backend.open`.

        What a key is refused for (401, 402, 403, 429) goes to the next key at once, each key at most once; the last
        refusal is raised.
        """
        exchange = self.prepare(call, deployment)
        wanted = exchange.stream_type if call.stream else None
        if not self._credentials:
            answer = await self._send(self.request("POST", exchange.path, exchange.body), wanted)
            return HTTPUpstream(answer, exchange, call.stream, self._known_secrets)
        trial = KeyTrial(self._pool)
        while chosen := trial.choose(self._clock()):
            index, lease = chosen
            try:
                answer = await self._send_with(index, "POST", exchange.path, exchange.body, wanted)
            except KeyRefusedError as exc:
                lease.release()
                self._warn_of_keys(trial.refused(index, exc, self._clock()))
            except BaseException:
                lease.release()
                raise
            else:
                self._warn_of_keys(trial.passed(index, self._clock()))
                return HTTPUpstream(answer, exchange, call.stream, self._known_secrets, lease)
        raise trial.failure(self.name, self._clock())

    def url_of(self, path: str) -> str:
        """Return the full URL of one of the engine's paths."""
        return self.spec.url + path

    def request(
        self, method: str, path: str, body: bytes = b"", secret: str | None = None, *, control: bool = False
    ) -> HTTPRequest:
        """Build a request to this backend, with one of its secrets."""
        headers = self._headers if secret is None else [*self._headers, *self.auth_headers(secret)]
        url = self._urls.get(path)
        if url is None:
            url = self.url_of(path)
            if not control and len(self._urls) < MAX_URLS:  # control calls go to the paths of single models as well
                self._urls[path] = url
        return HTTPRequest(backend=self.name, method=method, url=url, headers=headers, body=body, control=control)

    async def call_json(
        self, method: str, path: str, payload: Any = None, *, timeout_s: float = 10.0, limit: int = 16 * 1024 * 1024
    ) -> Any:
        """Do one small request of the management kind and decode its JSON answer. Raises `AttemptError`.

        Any key will do for it, a resting one at worst, and nothing is noted of a key that is refused: a key may well
        serve models and not be allowed to list them.
        """
        body = b"" if payload is None else msgspec.json.encode(payload)
        with anyio.move_on_after(timeout_s):
            answer = await self._send_with_any(method, path, body)
            try:
                data = await answer.read(limit)
            finally:
                await answer.aclose()
            try:
                return msgspec.json.decode(data) if data else None
            except JSON_ERRORS as exc:
                raise AttemptError(
                    f"backend '{self.name}' answered {path} with something that is not JSON",
                    kind=FailureKind.PROTOCOL,
                    code="upstream_protocol",
                ) from exc
        raise AttemptError(
            f"backend '{self.name}' did not answer {path} within {timeout_s:g} s",
            kind=FailureKind.FIRST_TOKEN_TIMEOUT,
            status=504,
            code="deadline_exceeded",
            type="timeout_error",
        )

    def classify(self, status: int, headers: Headers, body: bytes) -> AttemptError:
        """Say what an answer that is not 200 means; engines with habits of their own extend this."""
        retry_after_s = parse_retry_after(headers, now_wall=time.time())
        return classify_answer(self.name, status, body, retry_after_s=retry_after_s)

    def _known_secrets(self) -> tuple[str, ...]:
        """All that must not show in a message: keys, secret headers, tokens fetched lately."""
        known = (*self._hidden, *(secret for source in self._credentials for secret in source.seen))
        return tuple(secret for secret in dict.fromkeys(known) if len(secret) >= MIN_SECRET_LENGTH)

    async def _send(
        self, request: HTTPRequest, stream_type: bytes | None = None, *, keyed: bool = False, renewable: bool = False
    ) -> HTTPAnswer:
        """Send a request and return the answer that was asked for. Raises `KeyRefusedError` if `keyed`."""
        answer = await self._transport.open(request)
        try:
            if answer.status != 200:
                raise await self._failure(answer, keyed=keyed, renewable=renewable)
            self._check_head(answer, stream_type)
        except BaseException:
            await answer.aclose()
            raise
        return answer

    async def _send_with(
        self,
        index: int,
        method: str,
        path: str,
        body: bytes,
        stream_type: bytes | None = None,
        *,
        control: bool = False,
    ) -> HTTPAnswer:
        """Send a request with one key, or once more when its token can be had anew. Raises `KeyRefusedError`."""
        source = self._credentials[index]
        secret = await self._secret(source)
        renewable = source.renewable
        try:
            request = self.request(method, path, body, secret, control=control)
            return await self._send(request, stream_type, keyed=True, renewable=renewable)
        except KeyRefusedError as exc:
            if exc.status != 401 or not source.renew(secret):
                raise
        request = self.request(method, path, body, await self._secret(source), control=control)
        return await self._send(request, stream_type, keyed=True, renewable=renewable)

    async def _send_with_any(self, method: str, path: str, body: bytes) -> HTTPAnswer:
        """Send a control call, with whichever key is taken."""
        refusal: AttemptError | None = None
        for index in self._pool.preferred(self._clock()):
            try:
                return await self._send_with(index, method, path, body, control=True)
            except KeyRefusedError as exc:
                refusal = exc.error
        if refusal is not None:
            raise refusal
        return await self._send(self.request(method, path, body, control=True))

    async def _secret(self, source: Credential) -> str:
        try:
            return await source.secret()
        except TokenError as exc:
            error = AttemptError(f"backend '{self.name}': {exc}", kind=FailureKind.AUTH, code="upstream_auth")
        raise KeyRefusedError(error, Verdict(NO_TOKEN_REST_S))

    def _warn_of_keys(self, news: Sequence[tuple[int, Verdict]]) -> None:
        size = len(self._pool)
        for index, verdict in news:
            if verdict.rests_for_s is None:
                rest = " and is not used while another one is left" if size > 1 else ""
                logger.warning("backend '%s': api key %d of %d was refused%s", self.name, index + 1, size, rest)
            elif verdict.quota:
                told = "backend '%s': api key %d of %d has no quota left"
                logger.warning(told, self.name, index + 1, size)

    async def _failure(self, answer: HTTPAnswer, *, keyed: bool, renewable: bool) -> AttemptError | KeyRefusedError:
        body = b""
        try:
            with anyio.move_on_after(ERROR_BODY_TIMEOUT_S):
                body = await answer.read(MAX_ERROR_BYTES)
        except AttemptError:
            pass
        secrets = self._known_secrets()
        error = self.classify(answer.status, answer.headers, without(body, secrets))
        redact(error, secrets)
        verdict = judge(answer.status, error, body, renewable=renewable) if keyed else None
        return error if verdict is None else KeyRefusedError(error, verdict, status=answer.status)

    def _check_head(self, answer: HTTPAnswer, stream_type: bytes | None) -> None:
        """Refuse what was not asked for: a compressed body, or anything but a stream where a stream was wanted."""
        found, wanted = None, "plain bytes"
        encoding = header(answer.headers, b"content-encoding")
        if encoding is not None and encoding.lower() != b"identity":
            found = encoding
        elif stream_type is not None:
            kind = header(answer.headers, b"content-type") or b"nothing"
            # Errors in a 200 come as JSON; the codec reads those.
            if not kind.lower().startswith((stream_type, b"application/json")):
                found, wanted = kind, "a stream"
        if found is not None:
            raise AttemptError(
                f"backend '{self.name}' answered with {found.decode('latin-1')[:60]!r} instead of {wanted}",
                kind=FailureKind.PROTOCOL,
                code="upstream_protocol",
            )
