"""What becomes of a stream whose engine fails: before commit another attempt or a status, after it one error event."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from ..harness.answers import last_error
from ..harness.engines import DONE, ROLE, STREAM, chunk, good, silent, streaming
from ..harness.gateways import gateway_over
from ..harness.routers import chat
from ..harness.servers import Exchange, RawServer, Script

PATIENT = {"first_token": "10s", "idle": "10s", "total": "20s", "connect": "1s"}
HASTY = {**PATIENT, "first_token": "700ms"}
RESTLESS = {**PATIENT, "idle": "700ms"}


async def ask(
    *scripts: Script, body: dict[str, Any] | None = None, **settings: Any
) -> tuple[httpx.Response, list[int]]:
    """Ask a router over scripted engines; return its answer and how often each engine was asked. Nothing is left."""
    resilience = {"timeouts": PATIENT, "retry": {"base_delay": "5ms", "max_delay": "10ms"}, **settings}
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(RawServer(script)) for script in scripts]
        gateway = await stack.enter_async_context(gateway_over(*engines, resilience=resilience, serves_on=False))
        response = await gateway.client.post(f"{gateway.url}/v1/chat/completions", json=body or chat(stream=True))
    return response, [len(engine.exchanges) for engine in engines]


async def broken_off(script: Script) -> httpx.Response:
    """Ask engines of which the first breaks off: nobody else is asked, and it is held against it."""
    async with RawServer(script) as bad, RawServer(good) as other, gateway_over(bad, other) as gateway:
        response = await gateway.ask(stream=True)
        assert other.exchanges == []
        assert gateway.breaker("b1", "stream") == "open"
        bad.script = good
    return response


@pytest.mark.parametrize("end", ["fin", "rst", "half"])
async def test_row_14_a_connection_cut_in_the_middle_is_told(end: str):
    """Delivered chunks, then `upstream_disconnected`; also in the middle of a chunk."""
    response = await broken_off(streaming(ROLE, chunk("Hel"), end=end))
    assert response.content.startswith(ROLE + chunk("Hel") + b'data: {"error"')
    assert last_error(response)["code"] == "upstream_disconnected"


async def test_row_15_a_clean_end_without_a_terminal_event_is_truncation():
    """EOF without finish_reason or [DONE] is never success, for the client or for the breaker."""
    response = await broken_off(streaming(ROLE, chunk("Hel")))
    assert last_error(response)["code"] == "upstream_truncated"


@pytest.mark.parametrize("end", ["clean", "fin"])
@pytest.mark.parametrize(
    "half",
    [
        b'data: {"choices": [{"delta": {"content": "unfin',
        b'data: {"choices": [{"delta": {"content": "\xe2\x82',
        b"dat",
        chunk("lo")[:-1],
    ],
    ids=["JSON", "character", "field", "line end"],
)
async def test_row_16_half_an_event_is_never_forwarded(half: bytes, end: str):
    """What has no blank line after it is dropped."""
    response, _ = await ask(streaming(ROLE, chunk("Hel"), half, end=end))
    assert response.content.startswith(ROLE + chunk("Hel") + b'data: {"error"')
    assert last_error(response)["code"] == ("upstream_truncated" if end == "clean" else "upstream_disconnected")


async def test_row_17_a_missing_done_is_added_after_a_finish():
    """finish_reason says that the answer is whole."""
    response, _ = await ask(streaming(*STREAM[:-1]))
    assert response.content == b"".join(STREAM)


async def test_row_11_silence_in_the_middle_ends_the_stream():
    """The idle clock ends it, and nobody else is asked."""
    response, asked = await ask(streaming(ROLE, chunk("Hel"), end="hang"), good, timeouts=RESTLESS)
    assert last_error(response)["code"] == "upstream_idle_timeout"
    assert asked == [1, 0]


async def test_row_10_headers_and_then_nothing_is_a_failed_attempt():
    """Not committed yet: the next candidate answers, the client never knows."""
    response, asked = await ask(streaming(end="hang"), good, timeouts=HASTY)
    assert response.content == b"".join(STREAM)
    assert asked == [1, 1]
    assert response.headers["x-smartrouter-attempts"] == "2"


async def test_row_10_a_role_and_then_nothing_is_a_failed_attempt():
    """A role-only chunk says nothing yet and does not commit."""
    response, asked = await ask(streaming(ROLE, end="hang"), good, timeouts=HASTY)
    assert response.content == b"".join(STREAM)
    assert asked == [1, 1]


async def test_row_8_no_headers_at_all_is_a_failed_attempt():
    """The next candidate answers."""
    response, asked = await ask(silent, good, timeouts=HASTY)
    assert (response.content, asked) == (b"".join(STREAM), [1, 1])


async def test_row_8_no_headers_at_all_times_out():
    """With nobody else to ask the answer is 504, and each was asked once."""
    started = time.monotonic()
    response, asked = await ask(silent, silent, timeouts=HASTY)
    assert 1.4 <= time.monotonic() - started < 7, "twice the first token's clock"
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "first_token_timeout"
    assert asked == [1, 1]


def for_ever(begin: bytes, again: bytes) -> Script:
    """An engine that says the same again and again, as long as somebody listens."""

    async def script(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.chunk(begin)
        try:
            while not exchange.writer.is_closing():
                await exchange.chunk(again)
                await asyncio.sleep(0.05)
        except ConnectionError:
            return

    return script


async def test_row_12_comments_for_ever_do_not_keep_a_stream_alive():
    """Pings feed no clock after commit."""
    response, _ = await ask(for_ever(ROLE + chunk("Hel"), b": ping\n\n"), timeouts=RESTLESS)
    assert last_error(response)["code"] == "upstream_idle_timeout"


@pytest.mark.parametrize("again", [b": ping\n\n", chunk(""), ROLE], ids=["comments", "empty deltas", "roles"])
async def test_row_12_what_says_nothing_does_not_keep_an_attempt_alive(again: bytes):
    """Nor before it: the next candidate answers."""
    response, asked = await ask(for_ever(ROLE, again), good, timeouts=HASTY)
    assert (response.content, asked) == (b"".join(STREAM), [1, 1])


async def test_row_18_an_error_as_first_event_is_a_failed_attempt():
    """It becomes a status, or the next candidate's answer."""
    error = b'data: {"error": {"message": "boom", "code": 503}}\n\n'
    response, asked = await ask(streaming(error), good)
    assert response.content == b"".join(STREAM)
    assert asked == [1, 1]
    response, _ = await ask(streaming(error), retry={"enabled": False})
    assert response.status_code == 503
    assert response.json()["error"]["message"] == "boom"


@pytest.mark.parametrize(
    ("message", "breaker"), [("boom", "open"), ("llama runner process has terminated: exit status 2", "closed")]
)
async def test_row_18_a_later_error_is_passed_on_and_counts_by_its_class(message: str, breaker: str):
    """As one error event; nobody else is asked. A model's failure says nothing against its server."""
    error = b'data: {"error": {"message": "%s", "code": 500}}\n\n' % message.encode()
    script = streaming(ROLE, chunk("H"), chunk("e"), chunk("l"), error)
    async with RawServer(script) as bad, RawServer(good) as other, gateway_over(bad, other) as gateway:
        response = await gateway.ask(stream=True)
        assert response.content.startswith(ROLE + chunk("H") + chunk("e") + chunk("l") + b'data: {"error"')
        assert last_error(response)["message"] == message
        assert other.exchanges == []
        assert gateway.breaker("b1", "stream") == breaker
        bad.script = good


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"error": {"message": "boom", "code": 500}}\n\n',
        b'error: {"code": 500, "message": "boom"}\n\n',
        b'event: error\ndata: {"message": "boom"}\n\n',
        b'data: {"error": "boom"}\n\n',
        b'data: {"id":"x","error":{"code":502,"message":"boom"},"choices":[{"delta":{"content":""},'
        b'"finish_reason":"error"}]}\n\n',
    ],
    ids=["vllm", "old-llama.cpp", "event-error", "string", "openrouter"],
)
async def test_row_19_every_dialect_of_error_in_a_stream_becomes_one(event: bytes):
    """The OpenAI SDK raises on the one form that is sent."""
    response, _ = await ask(streaming(ROLE, chunk("Hel"), event))
    assert last_error(response)["message"] == "boom"


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b'{"error": {"message": "boom", "code": 503}}', 503),
        ("text/html", b"<html>oops</html>", 502),
        ("application/json", b'{"hello": 1}', 502),
    ],
)
async def test_row_19_what_is_no_stream_is_an_error_status(content_type: str, body: bytes, status: int):
    """A 200 that holds JSON or HTML instead of events is not an empty success."""

    async def script(exchange: Exchange) -> None:
        await exchange.answer(200, body, content_type)

    response, _ = await ask(script, retry={"enabled": False})
    assert response.status_code == status


@pytest.mark.parametrize("begun", [True, False])
async def test_row_22_an_endless_event_is_refused(begun: bool):
    """It ends the stream, or the attempt, and its 200 MB are never held."""
    left = 200 * 16

    async def endless(exchange: Exchange) -> None:
        nonlocal left
        await exchange.start_stream()
        await exchange.chunk((ROLE + chunk("Hel") if begun else b"") + b'data: {"x": "')
        try:
            while left and not exchange.writer.is_closing():
                await exchange.chunk(b"x" * 65536)
                left -= 1
        except ConnectionError:
            return

    tracemalloc.start()
    try:
        response, asked = await ask(endless, good)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert left
    assert peak_bytes < 16_000_000
    if begun:
        assert last_error(response)["code"] == "event_too_large"
    assert asked == ([1, 0] if begun else [1, 1])


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
async def test_row_25_any_line_end_and_any_cut_mean_the_same(end: str):
    """CRLF, CR and LF frame alike, cut at every byte; U+2028 inside JSON is content."""
    events = [ROLE, chunk("a\u2028b"), chunk(finish="stop"), DONE]
    data = b"".join(events).replace(b"\n", end.encode()).replace(b"data: ", b"data:")
    response, _ = await ask(streaming(*[data[i : i + 1] for i in range(len(data))]))
    # A CRLF cut in two at the very end may lose its LF: the blank line is whole without it.
    assert response.content.rstrip(b"\r\n") == data.rstrip(b"\r\n")


async def test_row_13_a_slow_stream_within_its_limits_passes():
    """The idle clock starts anew at each event."""

    async def slow(exchange: Exchange) -> None:
        await exchange.start_stream()
        for event in [ROLE, *[chunk(str(n)) for n in range(5)], chunk(finish="stop"), DONE]:
            await asyncio.sleep(0.25)
            await exchange.chunk(event)
        await exchange.end_stream()

    response, _ = await ask(slow, timeouts={**PATIENT, "idle": "1500ms"})
    assert response.text.endswith("data: [DONE]\n\n")


async def test_the_deadline_ends_a_stream_that_never_does():
    """A committed stream at its deadline ends with `stream_deadline`."""
    response, _ = await ask(for_ever(ROLE, chunk("x")), timeouts={**PATIENT, "total": "1500ms"})
    assert last_error(response)["code"] == "stream_deadline"


async def test_what_was_whole_before_a_broken_event_is_delivered():
    """A good event and a broken one in a single read: the first still reaches the client."""
    response, _ = await ask(streaming(ROLE + chunk("Hel") + chunk("lo") + b'data: {"error" broken\n\n'))
    assert response.text.startswith((ROLE + chunk("Hel") + chunk("lo")).decode())
    assert last_error(response)["code"] == "upstream_protocol"


@pytest.mark.parametrize("tail", [b'data: {"error": {"message": "late"}}\n\n', chunk("more"), b"data: \xff\n\n"])
async def test_nothing_follows_done(tail: bytes):
    """Also when it comes in the same read."""
    response, _ = await ask(streaming(ROLE + chunk("Hel") + chunk(finish="stop") + DONE + tail))
    assert response.content == ROLE + chunk("Hel") + chunk(finish="stop") + DONE


@pytest.mark.parametrize("bad", [b'data: {"choices": [{"delta": {"content": "\xff\xfe"}}]}\n\n'])
async def test_row_24_bytes_that_are_no_utf_8_are_a_failed_attempt_and_no_crash(bad: bytes):
    """Before commit the next candidate answers."""
    response, asked = await ask(streaming(bad), good)
    assert response.content == b"".join(STREAM)
    assert asked == [1, 1]


async def test_row_24_a_plain_answer_that_is_no_utf_8_is_a_failed_attempt():
    """The same for an answer that is not streamed."""

    async def bad(exchange: Exchange) -> None:
        await exchange.answer(200, b'{"error": "\xff"}')

    response, asked = await ask(bad, good, body=chat())
    assert (response.status_code, asked) == (200, [1, 1])


async def test_comments_alone_commit_nothing():
    """However many there are: an error after them is still a status, or another's answer."""
    pings = b": ping\n\n" * 10_000
    response, asked = await ask(streaming(pings, b'data: {"error": {"message": "x", "code": 503}}\n\n'), good)
    assert response.content == b"".join(STREAM)
    assert asked == [1, 1]


@pytest.mark.parametrize("status", [201, 204, 202])
async def test_a_success_that_is_no_answer_is_a_failed_attempt(status: int):
    """Never passed on as if it were one."""

    async def odd(exchange: Exchange) -> None:
        await exchange.answer(status, b"" if status == 204 else b"{}")

    response, asked = await ask(odd, good, body=chat())
    assert (response.status_code, asked) == (200, [1, 1])
    response, _ = await ask(odd, body=chat())
    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_protocol")


async def test_an_error_whose_body_hangs_delays_nobody():
    """The status says enough to go on with."""

    async def half(exchange: Exchange) -> None:
        await exchange.write(b"HTTP/1.1 500 X\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
        await exchange.gone()

    started = time.monotonic()
    response, asked = await ask(half, good)
    assert (response.status_code, asked) == (200, [1, 1])
    assert time.monotonic() - started < 9
