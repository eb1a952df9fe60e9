"""`models[].affinity` in the file."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from smartrouter_asgi import Settings, SmartRouter

FILE = """
backends: {{a: {{type: ollama}}}}
models: [{{name: chat, {setting} deployments: [{{backend: a, model: m}}]}}]
"""


@pytest.mark.parametrize(
    ("setting", "affinity"),
    [
        ("", "none"),
        ("affinity: none,", "none"),
        ("affinity: session,", "session"),
        ("affinity: Prefix,", "prefix"),
    ],
)
def test_affinity_is_read_and_reaches_the_catalog(load: Callable[..., Settings], setting: str, affinity: str) -> None:
    settings = load(FILE.format(setting=setting))
    assert settings.models[0].affinity == affinity
    assert SmartRouter(settings).discovery.current().models["chat"].affinity == affinity


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        (
            "affinity: sesion,",
            "models[0].affinity: 'sesion': expected 'none', 'session' or 'prefix'; did you mean 'session'?",
        ),
        ("affinity: true,", "models[0].affinity: true: expected 'none', 'session' or 'prefix'"),
        ("afinity: session,", "models[0].afinity: unknown key; did you mean 'affinity'?"),
    ],
)
def test_a_wrong_affinity_is_refused(refusal: Callable[..., list[str]], setting: str, line: str) -> None:
    """With the file, the key path, the value, and what would be right."""
    assert refusal(FILE.format(setting=setting)) == [f"router.yaml: {line}"]
