from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from smartrouter_asgi.config import Settings, load_settings
from smartrouter_asgi.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

EXAMPLE_YAML = """\
backends:
  local: {type: ollama, url: "http://127.0.0.1:11434", keep_alive: 5m, num_ctx: 8192, max_parallel: 4}
  box2:  {type: llama.cpp, url: "http://10.0.0.2:8080", gated: auto, devices: [0], split: false}
  cloud: {type: openai, base_url: "https://openrouter.ai/api/v1", api_keys: ["${KEY_1}", "${KEY_2}"],
          model_prefix: "", headers: {}}
models:
  - name: chat
    balance: weighted                      # least_busy, latency
    deployments:
      - {backend: local, model: "llama3.1:8b", vram: 6GiB, order: 1, weight: 1, max_parallel: 4}
      - {backend: cloud, model: "meta-llama/llama-3.1-8b-instruct", order: 2}
    fallbacks: [small]
    context_window_fallbacks: []
    content_policy_fallbacks: []
aliases: {gpt-4o: chat}
discovery: {enabled: true, ttl: 30s, include: ["*"], exclude: []}
resilience:
  retry: {enabled: true, max_retries: 3, base_delay: 0.5s, max_delay: 8s, budget: {ratio: 0.2, reserve: 10}}
  circuit_breaker: {enabled: true, failure_threshold: 5, reset_timeout: 60s, half_open_max_attempts: 3,
                    sliding_window_size: 100}
  timeouts: {connect: 5s, first_token: 120s, first_token_cold: 300s, idle: 60s, client_stall: 60s, total: 600s}
  hedge: {enabled: false}
  drain: {timeout: 30s, delay: 0s}
vram:
  max_total: 22GiB
  devices: {0: {max: 20GiB}}               # index or UUID
  unknown: open                            # or closed: what to do while no reading can be had
  auto_unload: true
  unload_strategy: lru
  pinned: []
  preload: []
  default_estimate: 8GiB
  fair_after: 15s
  spill_after: 10s
  max_wait: 30s
  max_queue: 64
  release_grace: 5s
server: {host: 127.0.0.1, port: 11436, max_body: 10MiB, workers: 1}
admin: {api_key: "${ROUTER_ADMIN_API_KEY}"}
logging: {level: INFO, format: text}
"""

EXAMPLE_TOML = """\
[backends.local]
type = "ollama"
url = "http://127.0.0.1:11434"
keep_alive = "5m"
num_ctx = 8192
max_parallel = 4

[backends.box2]
type = "llama.cpp"
url = "http://10.0.0.2:8080"
gated = "auto"
devices = [0]
split = false

[backends.cloud]
type = "openai"
base_url = "https://openrouter.ai/api/v1"
api_keys = ["${KEY_1}", "${KEY_2}"]
model_prefix = ""
headers = {}

[[models]]
name = "chat"
balance = "weighted"
deployments = [
  {backend = "local", model = "llama3.1:8b", vram = "6GiB", order = 1, weight = 1, max_parallel = 4},
  {backend = "cloud", model = "meta-llama/llama-3.1-8b-instruct", order = 2},
]
fallbacks = ["small"]
context_window_fallbacks = []
content_policy_fallbacks = []

[aliases]
gpt-4o = "chat"

[discovery]
enabled = true
ttl = "30s"
include = ["*"]
exclude = []

[resilience]
retry = {enabled = true, max_retries = 3, base_delay = "0.5s", max_delay = "8s", budget = {ratio = 0.2, reserve = 10}}
hedge = {enabled = false}
drain = {timeout = "30s", delay = "0s"}

[resilience.circuit_breaker]
enabled = true
failure_threshold = 5
reset_timeout = "60s"
half_open_max_attempts = 3
sliding_window_size = 100

[resilience.timeouts]
connect = "5s"
first_token = "120s"
first_token_cold = "300s"
idle = "60s"
client_stall = "60s"
total = "600s"

[vram]
max_total = "22GiB"
unknown = "open"
auto_unload = true
unload_strategy = "lru"
pinned = []
preload = []
default_estimate = "8GiB"
fair_after = "15s"
spill_after = "10s"
max_wait = "30s"
max_queue = 64
release_grace = "5s"

[vram.devices.0]
max = "20GiB"

[server]
host = "127.0.0.1"
port = 11436
max_body = "10MiB"
workers = 1

[admin]
api_key = "${ROUTER_ADMIN_API_KEY}"

[logging]
level = "INFO"
format = "text"
"""

EXAMPLE_ENVIRON = {"KEY_1": "canary-one", "KEY_2": "canary-two", "ROUTER_ADMIN_API_KEY": "canary-three"}


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Settings]:
    """Load settings from the text of a file, in an environment of its own."""

    def load_text(
        text: str, environ: Mapping[str, str] | None = None, *, suffix: str = ".yaml", **overrides: object
    ) -> Settings:
        path = tmp_path / f"router{suffix}"
        path.write_text(text, encoding="utf-8")
        dotted = {key.replace("__", "."): value for key, value in overrides.items()}
        return load_settings(file=path, environ=environ or {}, overrides=dotted)

    return load_text


@pytest.fixture
def refusal(load: Callable[..., Settings], tmp_path: Path) -> Callable[..., list[str]]:
    """Return the lines with which a file is refused, without the folder."""

    def refused(text: str, environ: Mapping[str, str] | None = None, **options: object) -> list[str]:
        with pytest.raises(ConfigurationError) as caught:
            load(text, environ, **options)
        return str(caught.value).replace(f"{tmp_path}/", "").splitlines()

    return refused


@pytest.fixture
def example_yaml() -> str:
    return EXAMPLE_YAML


@pytest.fixture
def example_toml() -> str:
    return EXAMPLE_TOML


@pytest.fixture
def example_environ() -> dict[str, str]:
    return dict(EXAMPLE_ENVIRON)
