from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from smartrouter_asgi.config import Settings, load_settings
from smartrouter_asgi.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BACKENDS = "backends: {a: {type: ollama}}\n"


def test_command_line_beats_environment_beats_file_beats_default(load: Callable[..., Settings]) -> None:
    file, environ = "server: {port: 2}\n", {"ROUTER_PORT": "3"}
    assert load("server: {host: h}\n").server.port == 11436
    assert load(file).server.port == 2
    assert load(file, environ).server.port == 3
    assert load(file, environ, server__port=4).server.port == 4
    assert load(file, environ, server__port=None).server.port == 3
    assert load(file, {"ROUTER_PORT": ""}).server.port == 2
    assert load("server: {host: h, port: 2}", environ, server__port="4").server.host == "h"


@pytest.mark.parametrize(
    ("environ", "path", "value"),
    [
        ({"ROUTER_GENERATION_TIMEOUT": "42"}, "resilience.timeouts.total_s", 42.0),
        ({"ROUTER_VRAM_MAX_TOTAL_GB": "12"}, "vram.max_total_bytes", 12 * 2**30),
        ({"ROUTER_PINNED_MODEL": "x"}, "vram.pinned", ("x",)),
        ({"ROUTER_BACKEND_MAX_RETRIES": "0"}, "resilience.retry.max_retries", 0),
        ({"ROUTER_LOG_FORMAT": "json"}, "logging.format", "json"),
    ],
)
def test_variables_override_a_file_that_sets_everything(
    load: Callable[..., Settings],
    example_yaml: str,
    example_environ: dict[str, str],
    environ: dict[str, str],
    path: str,
    value: Any,
) -> None:
    found: Any = load(example_yaml, example_environ | environ)
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value


def test_the_files_backends_replace_the_environments_with_one_warning(load: Callable[..., Settings]) -> None:
    environ = {
        "ROUTER_PROVIDER": "openai",
        "ROUTER_OLLAMA_URL": "http://a:1",
        "ROUTER_LLAMA_CPP_URL": "http://a:1",
        "ROUTER_OPENAI_BASE_URL": "http://a:1",
        "ROUTER_OPENAI_API_KEY": "canary",
        "ROUTER_MODEL_PREFIX": "p/",
        "ROUTER_MODEL_KEEP_ALIVE": "1m",
        "ROUTER_PORT": "5",
    }
    settings = load(BACKENDS, environ)
    assert list(settings.backends) == ["a"]
    assert settings.backends["a"].base_url == "http://localhost:11434"
    assert settings.backends["a"].keep_alive_s is None
    assert settings.server.port == 5
    assert settings.warnings == [
        "ROUTER_PROVIDER, ROUTER_OLLAMA_URL, ROUTER_LLAMA_CPP_URL, ROUTER_OPENAI_BASE_URL, ROUTER_OPENAI_API_KEY, "
        "ROUTER_MODEL_PREFIX, ROUTER_MODEL_KEEP_ALIVE: ignored, because the file defines backends"
    ]


@pytest.mark.parametrize("backends", ["", "backends:\n", "backends: {}\n"])
def test_a_file_without_backends_keeps_the_environments(load: Callable[..., Settings], backends: str) -> None:
    text = backends + "models: [{name: chat, deployments: [{backend: llama.cpp, model: m}]}]\n"
    settings = load(text, {"ROUTER_PROVIDER": "llama.cpp"})
    assert list(settings.backends) == ["llama.cpp"]
    assert settings.backends_explicit


def test_the_files_mistakes_are_told_even_where_a_variable_hides_them(refusal: Callable[..., list[str]]) -> None:
    lines = refusal("server: {port: banana}\n", {"ROUTER_PORT": "8000"})
    assert lines == ["router.yaml: server.port: 'banana': expected a whole number"]


def test_the_culprit_is_the_source_the_value_came_from(refusal: Callable[..., list[str]]) -> None:
    assert refusal(BACKENDS, server__port=99999) == [
        "command line: server.port: 99999: must be less than or equal to 65535"
    ]
    assert refusal(BACKENDS, server__prot=1) == ["command line: server.prot: 1: unknown key; did you mean 'port'?"]
    assert refusal("server: {port: 1}\n", {"ROUTER_PROVIDER": "openai", "ROUTER_OPENAI_BASE_URL": "x"}) == [
        "ROUTER_OPENAI_BASE_URL: 'x': expected a URL such as http://127.0.0.1:11434; it starts with http:// or https://"
    ]
    assert refusal("discovery: {enabled: false}\n", {"ROUTER_PINNED_MODEL": "x"}) == [
        "ROUTER_PINNED_MODEL: 'x': unknown model"
    ]


def test_the_file_of_the_command_line_beats_router_config(tmp_path: Path) -> None:
    for name, port in (("a.yaml", 1), ("b.yaml", 2)):
        (tmp_path / name).write_text(f"server: {{port: {port}}}\n")
    environ = {"ROUTER_CONFIG": str(tmp_path / "a.yaml")}
    assert load_settings(environ=environ).server.port == 1
    assert load_settings(environ=environ).backends_explicit
    assert load_settings(environ=environ, file=tmp_path / "b.yaml").server.port == 2
    assert load_settings(environ=environ, file="").server.port == 1


def test_backends_of_the_command_line_replace_all_others(load: Callable[..., Settings]) -> None:
    demo = {"demo": {"type": "openai", "url": "http://127.0.0.1:9/v1"}}
    settings = load_settings(environ={"ROUTER_PROVIDER": "llama.cpp"}, overrides={"backends": demo})
    assert list(settings.backends) == ["demo"]
    assert settings.backends_explicit
    assert list(load(BACKENDS, backends=demo).backends) == ["demo"]
    assert demo == {"demo": {"type": "openai", "url": "http://127.0.0.1:9/v1"}}


def test_a_backend_name_with_a_dot_is_legible_in_an_error(refusal: Callable[..., list[str]]) -> None:
    (line,) = refusal("backends: {llama.cpp: {type: llama.cpp, split: maybe}}\n")
    assert line == "router.yaml: backends['llama.cpp'].split: 'maybe': expected true or false"


def test_configuration_errors_are_value_errors_without_a_chain(load: Callable[..., Settings]) -> None:
    with pytest.raises(ValueError, match=r"server\.port") as caught:
        load("server: {port: x}\n")
    assert isinstance(caught.value, ConfigurationError)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_importing_reads_no_environment_and_no_http_client() -> None:
    code = (
        "import sys, smartrouter_asgi.config\n"
        "bad = {'httpx', 'starlette', 'anyio', 'prometheus_client', 'pynvml', 'aiobreaker'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    environ = {"ROUTER_PORT": "not-a-port", "PYTHONPATH": ":".join(path for path in sys.path if path)}
    subprocess.run([sys.executable, "-c", code], env=environ, check=True, timeout=30)
