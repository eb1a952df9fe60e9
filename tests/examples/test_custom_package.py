"""`examples/custom_backend_package`: found by its entry point, served from a configuration file, true to its contract.

Nothing is downloaded and nothing is built: the package's folder and the metadata that an installer would write for it
go on the path of a fresh interpreter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from .conftest import EXAMPLES

PACKAGE = EXAMPLES / "custom_backend_package"
PROJECT: dict[str, Any] = tomllib.loads((PACKAGE / "pyproject.toml").read_text())

SERVE = """
import asyncio, json, sys
import httpx
from smartrouter_asgi import SmartRouter

if "smartrouter_wordcount" in sys.modules:
    raise SystemExit("it is imported before a configuration names it")

async def main():
    router = SmartRouter.from_file(sys.argv[1])
    transport = httpx.ASGITransport(router)
    async with router.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        body = {"model": "counter", "messages": [{"role": "user", "content": "one two three"}], "user": "u"}
        models = await client.get("/v1/models")
        plain = await client.post("/v1/chat/completions", json=body)
        streamed = await client.post("/v1/chat/completions", json={**body, "stream": True})
        refused = await client.post("/v1/chat/completions", json={**body, "n": 2})
    print(json.dumps({
        "models": [model["id"] for model in models.json()["data"]],
        "plain": plain.json(),
        "headers": dict(plain.headers),
        "streamed": streamed.text,
        "refused": [refused.status_code, refused.json()],
    }))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of an interpreter that has the package installed."""
    project = PROJECT["project"]
    target = tmp_path_factory.mktemp("site")
    metadata = target / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.4\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    paths = os.pathsep.join([str(target), str(PACKAGE / "src")])
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ROUTER_", "PYTEST_", "COV_"))}
    return {**kept, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}


def run(environment: dict[str, str], *arguments: str, cwd: Path = PACKAGE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=50, check=False)


def test_a_configuration_finds_it(environment: dict[str, str], tmp_path: Path):
    """`type: wordcount` in a YAML file is enough; plain, streamed and refused requests are served."""
    done = run(environment, "-c", SERVE, str(PACKAGE / "smartrouter.yaml"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {"word-count", "counter"} <= set(told["models"])
    assert told["plain"]["choices"][0]["message"]["content"] == "3 words"
    assert told["headers"]["x-smartrouter-backend"] == "words"
    assert told["headers"]["x-smartrouter-ignored"] == "user"
    assert told["streamed"].endswith("data: [DONE]\n\n")
    assert '"content": "3"' in told["streamed"]
    status, refusal = told["refused"]
    assert (status, refusal["error"]["code"], refusal["error"]["param"]) == (400, "unsupported_parameter", "n")


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_its_own_tests_pass(environment: dict[str, str], tmp_path: Path, mode: str):
    """The contract holds, in both modes of pytest-asyncio."""
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", f"asyncio_mode={mode}", "-rs"]
    if mode == "strict":
        arguments += ["-k", "TestWordCountBackend"]  # the package's other tests count on `auto`
    done = run(environment, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert " warning" not in done.stdout


def test_an_unknown_option_stops_the_start(environment: dict[str, str], tmp_path: Path):
    """The package's own words reach whoever starts the router."""
    file = tmp_path / "router.yaml"
    file.write_text("backends: {words: {type: wordcount, options: {untis: words}}}\n")
    script = "import sys; from smartrouter_asgi import SmartRouter; SmartRouter.from_file(sys.argv[1])"
    done = run(environment, "-c", script, str(file), cwd=tmp_path)
    assert done.returncode != 0
    assert "wordcount knows no untis" in done.stderr


def test_without_it_the_type_is_unknown(tmp_path: Path):
    """And the message says which are known."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ROUTER_")}
    script = "import sys; from smartrouter_asgi import SmartRouter; SmartRouter.from_file(sys.argv[1])"
    done = run(kept, "-c", script, str(PACKAGE / "smartrouter.yaml"), cwd=tmp_path)
    assert done.returncode != 0
    assert "no backend of type 'wordcount'" in done.stderr
