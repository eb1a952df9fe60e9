from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from smartrouter_asgi.config import Settings, load_settings
from smartrouter_asgi.config import file as file_module
from smartrouter_asgi.exceptions import ConfigurationError
from smartrouter_asgi.types import Secret

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_toml_and_yaml_of_the_example_are_equal(
    load: Callable[..., Settings], example_yaml: str, example_toml: str, example_environ: dict[str, str]
) -> None:
    from_yaml = load(example_yaml, example_environ)
    assert from_yaml == load(example_toml, example_environ, suffix=".toml")
    assert from_yaml == load(example_yaml, example_environ, suffix=".YML")
    assert from_yaml.backends_explicit


def test_the_pure_python_loader_reads_the_same(
    load: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
    example_yaml: str,
    example_environ: dict[str, str],
) -> None:
    with_c = load(example_yaml, example_environ)
    monkeypatch.setattr(file_module, "_Loader", file_module.yaml.SafeLoader)
    assert load(example_yaml, example_environ) == with_c


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}", "---\n"])
def test_an_empty_file_means_defaults_and_is_mentioned(
    load: Callable[..., Settings], text: str, tmp_path: Path
) -> None:
    settings = load(text)
    assert settings.vram == Settings().vram
    assert list(settings.backends) == ["ollama"]
    assert settings.warnings == [f"{tmp_path}/router.yaml: the file is empty"]


def test_empty_values_and_sections_are_defaults(load: Callable[..., Settings]) -> None:
    text = "vram:\nserver: {port: , host: ''}\nadmin: {api_key: ''}\nmodels:\naliases: {}\nbackends:\n"
    settings = load(text)
    assert settings.server == Settings().server
    assert settings.vram == Settings().vram
    assert settings.admin.api_key is None


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text", "42"])
def test_a_file_that_is_no_mapping_is_refused(refusal: Callable[..., list[str]], text: str) -> None:
    assert refusal(text) == ["router.yaml: expected a mapping at the top, such as `backends:` and `models:`"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("server: {port: 1}\nlogging: {}\nserver: {port: 2}\n", "line 3: the key 'server' is already on line 1"),
        ("server:\n  port: 1\n  host: a\n  port: 2\n", "line 4: the key 'port' is already on line 2"),
        ("server: {port: 1, port: 2}\n", "line 1: the key 'port' is already on line 1"),
    ],
)
def test_a_duplicate_yaml_key_is_refused_with_its_line(refusal: Callable[..., list[str]], text: str, line: str) -> None:
    assert refusal(text) == [f"router.yaml: {line}"]


def test_merge_keys_may_be_overridden(load: Callable[..., Settings]) -> None:
    text = """
backends:
  a: &a {type: ollama, url: "http://a:1", max_parallel: 2}
  b: {<<: *a, url: "http://b:1"}
"""
    settings = load(text)
    assert settings.backends["b"].base_url == "http://b:1"
    assert settings.backends["b"].max_parallel == 2


@pytest.mark.parametrize("text", ["a: &x {b: *x}\n", "a: &x [*x]\n", "a: " + "[" * 40 + "]" * 40])
def test_endless_and_absurd_nesting_is_refused(refusal: Callable[..., list[str]], text: str) -> None:
    assert refusal(text) == ["router.yaml: line 1: nested deeper than 32 levels"]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("server: {port: 1\n", "router.yaml: line 2, column 1: not YAML: "),
        ("server:\n\tport: 1\n", "router.yaml: line 2, column 1: not YAML: "),
        ("admin: {api_key: *canary}\n", "router.yaml: line 1, column 18: not YAML: "),
        ("admin: {api_key: !canary x}\n", "router.yaml: line 1, column 18: not YAML: "),
        ("a: 1\n---\nb: 2\n", "router.yaml: line 2, column 1: not YAML: "),
        ("a: 2024-99-99\n", "router.yaml: not YAML: ValueError"),
        ("a: \x01\n", "router.yaml: not YAML: ReaderError"),
    ],
)
def test_broken_yaml_names_the_place_and_quotes_nothing(
    refusal: Callable[..., list[str]], text: str, start: str
) -> None:
    (line,) = refusal(text)
    assert line.startswith(start)
    assert "canary" not in line


def test_broken_toml_names_the_place(refusal: Callable[..., list[str]]) -> None:
    (line,) = refusal("[server]\nport = \n", suffix=".toml")
    assert line.startswith("router.toml: not TOML: Invalid value (at line 2")
    (line,) = refusal("[server]\nport = 1\nport = 2\n", suffix=".toml")
    assert line.startswith("router.toml: not TOML: Cannot overwrite a value")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    with pytest.raises(ConfigurationError, match=r"missing\.yaml: cannot be read: No such file or directory"):
        load_settings(file=missing, environ={})
    with pytest.raises(ConfigurationError, match=r"^ROUTER_CONFIG: .*missing\.yaml: cannot be read"):
        load_settings(environ={"ROUTER_CONFIG": str(missing)})
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    with pytest.raises(ConfigurationError, match="Is a directory"):
        load_settings(file=folder, environ={})
    (tmp_path / "x.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigurationError, match="expected UTF-8 text; byte 3 is not"):
        load_settings(file=tmp_path / "x.yaml", environ={})
    with pytest.raises(ConfigurationError, match=r"expected a file name that ends in \.yaml, \.yml or \.toml"):
        load_settings(file=str(tmp_path / "x.json"), environ={})


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "router.toml"
    path.write_bytes(b"\xef\xbb\xbf[server]\nport = 1\n")
    assert load_settings(file=path, environ={}).server.port == 1


def test_a_litellm_configuration_is_recognised(refusal: Callable[..., list[str]]) -> None:
    (line,) = refusal("model_list:\n  - model_name: x\n    litellm_params: {model: openai/x, api_key: canary}\n")
    assert "this is a LiteLLM configuration, which this version does not read yet" in line
    assert "canary" not in line


def test_variables_are_filled_in(load: Callable[..., Settings]) -> None:
    text = """
backends:
  a: {type: "${TYPE:-ollama}", url: "http://${GPU_HOST}:${GPU_PORT:-11434}", max_parallel: "${N}",
      headers: {X: "$${N}"}}
server: {host: "${UNSET:-}"}
"""
    settings = load(text, {"GPU_HOST": "gpu", "N": "3", "TYPE": ""})
    backend = settings.backends["a"]
    assert (backend.type, backend.base_url, backend.max_parallel) == ("ollama", "http://gpu:11434", 3)
    assert backend.headers == {"X": Secret("${N}")}
    assert settings.server.host == "127.0.0.1"


def test_what_comes_out_of_a_variable_is_not_filled_in_again(load: Callable[..., Settings]) -> None:
    settings = load('backends: {a: {type: ollama, headers: {X: "${A}"}}}', {"A": "${B}", "B": "no"})
    assert settings.backends["a"].headers["X"].reveal() == "${B}"


@pytest.mark.parametrize("environ", [{}, {"KEY": ""}])
def test_a_missing_variable_is_named_with_its_key_path(
    refusal: Callable[..., list[str]], environ: dict[str, str]
) -> None:
    lines = refusal('backends: {a: {type: openai, api_keys: [x, "${KEY}"]}}\nadmin: {api_key: "${ADMIN}"}\n', environ)
    assert lines == [
        "router.yaml: backends.a.api_keys[1]: the variable KEY is not set: set it, or write ${KEY:-default}",
        "router.yaml: admin.api_key: the variable ADMIN is not set: set it, or write ${ADMIN:-default}",
    ]


@pytest.mark.parametrize("text", ["${}", "${1A}", "${A", "${A-b}", "${A:-${B}}"])
def test_a_malformed_reference_is_refused(refusal: Callable[..., list[str]], text: str) -> None:
    (line,) = refusal(f"server: {{host: '{text}'}}\n", {"A": "a", "B": "b"})
    assert line == "router.yaml: server.host: expected ${NAME} or ${NAME:-default} (write $${ for a literal ${)"


def test_a_variable_the_file_uses_is_not_unknown(load: Callable[..., Settings]) -> None:
    text = 'backends: {a: {type: openai, api_keys: ["${ROUTER_KEY_1}"], url: "${ROUTER_OLLAMA_URL}"}}'
    environ = {"ROUTER_KEY_1": "canary", "ROUTER_OLLAMA_URL": "http://a:1/v1"}
    assert load(text, environ).warnings == []


def test_keys_and_values_that_yaml_reads_as_something_else(refusal: Callable[..., list[str]]) -> None:
    text = "aliases: {3: chat, chat: 3.10}\nserver: {host: yes, port: 1.5}\n"
    assert refusal(text) == [
        "router.yaml: aliases[3]: 3: expected text: put it in quotes",
        "router.yaml: aliases.chat: 3.1: expected text: put it in quotes",
        "router.yaml: server.host: true: expected text: put it in quotes",
        "router.yaml: server.port: 1.5: expected a whole number",
    ]
