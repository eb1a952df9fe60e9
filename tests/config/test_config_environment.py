from __future__ import annotations

from typing import Any

import pytest

from smartrouter_asgi.config import Settings, load_settings
from smartrouter_asgi.config.environment import Environment
from smartrouter_asgi.config.variables import BACKEND_FIELDS, SETTING_PATHS, file_value
from smartrouter_asgi.exceptions import ConfigurationError
from smartrouter_asgi.types import Secret

GIB = 2**30

# variable, default, attribute path in Settings, another text, what it becomes
VARIABLES: list[tuple[str, Any, str, str, Any]] = [
    ("BACKEND_RETRY_ENABLED", True, "resilience.retry.enabled", "false", False),
    ("BACKEND_MAX_RETRIES", 3, "resilience.retry.max_retries", "0", 0),
    ("BACKEND_RETRY_BASE_DELAY", 0.5, "resilience.retry.base_delay_s", "250ms", 0.25),
    ("BACKEND_RETRY_MAX_DELAY", 8.0, "resilience.retry.max_delay_s", "9.5", 9.5),
    ("BACKEND_CIRCUIT_BREAKER_ENABLED", True, "resilience.circuit_breaker.enabled", "0", False),
    ("BACKEND_CIRCUIT_BREAKER_FAILURE_THRESHOLD", 5, "resilience.circuit_breaker.failure_threshold", "7", 7),
    ("BACKEND_CIRCUIT_BREAKER_RESET_TIMEOUT", 60.0, "resilience.circuit_breaker.reset_timeout_s", "2m", 120.0),
    ("BACKEND_CIRCUIT_BREAKER_HALF_OPEN_MAX_ATTEMPTS", 3, "resilience.circuit_breaker.half_open_max_attempts", "1", 1),
    ("BACKEND_CIRCUIT_BREAKER_SLIDING_WINDOW_SIZE", 100, "resilience.circuit_breaker.sliding_window_size", "50", 50),
    ("VRAM_MONITOR_ENABLED", True, "vram.monitor_enabled", "no", False),
    ("VRAM_MONITOR_INTERVAL", 2.0, "vram.monitor_interval_s", "0.5", 0.5),
    ("VRAM_MAX_TOTAL_GB", None, "vram.max_total_bytes", "22.5", 45 * 2**29),
    ("VRAM_AUTO_UNLOAD_ENABLED", True, "vram.auto_unload", "off", False),
    ("VRAM_UNLOAD_STRATEGY", "lru", "vram.unload_strategy", "Largest", "largest"),
    ("VRAM_DEFAULT_ESTIMATE_GB", 8 * GIB, "vram.default_estimate_bytes", "4", 4 * GIB),
    ("VRAM_UNLOAD_THRESHOLD_PCT", 85.0, "vram.unload_threshold_pct", "70", 70.0),
    ("PINNED_MODEL", (), "vram.pinned", "llama3.1:8b", ("llama3.1:8b",)),
    ("AMD_UNIFIED_MEMORY_GB", None, "vram.amd_unified_memory_bytes", "96", 96 * GIB),
    ("APPLE_UNIFIED_MEMORY_GB", None, "vram.apple_unified_memory_bytes", "64", 64 * GIB),
    ("GENERATION_TIMEOUT", 600.0, "resilience.timeouts.total_s", "900", 900.0),
    ("TRANSPORT", "auto", "transport", "httpx", "httpx"),
    ("HOST", "127.0.0.1", "server.host", "0.0.0.0", "0.0.0.0"),
    ("PORT", 11436, "server.port", "8000", 8000),
    ("ADMIN_API_KEY", None, "admin.api_key", "canary", Secret("canary")),
    ("LOG_LEVEL", "INFO", "logging.level", "debug", "DEBUG"),
    ("LOG_FORMAT", "text", "logging.format", "json", "json"),
]


def attribute(settings: Settings, path: str) -> Any:
    value: Any = settings
    for name in path.split("."):
        value = getattr(value, name)
    return value


def refusal(environ: dict[str, str]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ=environ)
    return str(caught.value)


def test_the_table_above_has_every_variable() -> None:
    tabled = {name.lower() for name, *_ in VARIABLES}
    assert tabled | set(BACKEND_FIELDS) | {"config"} == set(Environment.model_fields)
    assert tabled == set(SETTING_PATHS)


@pytest.mark.parametrize(("name", "default", "path", "text", "value"), VARIABLES)
def test_a_variable_sets_its_setting_and_no_other(name: str, default: Any, path: str, text: str, value: Any) -> None:
    plain = load_settings(environ={})
    assert attribute(plain, path) == default
    settings = load_settings(environ={f"ROUTER_{name}": text})
    assert attribute(settings, path) == value
    assert settings.warnings == []
    section = path.split(".")[0]
    others = set(Settings.model_fields) - {section}
    assert all(getattr(settings, other) == getattr(plain, other) for other in others)


@pytest.mark.parametrize(("name", "default", "path", "text", "value"), VARIABLES)
def test_an_empty_variable_is_unset_and_case_does_not_matter(
    name: str, default: Any, path: str, text: str, value: Any
) -> None:
    assert attribute(load_settings(environ={f"ROUTER_{name}": ""}), path) == default
    assert attribute(load_settings(environ={f"router_{name.lower()}": text}), path) == value


def test_the_environments_defaults_are_the_files_defaults() -> None:
    nested: dict[str, Any] = {}
    defaults = Environment()
    for name, path in SETTING_PATHS.items():
        value = file_value(defaults, name)
        if value in (None, [None]):
            continue
        section = nested
        for key in path[:-1]:
            section = section.setdefault(str(key), {})
        section[str(path[-1])] = value
    assert Settings.model_validate(nested) == Settings()


@pytest.mark.parametrize(
    ("environ", "name", "url"),
    [
        ({}, "ollama", "http://localhost:11434"),
        ({"ROUTER_OLLAMA_URL": "http://gpu:11434/"}, "ollama", "http://gpu:11434"),
        ({"ROUTER_OLLAMA_URL": "http://gpu:11434/v1"}, "ollama", "http://gpu:11434"),
        ({"ROUTER_PROVIDER": "llama.cpp"}, "llama.cpp", "http://localhost:8080"),
        ({"ROUTER_PROVIDER": "llama.cpp", "ROUTER_LLAMA_CPP_URL": "http://a:1"}, "llama.cpp", "http://a:1"),
        ({"ROUTER_PROVIDER": "llama.cpp", "ROUTER_OLLAMA_URL": "http://b:2/v1/"}, "llama.cpp", "http://b:2"),
        (
            {"ROUTER_PROVIDER": "llama.cpp", "ROUTER_LLAMA_CPP_URL": "", "ROUTER_OLLAMA_URL": "http://b:2"},
            "llama.cpp",
            "http://b:2",
        ),
        (
            {"ROUTER_PROVIDER": "llama.cpp", "ROUTER_LLAMA_CPP_URL": "http://a:1", "ROUTER_OLLAMA_URL": "http://b:2"},
            "llama.cpp",
            "http://a:1",
        ),
        ({"ROUTER_PROVIDER": "openai"}, "openai", "https://api.openai.com/v1"),
        (
            {"ROUTER_PROVIDER": "openai", "ROUTER_OPENAI_BASE_URL": "http://vllm:8000/v1"},
            "openai",
            "http://vllm:8000/v1",
        ),
        ({"ROUTER_PROVIDER": "auto", "ROUTER_LLAMA_CPP_URL": "http://a:1"}, "auto", "http://a:1"),
        ({"ROUTER_PROVIDER": "AUTO"}, "auto", "http://localhost:11434"),
    ],
)
def test_the_one_backend_is_named_after_its_provider(environ: dict[str, str], name: str, url: str) -> None:
    settings = load_settings(environ=environ)
    assert list(settings.backends) == [name]
    backend = settings.backends[name]
    assert (backend.type, backend.base_url, backend.model_prefix, backend.keep_alive_s) == (name, url, "", -1.0)


def test_backend_variables_reach_the_backend() -> None:
    environ = {
        "ROUTER_PROVIDER": "openai",
        "ROUTER_OPENAI_API_KEY": " canary\n",
        "ROUTER_MODEL_PREFIX": "team/",
        "ROUTER_MODEL_KEEP_ALIVE": "10m",
    }
    backend = load_settings(environ=environ).backends["openai"]
    assert backend.api_keys == (Secret("canary"),)
    assert backend.model_prefix == "team/"
    assert backend.keep_alive_s == 600.0


@pytest.mark.parametrize(
    ("environ", "explicit"),
    [
        ({}, False),
        ({"ROUTER_PROVIDER": ""}, False),
        ({"ROUTER_OPENAI_API_KEY": "canary", "ROUTER_PORT": "1", "ROUTER_MODEL_PREFIX": "x"}, False),
        ({"ROUTER_PROVIDER": "ollama"}, True),
        ({"ROUTER_OLLAMA_URL": "http://a:1"}, True),
        ({"ROUTER_LLAMA_CPP_URL": "http://a:1"}, True),
        ({"ROUTER_OPENAI_BASE_URL": "http://a:1"}, True),
    ],
)
def test_backends_are_explicit_once_a_provider_or_url_is_set(environ: dict[str, str], explicit: bool) -> None:
    assert load_settings(environ=environ).backends_explicit is explicit


def test_a_key_is_not_handed_to_an_engine_it_is_not_for() -> None:
    settings = load_settings(environ={"ROUTER_PROVIDER": "auto", "ROUTER_OPENAI_API_KEY": "canary"})
    assert settings.backends["auto"].api_keys == ()
    assert settings.warnings == ["ROUTER_OPENAI_API_KEY has no effect with ROUTER_PROVIDER=auto"]


def test_a_url_for_another_provider_is_warned_about() -> None:
    settings = load_settings(environ={"ROUTER_LLAMA_CPP_URL": "http://a:1"})
    assert settings.warnings == ["ROUTER_LLAMA_CPP_URL has no effect with ROUTER_PROVIDER=ollama (the default)"]


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("ROUTER_OLAMA_URL", "ROUTER_OLAMA_URL: unknown variable, ignored; did you mean 'ROUTER_OLLAMA_URL'?"),
        ("router_prot", "router_prot: unknown variable, ignored; did you mean 'ROUTER_PORT'?"),
        (
            "ROUTER_CIRCUIT_BREAKER_FAILURE_THRESHOLD",
            "ROUTER_CIRCUIT_BREAKER_FAILURE_THRESHOLD: unknown variable, ignored; "
            "did you mean 'ROUTER_BACKEND_CIRCUIT_BREAKER_FAILURE_THRESHOLD'?",
        ),
        ("ROUTER_QUALITY", "ROUTER_QUALITY: unknown variable, ignored"),
    ],
)
def test_an_unknown_variable_is_a_warning_with_the_nearest_right_name(name: str, warning: str) -> None:
    assert load_settings(environ={name: "canary"}).warnings == [warning]


def test_other_peoples_variables_are_left_alone() -> None:
    assert load_settings(environ={"PATH": "/bin", "ROUTERS": "x", "MY_ROUTER_PORT": "x"}).warnings == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "PROVIDER",
            "llamacpp",
            "'llamacpp': expected 'ollama', 'llama.cpp', 'openai' or 'auto'; did you mean 'llama.cpp'?",
        ),
        ("PORT", "http", "'http': expected a whole number"),
        ("PORT", "70000", "'70000': must be less than or equal to 65535"),
        ("BACKEND_MAX_RETRIES", "2.5", "'2.5': expected a whole number"),
        ("BACKEND_MAX_RETRIES", "-1", "'-1': must be greater than or equal to 0"),
        ("BACKEND_RETRY_ENABLED", "maybe", "'maybe': expected true or false"),
        ("VRAM_MAX_TOTAL_GB", "22GiB", "'22GiB': expected a number"),
        ("VRAM_MAX_TOTAL_GB", "0", "'0': must be greater than 0"),
        ("VRAM_MAX_TOTAL_GB", "inf", "'inf': expected a finite number"),
        ("VRAM_UNLOAD_STRATEGY", "lur", "'lur': expected 'lru', 'largest' or 'cost'; did you mean 'lru'?"),
        ("VRAM_UNLOAD_THRESHOLD_PCT", "120", "'120': must be less than or equal to 100"),
        (
            "LOG_LEVEL",
            "warn",
            "'warn': expected 'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL'; did you mean 'WARNING'?",
        ),
        ("TRANSPORT", "aiohttp", "'aiohttp': expected 'auto', 'direct' or 'httpx'; did you mean 'httpx'?"),
        (
            "GENERATION_TIMEOUT",
            "5 minutes",
            "'5 minutes': expected a duration such as 500ms, 30s, 5m or 1h, or a number of seconds; "
            "the units are ms, s, m and h",
        ),
        (
            "MODEL_KEEP_ALIVE",
            "-2",
            "'-2': expected a duration such as 500ms, 30s, 5m or 1h, or a number of seconds, or -1; "
            "it cannot be negative",
        ),
        (
            "OLLAMA_URL",
            "localhost:11434",
            "'localhost:11434': expected a URL such as http://127.0.0.1:11434; it starts with http:// or https://",
        ),
        (
            "BACKEND_CIRCUIT_BREAKER_FAILURE_THRESHOLD",
            "101",
            "'101': must be at most sliding_window_size (100), or it never opens",
        ),
        ("ADMIN_API_KEY", "canary canary", "expected a key of visible ASCII characters, without blanks"),
        ("OPENAI_API_KEY", "canary\u201d", "expected a key of visible ASCII characters, without blanks"),
    ],
)
def test_a_bad_value_names_variable_value_and_what_would_be_right(name: str, text: str, message: str) -> None:
    assert refusal({f"ROUTER_{name}": text}) == f"ROUTER_{name}: {message}"


def test_all_bad_variables_are_told_at_once() -> None:
    lines = refusal({"ROUTER_PORT": "x", "ROUTER_LOG_FORMAT": "y"}).splitlines()
    assert [line.split(":")[0] for line in lines] == ["ROUTER_PORT", "ROUTER_LOG_FORMAT"]


def test_a_kubernetes_service_link_is_told_apart_from_a_mistake() -> None:
    assert "enableServiceLinks: false" in refusal({"ROUTER_PORT": "tcp://10.0.0.1:80"})


def test_the_process_environment_is_read_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTER_PORT", "8001")
    assert load_settings().server.port == 8001
    assert load_settings(environ={}).server.port == 11436
