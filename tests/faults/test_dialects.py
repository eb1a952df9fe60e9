"""What engines say under 200: errors that were swallowed, one model's failures, texts at the edge of JSON and UTF-8."""

from __future__ import annotations

import json

import pytest

from ..harness.answers import last_error
from ..harness.engines import ANSWER, DONE, ROLE, STREAM, chunk, good, streaming
from ..harness.gateways import gateway_over
from ..harness.servers import Exchange, RawServer

PLAIN = json.dumps(ANSWER).encode()


# -- row 19

TEXT = "llama runner process has terminated: exit status 2"
DIALECTS = {
    "vllm": b'data: {"error": {"message": "%s", "code": 500}}\n\n',
    "no-code": b'data: {"error": {"message": "%s", "type": "api_error", "code": null}}\n\n',
    "old-llama.cpp": b'error: {"code": 500, "message": "%s"}\n\n',
    "event-error": b'event: error\ndata: {"message": "%s"}\n\n',
    "string": b'data: {"error": "%s"}\n\n',
    "flat-vllm": b'data: {"object": "error", "message": "%s", "code": 500, "error": {"message": "%s"}}\n\n',
    "openrouter": b'data: {"error": {"code": 502, "message": "%s"}, "choices": [{"finish_reason": "error"}]}\n\n',
    "json-in-200": b'{"error": {"message": "%s", "code": 500}}',
}


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_row_19_a_model_s_failure_is_one_in_every_dialect(dialect: str):
    """The next candidate answers, the server keeps its breaker, and a client that is told learns which it was."""
    event = DIALECTS[dialect].replace(b"%s", TEXT.encode())

    async with RawServer(streaming(event)) as bad, RawServer(good) as engine:
        async with gateway_over(bad, engine) as gateway:
            response = await gateway.ask(stream=True)
            assert (response.content, response.headers["x-smartrouter-attempts"]) == (b"".join(STREAM), "2")
            assert gateway.breaker("b1", "stream") == "closed"
            bad.script = good
        bad.script = streaming(event)
        async with gateway_over(bad, serves_on=False) as gateway:
            response = await gateway.ask(stream=True)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["message"]) == (503, "model_load_failed", TEXT)


# -- row 20


@pytest.mark.parametrize("stream", [[ROLE, chunk("")], [chunk("")], []], ids=["role", "empty", "nothing"])
async def test_row_20_an_error_ollama_swallowed_is_a_failed_attempt(stream: list[bytes]):
    """An empty chunk and a clean end under 200: nothing was said, so the next candidate answers."""
    async with RawServer(streaming(*stream)) as bad, RawServer(good) as engine:
        async with gateway_over(bad, engine) as gateway:
            response = await gateway.ask(stream=True)
            assert (response.content, response.headers["x-smartrouter-attempts"]) == (b"".join(STREAM), "2")
            bad.script = good


async def test_row_20_an_error_ollama_swallowed_later_is_truncation():
    """After text it is an error event, and a failure of the engine."""
    async with RawServer(streaming(ROLE, chunk("Hel"), chunk(""))) as bad, RawServer(good) as engine:
        async with gateway_over(bad, engine) as gateway:
            assert last_error(await gateway.ask(stream=True))["code"] == "upstream_truncated"
            assert gateway.breaker("b1", "stream") == "open"
            assert engine.exchanges == []
            bad.script = good


# -- row 24

ODD = r"\ud83d \u0000 "


@pytest.mark.parametrize("said", [f"{ODD}a\u2028b\u0085c\u2029".encode(), rb"\ud83d", rb"\u0000", b"\x7f"])
async def test_row_24_whatever_json_allows_is_kept_byte_for_byte(said: bytes):
    """Half a surrogate pair, NUL as an escape, line ends that are none: as the first event, as a later one, plain."""
    event = chunk("HERE").replace(b"HERE", said)
    events = [ROLE, event, chunk("lo"), event, chunk(finish="stop"), DONE]
    plain = PLAIN.replace(b"Hello", said)

    async def odd(exchange: Exchange) -> None:
        if not json.loads(exchange.body).get("stream"):
            await exchange.answer(200, plain)
            return
        await streaming(*events)(exchange)

    async with RawServer(odd) as engine, gateway_over(engine) as gateway:
        assert (await gateway.ask(stream=True)).content == b"".join(events)
        assert (await gateway.ask()).content == plain
        engine.script = good


@pytest.mark.parametrize("bad", [b"\xff", b"\xed\xa0\xbd", b"\xe2\x80"], ids=["no byte", "surrogate", "half"])
async def test_row_24_bytes_that_are_no_utf_8_end_a_stream_with_an_error_event(bad: bytes):
    """They never reach the client, whose decoder might not survive them; a plain answer is refused as a whole."""
    event = chunk("HERE").replace(b"HERE", bad)

    async def broken(exchange: Exchange) -> None:
        if not json.loads(exchange.body).get("stream"):
            await exchange.answer(200, PLAIN.replace(b"Hello", bad))
            return
        await streaming(ROLE, chunk("Hel"), event, DONE)(exchange)

    async with RawServer(broken) as engine, RawServer(good) as other, gateway_over(engine, other) as gateway:
        response = await gateway.ask(stream=True)
        assert response.content.startswith(ROLE + chunk("Hel"))
        assert bad not in response.content
        assert last_error(response)["code"] == "upstream_protocol"
        assert (await gateway.ask()).headers["x-smartrouter-backend"] == "b2"
