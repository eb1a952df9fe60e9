from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from smartrouter_asgi.config import (
    BackendSettings,
    ModelSettings,
    ServerSettings,
    Settings,
    TimeoutSettings,
    settings_schema,
)
from smartrouter_asgi.types import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

GIB = 2**30

# attribute path, default, key path in the file, text in the file, what it becomes
KEYS: list[tuple[str, Any, str, Any, Any]] = [
    ("discovery.enabled", True, "discovery.enabled", "false", False),
    ("discovery.ttl_s", 30.0, "discovery.ttl", "1m", 60.0),
    ("discovery.include", ("*",), "discovery.include", "[llama*]", ("llama*",)),
    ("discovery.exclude", (), "discovery.exclude", "['*embed*']", ("*embed*",)),
    ("resilience.retry.enabled", True, "resilience.retry.enabled", "false", False),
    ("resilience.retry.max_retries", 3, "resilience.retry.max_retries", "5", 5),
    ("resilience.retry.base_delay_s", 0.5, "resilience.retry.base_delay", "100ms", 0.1),
    ("resilience.retry.max_delay_s", 8.0, "resilience.retry.max_delay", "20s", 20.0),
    ("resilience.retry.budget.ratio", 0.2, "resilience.retry.budget.ratio", "0.1", 0.1),
    ("resilience.retry.budget.reserve", 10, "resilience.retry.budget.reserve", "3", 3),
    ("resilience.circuit_breaker.enabled", True, "resilience.circuit_breaker.enabled", "false", False),
    ("resilience.circuit_breaker.failure_threshold", 5, "resilience.circuit_breaker.failure_threshold", "6", 6),
    ("resilience.circuit_breaker.reset_timeout_s", 60.0, "resilience.circuit_breaker.reset_timeout", "5", 5.0),
    (
        "resilience.circuit_breaker.half_open_max_attempts",
        3,
        "resilience.circuit_breaker.half_open_max_attempts",
        "1",
        1,
    ),
    ("resilience.circuit_breaker.sliding_window_size", 100, "resilience.circuit_breaker.sliding_window_size", "20", 20),
    (
        "resilience.circuit_breaker.slow_call_duration_s",
        None,
        "resilience.circuit_breaker.slow_call_duration",
        "30s",
        30.0,
    ),
    ("resilience.circuit_breaker.slow_call_rate", 0.8, "resilience.circuit_breaker.slow_call_rate", "1", 1.0),
    ("resilience.circuit_breaker.slow_call_min_calls", 10, "resilience.circuit_breaker.slow_call_min_calls", "5", 5),
    (
        "resilience.circuit_breaker.reset_timeout_max_s",
        None,
        "resilience.circuit_breaker.reset_timeout_max",
        "10m",
        600.0,
    ),
    ("resilience.timeouts.connect_s", 5.0, "resilience.timeouts.connect", "2s", 2.0),
    ("resilience.timeouts.first_token_s", 120.0, "resilience.timeouts.first_token", "1m", 60.0),
    ("resilience.timeouts.first_token_cold_s", 300.0, "resilience.timeouts.first_token_cold", "10m", 600.0),
    ("resilience.timeouts.idle_s", 60.0, "resilience.timeouts.idle", "20s", 20.0),
    ("resilience.timeouts.client_stall_s", 60.0, "resilience.timeouts.client_stall", "20s", 20.0),
    ("resilience.timeouts.total_s", 600.0, "resilience.timeouts.total", "1h", 3600.0),
    ("resilience.hedge.enabled", False, "resilience.hedge.enabled", "true", True),
    ("resilience.hedge.quantile", 0.95, "resilience.hedge.quantile", "0.9", 0.9),
    ("resilience.hedge.min_samples", 20, "resilience.hedge.min_samples", "50", 50),
    ("resilience.hedge.min_delay_s", 0.1, "resilience.hedge.min_delay", "300ms", 0.3),
    ("resilience.rest.base_s", 10.0, "resilience.rest.base", "0s", 0.0),
    ("resilience.rest.max_s", 120.0, "resilience.rest.max", "5m", 300.0),
    ("resilience.drain.timeout_s", 30.0, "resilience.drain.timeout", "1m", 60.0),
    ("resilience.drain.delay_s", 0.0, "resilience.drain.delay", "5s", 5.0),
    ("vram.max_total_bytes", None, "vram.max_total", "22GiB", 22 * GIB),
    ("vram.devices", {}, "vram.devices", "{}", {}),
    ("vram.unknown", "open", "vram.unknown", "closed", "closed"),
    ("vram.auto_unload", True, "vram.auto_unload", "false", False),
    ("vram.unload_strategy", "lru", "vram.unload_strategy", "cost", "cost"),
    ("vram.unload_threshold_pct", 85.0, "vram.unload_threshold_pct", "50", 50.0),
    ("vram.pinned", (), "vram.pinned", "[a]", ("a",)),
    ("vram.preload", (), "vram.preload", "[a]", ("a",)),
    ("vram.default_estimate_bytes", 8 * GIB, "vram.default_estimate", "4GiB", 4 * GIB),
    ("vram.footprints", None, "vram.footprints", "/tmp/sizes.json", Path("/tmp/sizes.json")),
    ("vram.fair_after_s", 15.0, "vram.fair_after", "5s", 5.0),
    ("vram.spill_after_s", 10.0, "vram.spill_after", "0", 0.0),
    ("vram.max_wait_s", 30.0, "vram.max_wait", "2m", 120.0),
    ("vram.max_queue", 64, "vram.max_queue", "1", 1),
    ("vram.release_grace_s", 5.0, "vram.release_grace", "500ms", 0.5),
    ("vram.monitor_enabled", True, "vram.monitor_enabled", "false", False),
    ("vram.monitor_interval_s", 2.0, "vram.monitor_interval", "1s", 1.0),
    ("vram.amd_unified_memory_bytes", None, "vram.amd_unified_memory", "96GiB", 96 * GIB),
    ("vram.apple_unified_memory_bytes", None, "vram.apple_unified_memory", "64GiB", 64 * GIB),
    ("server.host", "127.0.0.1", "server.host", "'::'", "::"),
    ("server.port", 11436, "server.port", "0", 0),
    ("server.max_body_bytes", 10 * 2**20, "server.max_body", "100kB", 100_000),
    ("server.workers", 1, "server.workers", "2", 2),
    ("admin.api_key", None, "admin.api_key", "canary", Secret("canary")),
    ("logging.level", "INFO", "logging.level", "error", "ERROR"),
    ("logging.format", "text", "logging.format", "json", "json"),
    ("transport", "auto", "transport", "httpx", "httpx"),
    ("models", (), "models", "[]", ()),
    ("aliases", {}, "aliases", "{a: b}", {"a": "b"}),
]


def attribute(settings: Settings, path: str) -> Any:
    value: Any = settings
    for name in path.split("."):
        value = getattr(value, name)
    return value


def nested(path: str, text: str) -> str:
    keys = path.split(".")
    return "".join(
        f"{'  ' * depth}{key}:{' ' + text if depth == len(keys) - 1 else ''}\n" for depth, key in enumerate(keys)
    )


def leaves(section: type[Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, field in section.model_fields.items():
        inner = field.annotation
        is_section = isinstance(inner, type) and hasattr(inner, "file_keys")
        found |= leaves(inner, f"{prefix}{name}.") if is_section else {prefix + name}
    return found


def test_the_table_above_has_every_key() -> None:
    assert {path for path, *_ in KEYS} | {"backends"} == leaves(Settings)


@pytest.mark.parametrize(("path", "default", "key", "text", "value"), KEYS)
def test_a_key_has_the_contracts_default_and_sets_its_attribute(
    load: Callable[..., Settings], path: str, default: Any, key: str, text: str, value: Any
) -> None:
    assert attribute(Settings(), path) == default
    settings = load(nested(key, text))
    assert attribute(settings, path) == value
    assert settings.warnings == []


def test_the_example_is_read_as_written(
    load: Callable[..., Settings], example_yaml: str, example_environ: dict[str, str]
) -> None:
    settings = load(example_yaml, example_environ)
    local, box2, cloud = settings.backends.values()
    assert (local.type, local.base_url, local.keep_alive_s) == ("ollama", "http://127.0.0.1:11434", 300.0)
    assert (local.num_ctx, local.max_parallel) == (8192, 4)
    assert (box2.type, box2.gated, box2.devices, box2.split) == ("llama.cpp", "auto", (0,), False)
    assert (cloud.base_url, cloud.model_prefix, cloud.headers) == ("https://openrouter.ai/api/v1", "", {})
    assert [key.reveal() for key in cloud.api_keys] == ["canary-one", "canary-two"]
    (chat,) = settings.models
    assert (chat.name, chat.balance, chat.fallbacks) == ("chat", "weighted", ("small",))
    first, second = chat.deployments
    assert (first.backend, first.model, first.vram_bytes) == ("local", "llama3.1:8b", 6 * GIB)
    assert (first.order, first.weight, first.max_parallel) == (1, 1.0, 4)
    assert (second.backend, second.order, second.weight, second.vram_bytes) == ("cloud", 2, 1.0, None)
    assert settings.aliases == {"gpt-4o": "chat"}
    assert settings.vram.devices[0].max_bytes == 20 * GIB
    assert settings.admin.api_key == Secret("canary-three")
    assert settings.resilience == Settings().resilience
    assert settings.discovery == Settings().discovery
    assert settings.server == Settings().server


def test_a_backend_of_few_words_gets_the_defaults() -> None:
    backend = BackendSettings(type="ollama")
    assert backend.model_dump() == {
        "type": "ollama",
        "base_url": "http://localhost:11434",
        "api_keys": (),
        "model_prefix": "",
        "headers": {},
        "keep_alive_s": None,
        "num_ctx": None,
        "kv_type": "f16",
        "max_parallel": None,
        "gated": "auto",
        "devices": (),
        "split": None,
        "vram_bytes": None,
        "options": {},
    }


@pytest.mark.parametrize(
    ("engine", "given", "used"),
    [
        ("ollama", "http://a:1/v1/", "http://a:1"),
        ("llama.cpp", "http://a:1/v1", "http://a:1"),
        ("llama.cpp", "http://a:1/gpu0/v1", "http://a:1/gpu0"),
        ("openai", "http://a:1/v1/", "http://a:1/v1"),
        ("openai", None, "https://api.openai.com/v1"),
        ("llama.cpp", None, "http://localhost:8080"),
        ("auto", "https://[::1]:8/v1", "https://[::1]:8/v1"),
        ("llama-swap", None, "http://localhost:8080"),
        ("llama-swap", "http://a:1/v1", "http://a:1"),
        ("vllm", None, "http://localhost:8000/v1"),
        ("vllm", "http://a:1", "http://a:1/v1"),
        ("vllm", "http://a:1/v1/", "http://a:1/v1"),
        ("sglang", None, "http://localhost:30000/v1"),
        ("tgi", None, "http://localhost:3000/v1"),
        ("localai", None, "http://localhost:8080/v1"),
        ("lmstudio", None, "http://localhost:1234/v1"),
        ("litellm", None, "http://localhost:4000/v1"),
        ("openrouter", None, "https://openrouter.ai/api/v1"),
        ("openrouter", "https://openrouter.ai/api", "https://openrouter.ai/api/v1"),
        ("together", None, "https://api.together.xyz/v1"),
        ("anthropic", None, "https://api.anthropic.com/v1"),
        ("azure", "https://r.openai.azure.com", "https://r.openai.azure.com/openai/v1"),
        ("azure", "https://r.openai.azure.com/openai/", "https://r.openai.azure.com/openai/v1"),
        ("azure", "https://r.openai.azure.com/openai/v1/", "https://r.openai.azure.com/openai/v1"),
        ("bedrock", "https://bedrock-mantle.us-east-1.api.aws/v1", "https://bedrock-mantle.us-east-1.api.aws/v1"),
        (
            "vertex",
            "https://a/v1/projects/p/locations/l/endpoints/openapi",
            "https://a/v1/projects/p/locations/l/endpoints/openapi",
        ),
        ("acme", None, ""),
    ],
)
def test_the_base_url_never_ends_up_with_the_version_twice(engine: str, given: str | None, used: str) -> None:
    assert BackendSettings(type=engine, url=given).base_url == used


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("localhost:11434", "it starts with http:// or https://"),
        ("ftp://a", "it starts with http:// or https://"),
        ("http:a", "it starts with http:// or https://"),
        ("http://", "this one has no usable host"),
        ("http://:80", "this one has no usable host"),
        ("http://a b", "this one has no usable host"),
        ("http://a:port", "the host or port of this one cannot be read"),
        ("http://a:99999", "the host or port of this one cannot be read"),
        ("http://[::1", "the host or port of this one cannot be read"),
        ("http://user:canary@a", "credentials do not belong in it: use api_keys or headers"),
        ("http://a/?key=canary", "it takes no query and no fragment"),
        ("http://a/#x", "it takes no query and no fragment"),
    ],
)
def test_a_url_nobody_could_ask_is_refused(refusal: Callable[..., list[str]], url: str, hint: str) -> None:
    (line,) = refusal(f"backends: {{a: {{type: openai, url: '{url}'}}}}\n")
    assert line.startswith(
        "router.yaml: backends.a.url: 'http" if url.startswith("http") else "router.yaml: backends.a.url"
    )
    assert line.endswith(f"expected a URL such as http://127.0.0.1:11434; {hint}")
    assert "canary" not in line


@pytest.mark.parametrize("value", ["auto", "AUTO", True, False, "true", "false"])
def test_gated_is_auto_or_a_bool(value: object) -> None:
    assert BackendSettings(type="ollama", gated=value).gated in ("auto", True, False)


def test_keys_and_devices_come_in_several_spellings() -> None:
    assert BackendSettings(type="openai", api_key="a").api_keys == (Secret("a"),)
    assert BackendSettings(type="openai", api_keys="a").api_keys == (Secret("a"),)
    assert BackendSettings(type="openai", api_keys=["a", "", None, "b"]).api_keys == (Secret("a"), Secret("b"))
    assert BackendSettings(type="ollama", devices=[0, "1", "GPU-3f"]).devices == (0, 1, "GPU-3f")
    assert BackendSettings(type="ollama", keep_alive=-1).keep_alive_s == -1.0


@pytest.mark.parametrize(
    ("engine", "options", "read", "url"),
    [
        (
            "bedrock",
            {"region": "eu-west-1"},
            {"region": "eu-west-1"},
            "https://bedrock-runtime.eu-west-1.amazonaws.com/openai/v1",
        ),
        (
            "vertex",
            {"project": "p", "location": "europe-west1"},
            {"project": "p", "location": "europe-west1"},
            "https://europe-west1-aiplatform.googleapis.com/v1/projects/p/locations/europe-west1/endpoints/openapi",
        ),
        (
            "vertex",
            {"project": "p"},
            {"project": "p"},
            "https://aiplatform.googleapis.com/v1/projects/p/locations/global/endpoints/openapi",
        ),
        ("lmstudio", {"ttl": "10m"}, {"ttl": 600.0}, "http://localhost:1234/v1"),
        ("vllm", {"sleep_level": 2}, {"sleep_level": 2}, "http://localhost:8000/v1"),
        ("vllm", {"sleep_level": None}, {}, "http://localhost:8000/v1"),
    ],
)
def test_some_built_in_types_take_options(engine: str, options: dict[str, Any], read: dict[str, Any], url: str) -> None:
    backend = BackendSettings(type=engine, options=options)
    assert not backend.custom
    assert (backend.options, backend.base_url) == (read, url)


def test_a_custom_backend_takes_options() -> None:
    backend = BackendSettings(type="Acme", options={"region": "eu"}, url="http://a")
    assert backend.custom
    assert backend.type == "acme"
    assert backend.options == {"region": "eu"}
    assert BackendSettings(type="ollamas", options={}).custom


DEPLOYED = "deployments: [{backend: a, model: m}]"

# file, lines of refusal
REFUSED: list[tuple[str, list[str]]] = [
    ("backend: {}", ["backend: unknown key; did you mean 'backends'?"]),
    ("vram: {max_totl: 1GiB}", ["vram.max_totl: unknown key; did you mean 'max_total'?"]),
    ("vram: {max_total_bytes: 5}", ["vram.max_total_bytes: unknown key; did you mean 'max_total'?"]),
    ("vram: {devices: {GPU-1: {maxx: 1}}}", ["vram.devices.GPU-1.maxx: unknown key; did you mean 'max'?"]),
    ("admin: {zzz: canary}", ["admin.zzz: unknown key; there is: api_key"]),
    ("backends: {a: {type: openai, apikey: canary}}", ["backends.a.apikey: unknown key; did you mean 'api_key'?"]),
    ("backends: {a: {url: 'http://a'}}", ["backends.a.type: missing, and it has no default"]),
    (
        "backends: {a: {type: olama}}",
        [
            "backends.a.type: 'olama': unknown backend type; did you mean 'ollama'? "
            "(a custom type with a name so close needs `options: {}`)"
        ],
    ),
    (
        "backends: {a: {type: ollama, options: {x: 1}}}",
        ["backends.a.options: type ollama takes no options"],
    ),
    (
        "backends: {a: {type: bedrock, options: {regoin: eu-west-1}}}",
        ["backends.a.options.regoin: unknown key; did you mean 'region'?"],
    ),
    (
        "backends: {a: {type: vertex, options: {zone: x, location: 'x/y', project: 12}}}",
        [
            "backends.a.options.zone: unknown key; type vertex takes project, location",
            "backends.a.options.location: expected a name of lower-case letters, digits and '-', such as us-east-1",
            "backends.a.options.project: expected the id or the number of a project: put it in quotes",
        ],
    ),
    (
        "backends: {a: {type: vllm, options: {sleep_level: 3}}}",
        ["backends.a.options.sleep_level: expected 1 (weights kept in main memory) or 2 (weights discarded)"],
    ),
    ("backends: {a: {type: lmstudio, options: {ttl: 0s}}}", ["backends.a.options.ttl: expected more than 0"]),
    ("backends: {a: {type: azure}}", ["backends.a.url: missing: type azure has no usual address"]),
    (
        "backends: {a: {type: bedrock}}",
        ["backends.a.url: missing: type bedrock has no usual address, or options.region, which it is made of"],
    ),
    (
        "backends: {a: {type: vertex, options: {location: global}}}",
        ["backends.a.url: missing: type vertex has no usual address, or options.project, which it is made of"],
    ),
    (
        "backends: {a: {type: antropic}}",
        [
            "backends.a.type: 'antropic': unknown backend type; did you mean 'anthropic'? "
            "(a custom type with a name so close needs `options: {}`)"
        ],
    ),
    ("backends: {a: {type: auto}}", ["backends.a.url: missing: type auto needs to know which address to ask"]),
    (
        "backends: {a: {type: openai, url: 'http://a', base_url: 'http://b', api_key: canary, api_keys: [canary]}}",
        [
            "backends.a.base_url: the same as url: write only one of them",
            "backends.a.api_key: the same as api_keys: write only one of them",
        ],
    ),
    ("backends: {a: {type: openai, base_url: x}}", ["backends.a.base_url: 'x': expected a URL such as "]),
    ("backends: {a/b: {type: ollama}}", ["backends['a/b']: 'a/b': expected a backend name of letters, digits, "]),
    ("backends: {a: {type: ollama, gated: maybe}}", ["backends.a.gated: 'maybe': expected auto, true or false"]),
    ("backends: {a: {type: ollama, devices: [-1]}}", ["backends.a.devices[0]: -1: expected a device index such as 0"]),
    (
        "backends: {a: {type: ollama, max_parallel: 0}}",
        ["backends.a.max_parallel: 0: must be greater than or equal to 1"],
    ),
    ("backends: {a: {type: openai, api_keys: [12345]}}", ["backends.a.api_keys[0]: expected text: put it in quotes"]),
    ("backends: {a: {type: openai, headers: {'X Y': canary}}}", ["backends.a.headers['X Y']: expected a header name"]),
    ('backends: {a: {type: openai, headers: {X: "ca\\nnary"}}}', ["backends.a.headers.X: expected the header's value"]),
    ("backends: [a]", ["backends: expected a mapping (key: value), not a list"]),
    ("backends: {a: canary}", ["backends.a: expected a mapping (key: value), not text"]),
    ("models: {chat: {}}", ["models: expected a list, not a mapping"]),
    ("models: [chat]", ["models[0]: expected a mapping (key: value), not text"]),
    ("models: [{name: chat}]", ["models[0].deployments: missing, and it has no default"]),
    ("models: [{name: chat, deployments: []}]", ["models[0].deployments: expected at least one"]),
    (
        "models: [{name: chat, balance: weigthed, deployments: [{backend: b, model: m}]}]",
        ["models[0].balance: 'weigthed': expected 'weighted', 'least_busy' or 'latency'; did you mean 'weighted'?"],
    ),
    (
        "backends: {local: {type: ollama}}\nmodels: [{name: c, deployments: [{backend: locl, model: m}]}]",
        ["models[0].deployments[0].backend: 'locl': unknown backend; did you mean 'local'?"],
    ),
    (
        "backends: {a: {type: ollama}}\nmodels: [{name: c, deployments: [{backend: zzz, model: m}]}]",
        ["models[0].deployments[0].backend: 'zzz': unknown backend; there is: a"],
    ),
    (
        f"backends: {{a: {{type: ollama}}}}\nmodels: [{{name: c, {DEPLOYED}}}, {{name: c, {DEPLOYED}}}]",
        ["models[1].name: 'c': already the name of models[0]: list all deployments under one of them"],
    ),
    (
        "backends: {a: {type: ollama}}\n"
        "models: [{name: c, deployments: [{backend: a, model: m}, {backend: a, model: m}]}]",
        ["models[0].deployments[1]: listed twice: to give it a larger share, raise its weight"],
    ),
    (
        "backends: {a: {type: ollama}}\nmodels:\n"
        "- {name: c, deployments: [{backend: a, model: m, vram: 6GiB}]}\n"
        "- {name: d, deployments: [{backend: a, model: m, vram: 7GiB}]}",
        [
            "models[1].deployments[0].vram: '7GiB': the same model of the same backend has 6GiB at "
            "models[0].deployments[0].vram: write one size"
        ],
    ),
    (
        "models: [{name: c, deployments: [{backend: ollama, model: m, weight: 0, order: 0, vram: 6 gigs}]}]",
        [
            "models[0].deployments[0].vram: '6 gigs': expected a size such as 512MiB, 6GiB or 12GB, ",
            "models[0].deployments[0].order: 0: must be greater than or equal to 1",
            "models[0].deployments[0].weight: 0: must be greater than 0",
        ],
    ),
    (
        f"backends: {{a: {{type: ollama}}}}\nmodels: [{{name: c, {DEPLOYED}, fallbacks: [c]}}]",
        ["models[0].fallbacks[0]: 'c': falls back to itself: name another model"],
    ),
    (
        f"backends: {{a: {{type: ollama}}}}\nmodels: [{{name: c, {DEPLOYED}}}]\naliases: {{c: m}}",
        ["aliases.c: 'm': a configured model has this name, so the alias has no use"],
    ),
    ("aliases: {a: b, b: c}", ["aliases.a: 'b': an alias of an alias: write 'c'"]),
    ("aliases: {a: a}", ["aliases.a: 'a': an alias of itself: name a model"]),
    (
        f"discovery: {{enabled: false}}\nbackends: {{a: {{type: ollama}}}}\n"
        f"models: [{{name: chat, {DEPLOYED}, fallbacks: [smal]}}, {{name: small, {DEPLOYED}}}]\n"
        "aliases: {gpt-4o: chta}\nvram: {pinned: [smol], preload: [m, a/m, gpt-4o]}",
        [
            "aliases.gpt-4o: 'chta': unknown model; did you mean 'chat'?",
            "models[0].fallbacks[0]: 'smal': unknown model; did you mean 'small'?",
            "vram.pinned[0]: 'smol': unknown model; did you mean 'small'?",
        ],
    ),
    (
        "resilience: {hedge: {enabled: true, min_samples: 101}}",
        ["resilience.hedge.min_samples: 101: must be at most 100: no more first tokens are remembered"],
    ),
    (
        "resilience: {circuit_breaker: {failure_threshold: 9, sliding_window_size: 8}}",
        ["resilience.circuit_breaker.failure_threshold: 9: must be at most sliding_window_size (8), or it never opens"],
    ),
    (
        "resilience: {circuit_breaker: {slow_call_duration: 0, slow_call_rate: 1.5}}",
        [
            "resilience.circuit_breaker.slow_call_duration: 0: must be greater than 0",
            "resilience.circuit_breaker.slow_call_rate: 1.5: must be less than or equal to 1",
        ],
    ),
    (
        "resilience: {circuit_breaker: {slow_call_duration: 30s, sliding_window_size: 8, reset_timeout_max: 30s}}",
        [
            "resilience.circuit_breaker.slow_call_min_calls: 10: "
            "must be at most sliding_window_size (8), or slow calls never open it",
            "resilience.circuit_breaker.reset_timeout_max: '30s': "
            "must be at least reset_timeout (1m), which it grows from",
        ],
    ),
    ("resilience: {timeouts: {total: -1}}", ["resilience.timeouts.total: -1: expected a duration such as "]),
    ("resilience: {timeouts: {connect: 0}}", ["resilience.timeouts.connect: 0: must be greater than 0"]),
    (
        "vram: {unload_strategy: lfu}",
        ["vram.unload_strategy: 'lfu': expected 'lru', 'largest' or 'cost'; did you mean 'lru'?"],
    ),
    ("vram: {unknown: opne}", ["vram.unknown: 'opne': expected 'open' or 'closed'; did you mean 'open'?"]),
    ("vram: {max_total: 0}", ["vram.max_total: 0: must be greater than 0"]),
    ("server: {max_body: lots}", ["server.max_body: 'lots': expected a size such as "]),
    ("server: {workers: true}", ["server.workers: true: expected a number"]),
    ("admin: {api_key: [canary]}", ["admin.api_key: expected text: put it in quotes"]),
    ("admin: canary", ["admin: expected a mapping (key: value), not text"]),
]


@pytest.mark.parametrize(("text", "lines"), REFUSED, ids=[text.replace("\n", " ")[:60] for text, _ in REFUSED])
def test_a_refusal_names_file_key_path_value_and_what_would_be_right(
    refusal: Callable[..., list[str]], text: str, lines: list[str]
) -> None:
    found = refusal(text)
    assert len(found) == len(lines), found
    for line, start in zip(found, lines, strict=True):
        assert line.startswith(f"router.yaml: {start}")
        assert "canary" not in line


# file, warnings
WARNED: list[tuple[str, list[str]]] = [
    (
        f"backends: {{a: {{type: ollama}}}}\nmodels: [{{name: chat, {DEPLOYED}, fallbacks: [other]}}]\n"
        "aliases: {gpt-4o: chta}\nvram: {pinned: ['llama3:8b']}",
        [
            "aliases.gpt-4o: 'chta' is no configured model; it works while a backend lists it; did you mean 'chat'?",
            "models[0].fallbacks[0]: 'other' is no configured model; it works while a backend lists it",
        ],
    ),
    (
        "vram: {max_total: 22}",
        ["vram.max_total: 22 bytes is very little; a bare number is bytes: write it as 6GiB"],
    ),
    (
        "backends: {a: {type: ollama}}\nmodels: [{name: c, deployments: [{backend: a, model: m, vram: 30GiB}]}]\n"
        "vram: {max_total: 22GiB}",
        ["models[0].deployments[0].vram: 30GiB never fits into vram.max_total (22GiB)"],
    ),
    (
        "resilience: {retry: {base_delay: 10s}}",
        ["resilience.retry.base_delay: 10s is above max_delay, so every delay is 8s"],
    ),
]


@pytest.mark.parametrize(("text", "lines"), WARNED)
def test_what_is_perhaps_not_meant_is_a_warning(load: Callable[..., Settings], text: str, lines: list[str]) -> None:
    assert load(text).warnings == lines


def test_settings_do_not_change() -> None:
    settings = Settings(backends={"a": {"type": "ollama"}})
    with pytest.raises(ValidationError, match="frozen"):
        settings.server.port = 1  # type: ignore[misc]
    settings.warnings.append("not kept")
    assert settings.warnings == []
    assert settings.backends_explicit


def test_code_takes_the_files_keys() -> None:
    assert TimeoutSettings(connect="2s").connect_s == 2.0
    assert ServerSettings(max_body="1MiB").max_body_bytes == 2**20
    settings = Settings(
        backends={"a": BackendSettings(type="ollama")},
        models=[ModelSettings(name="chat", deployments=[{"backend": "a", "model": "m"}])],
    )
    assert settings.models[0].deployments[0].backend == "a"
    with pytest.raises(ValidationError, match="unknown backend"):
        Settings(models=[{"name": "chat", "deployments": [{"backend": "a", "model": "m"}]}])


def test_the_schema_describes_the_files_keys() -> None:
    schema = settings_schema()
    json.dumps(schema)
    assert set(schema["properties"]) == set(Settings.file_keys())
    timeouts = schema["$defs"]["TimeoutSettings"]
    assert timeouts["additionalProperties"] is False
    assert timeouts["properties"]["connect"]["default"] == 5.0
    assert schema["$defs"]["BackendSettings"]["required"] == ["type"]
