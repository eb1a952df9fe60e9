"""What the README shows works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml

from smartrouter_asgi.config import load_settings
from smartrouter_asgi.config.backends import BUILT_IN_TYPES
from smartrouter_asgi.config.environment import Environment
from smartrouter_asgi.wire.verdicts import VALUES

from . import readme_tables
from .harness.engines import ANSWER, good
from .harness.routers import chat
from .harness.servers import RawServer

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def block(language: str, containing: str) -> str:
    """The code block of a language that contains a text."""
    found = [b for b in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if containing in b]
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module")
def demo():
    """`make demo`, on a free port."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "smartrouter_asgi", "serve", "--demo", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if found := re.search(r"listening on (http://127\.0\.0\.1:\d+)/v1", line):
            break
    else:
        raise AssertionError("".join(lines))
    yield found.group(1)
    process.terminate()
    process.communicate(timeout=20)


def test_the_curl_streams_an_answer(demo: str):
    """Word for word, but for the port."""
    command = block("sh", "curl").replace("http://127.0.0.1:11436", demo).replace("curl ", "curl -sS ", 1)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    if "curl: not found" in done.stderr or "command not found" in done.stderr:
        pytest.skip("this machine has no curl")
    assert done.stdout.endswith("data: [DONE]\n\n"), done
    assert done.stdout.count("data: ") > 5


def test_the_sdk_snippet_streams_an_answer(demo: str):
    """Word for word, but for the port."""
    code = block("python", "from openai").replace("http://127.0.0.1:11436", demo)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "simulated" in done.stdout


async def test_the_large_model_makes_the_others_go(demo: str):
    """The README's invitation: ask for the large one, then look."""
    body = {"model": "sim-large:27b", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    async with httpx.AsyncClient(timeout=40) as client:
        assert (await client.post(f"{demo}/v1/chat/completions", json=body)).status_code == 200
        residents = (await client.get(f"{demo}/admin/vram")).json()["residents"]
    assert [r["deployment"] for r in residents] == ["simulated/sim-large:27b"]


def test_the_configuration_loads(tmp_path: Path):
    """The YAML is one the gateway takes."""
    path = tmp_path / "smartrouter.yaml"
    path.write_text(block("yaml", "backends:"))
    settings = load_settings(file=path, environ={"OPENROUTER_KEY": "x"})
    assert set(settings.backends) == {"local", "box2", "cloud"}
    assert yaml.safe_load(path.read_text())["aliases"] == dict(settings.aliases)


async def test_a_client_that_is_handed_in_brings_its_proxy(monkeypatch: pytest.MonkeyPatch):
    """Also for what the gateway asks for itself."""
    monkeypatch.setenv("ROUTER_PROVIDER", "openai")
    monkeypatch.setenv("ROUTER_OPENAI_BASE_URL", "http://engine.test/v1")
    async with RawServer(good) as proxy:
        code = block("python", "proxy.internal").replace("http://proxy.internal:3128", proxy.base_url)
        exec(code, names := {})  # type: ignore[var-annotated]
        transport = httpx.ASGITransport(names["router"])
        async with httpx.AsyncClient(transport=transport, base_url="http://router", trust_env=False) as client:
            assert (await client.post("/v1/chat/completions", json=chat("engine-model"))).json() == ANSWER
        assert proxy.paths == ["http://engine.test/v1/models", "http://engine.test/v1/chat/completions"]
        await names["router"].aclose()
        await names["router"]._transport._client.aclose()


def test_links_point_at_files():
    """Every relative link exists."""
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_variable_the_gateway_reads_is_named():
    """The table of the environment is complete, and names nothing that is not read."""
    read = {f"ROUTER_{name.upper()}" for name in Environment.model_fields}
    table = README[README.index("One backend needs no file") : README.index("smartrouter-asgi check` says")]
    assert set(re.findall(r"`(ROUTER_[A-Z_]+)`", table)) == read


def test_the_tables_of_engines_are_up_to_date():
    """They say what the code does: `make readme` writes them anew."""
    assert README.count(readme_tables.BEGIN) == README.count(readme_tables.END) == 1
    assert readme_tables.updated(README) == README, "run `make readme`"


def test_the_tables_name_every_type_and_every_field():
    """Nothing is left out between the markers."""
    tables = README.partition(readme_tables.BEGIN)[2].partition(readme_tables.END)[0]
    for name in (*BUILT_IN_TYPES, *VALUES):
        assert f"`{name}`" in tables, name
