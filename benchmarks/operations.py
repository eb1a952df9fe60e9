"""Single operations of the hot path, synchronous and by themselves."""

from __future__ import annotations

from collections.abc import Callable

from smartrouter_asgi.exceptions import AttemptError, AttemptRecord, FailureKind, RouteExhaustedError
from smartrouter_asgi.resilience.breaker import BreakerBoard
from smartrouter_asgi.wire.call import parse_call
from smartrouter_asgi.wire.errors import error_headers, openai_envelope
from smartrouter_asgi.wire.openai import OpenAIStreamCodec, read_plain

from .answers import ANSWER, ENGINE_MODEL, ROLE_EVENT, chat_body_of, stamped_event


def operations() -> dict[str, Callable[[], object]]:
    """Return the operations by the name to show."""
    found: dict[str, Callable[[], object]] = {}
    for label, size in (("1 KB", 1_000), ("10 KB", 10_000), ("200 KB", 200_000)):
        body = chat_body_of(size)
        call = parse_call("chat", body)
        found[f"parse_call, {label}"] = lambda body=body: parse_call("chat", body)
        found[f"with_model, {label}"] = lambda call=call: call.with_model(ENGINE_MODEL)
    found["OpenAIStreamCodec.feed, one chunk a read"] = _feed(stamped_event(1))
    found["OpenAIStreamCodec.feed, 200 chunks a read"] = _feed(stamped_event(1) * 200)
    found["read_plain, 600 bytes"] = lambda: read_plain("engine", ANSWER)
    board = BreakerBoard()
    found["breaker: get, peek, acquire, success"] = lambda: _breaker(board)
    error = _exhausted()
    found["RouteExhaustedError of 3 attempts, rendered"] = lambda: (
        openai_envelope(error),
        error_headers(error),
    )
    return found


def _feed(data: bytes) -> Callable[[], object]:
    codec = OpenAIStreamCodec("engine")
    codec.feed(ROLE_EVENT + stamped_event(0))
    return lambda: codec.feed(data)


def _breaker(board: BreakerBoard) -> None:
    breaker = board.get("engine", "chat")
    breaker.peek()
    breaker.acquire().success()


def _exhausted() -> RouteExhaustedError:
    cause = AttemptError("backend 'engine' answered 503", kind=FailureKind.SERVER, status=503, code="upstream_error")
    return RouteExhaustedError(
        cause,
        tuple(
            AttemptRecord(
                number=n, deployment=f"engine{n}/model", status=503, code="upstream_error", duration_s=0.0123 * n
            )
            for n in (1, 2, 3)
        ),
    )
