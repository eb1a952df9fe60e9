"""No key is ever seen in a representation, a dump, a warning or an error."""

from __future__ import annotations

import json
import pickle
import traceback
from typing import TYPE_CHECKING

import pytest

from smartrouter_asgi.config import Settings, load_settings
from smartrouter_asgi.config.problems import shown
from smartrouter_asgi.config.variables import read_environment
from smartrouter_asgi.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

CANARY = "canary-5f3759df"

SECRETS = {
    "KEY": CANARY,
    "ROUTER_OPENAI_API_KEY": CANARY,
    "ROUTER_ADMIN_API_KEY": CANARY,
    "ROUTER_UNKNOWN": CANARY,
}

FILE = """
backends:
  a: {type: openai, api_keys: ["${KEY}"], headers: {Authorization: "Bearer ${KEY}", X-Key: "${KEY}"}}
  b: {type: acme, options: {password: "${KEY}"}}
admin: {api_key: "${KEY}"}
"""


def test_representations_and_dumps_are_masked(load: Callable[..., Settings]) -> None:
    for settings in (load(FILE, SECRETS), load_settings(environ={**SECRETS, "ROUTER_PROVIDER": "openai"})):
        masked = settings.model_copy(update={"backends": {k: v for k, v in settings.backends.items() if k != "b"}})
        texts = [repr(settings), str(settings), json.dumps(masked.model_dump(mode="json")), masked.model_dump_json()]
        texts += settings.warnings
        assert not [text for text in texts if CANARY in text]
        assert settings.admin.api_key is not None
        assert settings.admin.api_key.reveal() == CANARY
    assert CANARY not in repr(read_environment(SECRETS))


@pytest.mark.parametrize(
    "text",
    [
        "backends: {a: {type: openai, api_key: ['${KEY}', 'a b']}}",
        "backends: {a: {type: openai, api_keys: ['x ${KEY}']}}",
        "backends: {a: {type: openai, api_keys: {k: '${KEY}'}}}",
        "backends: {a: {type: openai, apikey: '${KEY}'}}",
        "backends: {a: {type: openai, headers: '${KEY}'}}",
        'backends: {a: {type: openai, headers: {X: ["${KEY}"]}}}',
        "backends: {a: {type: openai, options: {password: '${KEY}'}}}",
        "backends: {a: {type: openai, url: 'http://user:${KEY}@host'}}",
        f"backends: {{a: {{type: openai, url: 'http://user:{CANARY}@host'}}}}",
        f"backends: {{a: {{type: openai, url: 'http://host/?key={CANARY}'}}}}",
        f"backends: {{a: {{type: openai, url: 'http://u:p/{CANARY}@host'}}}}",
        "backends: {a: '${KEY}'}",
        "backends: '${KEY}'",
        "admin: '${KEY}'",
        "admin: {api_key: {x: '${KEY}'}}",
        "admin: {key: '${KEY}'}",
        "server: {port: '${KEY}'}",
        "server: {host: ['${KEY}']}",
        "vram: {max_total: '${KEY}', unload_strategy: '${KEY}'}",
        "backends: {a: {type: ollama}}\nmodels: [{name: m, deployments: [{backend: '${KEY}', model: m}]}]",
        f"admin: {{api_key: {CANARY}\nserver: {{}}\n",
        f"admin: {{api_key: *{CANARY}}}\n",
        f"admin: {{api_key: !{CANARY} x}}\n",
        f"admin: {{api_key: '{CANARY}}}\n",
    ],
)
def test_errors_never_show_a_key(load: Callable[..., Settings], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(text, {"KEY": CANARY})
    assert CANARY not in str(caught.value)
    assert CANARY not in repr(caught.value)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_a_toml_error_never_shows_a_key(load: Callable[..., Settings]) -> None:
    for text in (f'[admin]\napi_key = "{CANARY}\n', f"[admin]\napi_key = {CANARY}\n"):
        with pytest.raises(ConfigurationError) as caught:
            load(text, suffix=".toml")
        assert CANARY not in str(caught.value)


@pytest.mark.parametrize("name", ["ROUTER_OPENAI_API_KEY", "ROUTER_ADMIN_API_KEY"])
def test_a_bad_key_variable_is_named_without_its_value(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name) as caught:
        load_settings(environ={name: f"{CANARY} and more"})
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_a_bad_key_of_the_command_line_is_not_shown() -> None:
    with pytest.raises(ConfigurationError, match=r"command line: admin\.api_key") as caught:
        load_settings(environ={}, overrides={"admin.api_key": f"{CANARY} x"})
    assert CANARY not in str(caught.value)


def test_direct_construction_hides_its_input() -> None:
    with pytest.raises(ValueError, match="api_key") as caught:
        Settings(admin={"api_key": f"{CANARY} x"}, server={"port": "x"})
    assert CANARY not in str(caught.value)


def test_long_values_are_shortened_and_stay_on_one_line() -> None:
    assert len(shown("x" * 1000)) < 90
    assert "\n" not in shown("a\nb")


def test_settings_can_be_handed_to_a_worker_process(load: Callable[..., Settings]) -> None:
    settings = load(FILE, SECRETS)
    assert pickle.loads(pickle.dumps(settings)) == settings
