"""The ASGI craft that every layer needs: read a body, replay it, notice that the client left, render an error.

A layer that finds no state in the scope is the outermost of ours. It then does what the whole package promises at its
edge, by `at_the_edge`: errors become answers, the body is read once with a limit, one watcher cancels everything below
when the client leaves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

from ._request_id import new_request_id
from ._sending import TrackedSend
from ._watch import run_watched
from .events import Observer, RequestFinished
from .exceptions import BodyTimeoutError, BodyTooLargeError, DrainingError, SmartRouterError
from .state import SCOPE_KEY, RequestState, find_state
from .types import ASGIApp, Headers, Message, Receive, Scope, Send
from .wire.errors import ErrorEncoder, error_headers, openai_envelope

logger = logging.getLogger("smartrouter_asgi")


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimits:
    """How large a request body may be, and how long it may take to arrive."""

    max_bytes: int = 10 * 1024 * 1024
    timeout_s: float = 30.0


DEFAULT_LIMITS = BodyLimits()

THROWN_AWAY_BYTES = 64 * 1024 * 1024
"""A refused body up to this is left to the server, which throws it away: on a connection that is closed under them most
clients go on sending and never see the answer."""


def route_path(scope: Scope) -> str:
    """Return the path below the mount point."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return path[len(root) :]
    return path


async def send_json(send: Send, status: int, body: bytes, headers: Headers | None = None) -> None:
    """Send a whole JSON answer."""
    pairs: Headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": pairs + (headers or [])})
    await send({"type": "http.response.body", "body": body})


async def with_envelope(
    app: ASGIApp,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    encoder: ErrorEncoder = openai_envelope,
    observer: Observer | None = None,
    catch_all: bool = False,
) -> None:
    """Call `app` with a new state in the scope and turn its errors into answers while that is still possible.

    `catch_all` also answers for errors that are not ours (500, logged); otherwise those pass, as they would without us.
    """
    outer = find_state(scope)
    scope = dict(scope)
    headers = dict(scope.setdefault("headers", []))
    request_id = new_request_id(headers.get(b"x-request-id")) if outer is None else outer.request_id
    state = scope[SCOPE_KEY] = RequestState(request_id=request_id, started=time.monotonic(), headers=headers)
    tracked = TrackedSend(send, state, request_id=request_id if outer is None else None)
    try:
        await app(scope, receive, tracked)
    except SmartRouterError as exc:
        state.outcome = exc.code
        if state.committed:
            raise
        await _send_error(tracked, exc, encoder, scope)
    except Exception as exc:
        state.outcome = "internal_error"
        if not catch_all or state.committed:
            raise
        logger.exception("request %s failed inside the gateway", state.request_id)
        error = SmartRouterError("the gateway failed to serve this request; its log says why")
        error.__cause__ = exc
        await _send_error(tracked, error, encoder, scope)
    finally:
        if observer is not None:
            observer.on_event(_finished(state))


async def with_body(
    app: ASGIApp,
    scope: Scope,
    receive: Receive,
    send: Send,
    state: RequestState,
    limits: BodyLimits,
    native: bool = False,
) -> None:
    """Read the body, then call `app` with a replay of it, cancelled as soon as the client leaves; see `run_watched`.

    Raises `BodyTooLargeError` (413) without reading the rest, `BodyTimeoutError` (408), and the error a request was
    ended with, unless it was committed by then.
    """
    state.body = await _read_in_time(receive, state, limits)
    if state.body is None:
        state.disconnected = True
        state.outcome = "client_disconnected"
        return
    await run_watched(app, scope, ReplayReceive(state), send, receive=receive, state=state, native=native)
    if state.disconnected:
        state.outcome = "client_disconnected"
    elif state.ended is not None and not state.committed:
        raise state.ended


async def at_the_edge(
    layer: ASGIApp, scope: Scope, receive: Receive, send: Send, *, limits: BodyLimits = DEFAULT_LIMITS
) -> None:
    """Call `layer` again with all that the outermost of ours provides."""
    state = find_state(scope)
    if state is None:
        await with_envelope(_Prepared(layer, limits), scope, receive, send)
    else:
        await with_body(layer, scope, receive, send, state, limits)


class _Prepared:
    """The step from `with_envelope` to `with_body`."""

    __slots__ = ("_layer", "_limits")

    def __init__(self, layer: ASGIApp, limits: BodyLimits) -> None:
        self._layer = layer
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await with_body(self._layer, scope, receive, send, scope[SCOPE_KEY], self._limits)


class ReplayReceive:
    """A `receive` that gives the body once and then, when it is true, the disconnect.

    One for each attempt: the inner app may read the body again.
    """

    __slots__ = ("_given", "_state")

    def __init__(self, state: RequestState) -> None:
        self._given = False
        self._state = state

    async def __call__(self) -> Message:
        if not self._given:
            self._given = True
            return {"type": "http.request", "body": self._state.body or b"", "more_body": False}
        await self._state.gone()
        return {"type": "http.disconnect"}


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, max_bytes: int) -> bytes | None:
    """Read the whole body; None when the client left before it was whole. Raises `BodyTooLargeError` (413)."""
    length = _length(headers)
    if length is not None and length > max_bytes:
        raise _too_large(max_bytes)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            raise _too_large(max_bytes)
        if not message.get("more_body", False):
            if not parts:
                return bytes(part)
            parts.append(part)
            return b"".join(parts)
        parts.append(part)


async def _read_in_time(receive: Receive, state: RequestState, limits: BodyLimits) -> bytes | None:
    """Read the whole body; None when the client left.

    Raises `BodyTooLargeError` (413), `BodyTimeoutError` (408), or what the request was ended with.
    """
    reading = state.work = _Reading()
    timer = asyncio.get_running_loop().call_later(limits.timeout_s, reading.cancel)
    try:
        body = await read_body(state.headers, receive, limits.max_bytes)
        if not reading.cancel_called:
            return body
        await asyncio.sleep(0)  # ended in the very moment in which it was whole: the cancellation is still to come
    except asyncio.CancelledError:
        if not reading.was_ended():
            raise
    finally:
        timer.cancel()
    if state.ended is not None:
        raise state.ended
    raise BodyTimeoutError(f"the request body did not arrive within {limits.timeout_s:g} s")


class _Reading:
    """The reading of a body in the server's own task; it is ended by one native cancellation, and then by no other."""

    __slots__ = ("_before", "_task", "cancel_called")

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # a coroutine on asyncio runs in a task
        self._task = task
        self._before = task.cancelling()
        self.cancel_called = False

    def cancel(self) -> None:
        if not self.cancel_called:
            self.cancel_called = True
            self._task.cancel()

    def was_ended(self) -> bool:
        """Tell whether a cancellation is the one asked for here, and nobody else's besides."""
        return self.cancel_called and self._task.uncancel() <= self._before


async def _send_error(send: Send, exc: SmartRouterError, encoder: ErrorEncoder, scope: Scope) -> None:
    headers = error_headers(exc)
    # What is left of the body is not read; or the next request shall find somebody else. HTTP/2 has no such header.
    ends = exc.status == 408 or exc.code == DrainingError.code or (exc.status == 413 and _is_endless(scope))
    if ends and scope.get("http_version", "1.1") < "2":
        headers.append((b"connection", b"close"))
    body = encoder(exc)
    await send_json(send, exc.status, b"" if scope["method"] == "HEAD" else body, headers)


def _is_endless(scope: Scope) -> bool:
    """Tell whether the length of a body is not known, or more than any server should have to throw away."""
    length = _length(dict(scope["headers"]))
    return length is None or length > THROWN_AWAY_BYTES


def _length(headers: Mapping[bytes, bytes]) -> int | None:
    value = headers.get(b"content-length")
    return int(value[:18]) if value is not None and value.isdigit() else None


def _too_large(max_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"the request body is larger than the {max_bytes} bytes allowed")


def _finished(state: RequestState) -> RequestFinished:
    attempt = state.attempt
    usage = state.usage
    outcome = state.outcome or ("ok" if 0 < state.status < 400 else "error" if state.status else "client_disconnected")
    return RequestFinished(
        request_id=state.request_id,
        endpoint=state.endpoint,
        model=state.plan.model if state.plan is not None else "other",
        backend=attempt.deployment.backend if attempt is not None else "other",
        status=state.status,
        outcome=outcome,
        attempts=state.attempts,
        duration_s=time.monotonic() - state.started,
        first_token_s=state.first_token_s,
        prompt_tokens=usage.prompt_tokens if usage is not None else 0,
        completion_tokens=usage.completion_tokens if usage is not None else 0,
    )


def declared(app: object, name: str) -> bool:
    """Tell whether a layer inside says of itself that it does this (`starts_attempts`, `keeps_deadline`)."""
    while app is not None:
        if getattr(app, name, False):
            return True
        app = getattr(app, "app", None)
    return False
