"""What is printed and logged, piece by piece."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys

import pytest

from smartrouter_asgi.cli.announce import curl, first_chat_model
from smartrouter_asgi.cli.errors import CommandError
from smartrouter_asgi.cli.logs import JSONFormatter, StoppingFilter, TextFormatter, logging_config
from smartrouter_asgi.cli.output import Screen, columns, counted
from smartrouter_asgi.cli.sockets import base_url, bind, is_loopback, port_of
from smartrouter_asgi.cli.survey import BackendReport, Survey
from smartrouter_asgi.config import LoggingSettings
from smartrouter_asgi.deployment import Deployment, ModelInfo
from smartrouter_asgi.routing.catalog import Catalog, ModelGroup


def record(message: str, exc_info: object = None) -> logging.LogRecord:
    return logging.LogRecord("smartrouter_asgi.x", logging.INFO, "f", 1, message, (), exc_info)  # type: ignore[arg-type]


@pytest.mark.parametrize("formatter", [TextFormatter(), JSONFormatter()])
def test_a_record_cannot_forge_another(formatter: logging.Formatter):
    line = formatter.format(record("one\r\n2026-01-01 INFO two\x1b[2J\u2028"))
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line


def test_json_records_are_whole():
    try:
        raise ValueError("broken\nhere")
    except ValueError:
        line = JSONFormatter().format(record("text", sys.exc_info()))
    found = json.loads(line)
    assert found["message"] == "text"
    assert found["level"] == "INFO"
    assert found["time"].endswith("+00:00")
    assert "ValueError" in found["exception"]


def test_the_http_clients_lines_stay_out_at_every_level():
    config = logging_config(LoggingSettings(level="DEBUG"))
    assert config["loggers"]["smartrouter_asgi"]["level"] == "DEBUG"
    assert config["loggers"]["httpx"]["level"] == logging.WARNING
    assert logging_config(LoggingSettings(level="ERROR"))["loggers"]["uvicorn"]["level"] == logging.ERROR


def test_tracebacks_of_the_drain_are_dropped():
    cut = asyncio.CancelledError()
    assert not StoppingFilter().filter(record("x", (type(cut), cut, None)))
    assert StoppingFilter().filter(record("x"))


def test_a_models_name_cannot_steer_the_terminal():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Screen(stream).line("model \x1b[31m\nname \u00e9")
    stream.seek(0)
    assert stream.read() == "model \\ufffd[31m\\ufffdname \\xe9\n"


def test_columns_and_counts():
    assert columns([("a", "bb", ""), ("ccc", "d", "e")]) == ["a    bb", "ccc  d   e"]
    assert columns([]) == []
    assert [counted(1, "model"), counted(2, "model")] == ["1 model", "2 models"]


@pytest.mark.parametrize(
    ("host", "local", "url"),
    [
        ("127.0.0.1", True, "http://127.0.0.1:1"),
        ("127.9.9.9", True, "http://127.9.9.9:1"),
        ("localhost", True, "http://localhost:1"),
        ("::1", True, "http://[::1]:1"),
        ("0.0.0.0", False, "http://127.0.0.1:1"),
        ("::", False, "http://[::1]:1"),
        ("10.0.0.1", False, "http://10.0.0.1:1"),
        ("box.example", False, "http://box.example:1"),
    ],
)
def test_hosts(host: str, local: bool, url: str):
    assert is_loopback(host) is local
    assert base_url(host, 1) == url


def test_an_address_of_another_machine_is_said_in_words():
    with pytest.raises(CommandError, match="has no such address"):
        bind("192.0.2.1", 0)
    with pytest.raises(CommandError, match="no such host"):
        bind("nowhere.invalid", 0)


def test_localhost_listens_on_one_port():
    sockets = bind("localhost", 0)
    assert {sock.getsockname()[1] for sock in sockets} == {port_of(sockets)}
    for sock in sockets:
        sock.close()


def report(name: str, state: str) -> BackendReport:
    return BackendReport(name=name, type="openai", url="", state=state)  # type: ignore[arg-type]


def group(name: str, backend: str, info: ModelInfo | None = None) -> ModelGroup:
    return ModelGroup(name=name, deployments=(Deployment(backend=backend, model=name),), info=info)


def test_the_model_to_try_can_chat_and_answers():
    groups = [
        group("on-a-dead-backend", "down"),
        group("text-embedding-3", "up"),
        group("e5", "up", ModelInfo(id="e5", capabilities=("embedding",))),
        group("good", "up"),
    ]
    catalog = Catalog(models={one.name: one for one in groups})
    backends = (report("down", "down"), report("up", "up"))
    assert first_chat_model(Survey(backends=backends, catalog=catalog)) == "good"
    assert first_chat_model(Survey(backends=backends[:1], catalog=catalog)) is None


def test_the_curl_is_quoted():
    assert curl("http://h:1", "it's").endswith(
        """-d '{"model":"it'"'"'s","stream":true,"messages":[{"role":"user","content":"Say hello in five words."}]}'"""
    )
