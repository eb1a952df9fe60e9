"""The servers that are not ours, as they recommend to run them: nginx, the LiteLLM proxy."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from .answers import ENGINE_MODEL, MODEL
from .processes import READY_TIMEOUT_S, ROOT, Child, free_port, stranger

NGINX_CONF = """
daemon off; worker_processes 1; pid {folder}/pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_max_body_size 8m; client_body_buffer_size 2m;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream engine {{ server 127.0.0.1:{engine}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=2048; keepalive_requests 1000000000;
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""

LITELLM_CONF = """
model_list:
  - model_name: {model}
    litellm_params: {{model: openai/{engine_model}, api_base: "http://127.0.0.1:{engine}/v1", api_key: unused}}
litellm_settings: {{request_timeout: 600, set_verbose: false, json_logs: true}}
"""
"""From its guide to production; without a database, Redis and a key, all of which would only make it slower."""
LITELLM_ENVIRON = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    "NO_PROXY": "127.0.0.1",
}
"""The map of prices comes from its package: nothing is fetched while others are measured. It starts without a key."""
LITELLM_READY_S = 120.0


def nginx_binary() -> str | None:
    """Return where nginx is (`BENCH_NGINX` or the search path), if there is one."""
    return os.environ.get("BENCH_NGINX") or shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


@contextlib.contextmanager
def nginx(engine_port: int, *, core: set[int] | None) -> Iterator[Child]:
    """Run nginx as an unbuffered reverse proxy with one worker and kept-alive upstream connections."""
    binary, port = nginx_binary(), free_port()
    assert binary is not None
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "conf").write_text(NGINX_CONF.format(folder=folder, engine=engine_port, port=port))
        command = (binary, "-e", "stderr", "-p", folder, "-c", "conf")
        with stranger(*command, port=port, core=core, ready_s=READY_TIMEOUT_S) as child:
            yield child


def litellm_binary() -> str | None:
    """Return the LiteLLM command: `BENCH_LITELLM`, or the one in the environment that `make bench-peers` makes."""
    made = ROOT / ".venv-litellm" / "bin" / "litellm"
    return os.environ.get("BENCH_LITELLM") or (str(made) if made.exists() else None)


@contextlib.contextmanager
def litellm(engine_port: int, *, core: set[int] | None) -> Iterator[Child]:
    """Run the LiteLLM proxy with one worker, as its guide to production says."""
    binary, port = litellm_binary(), free_port()
    assert binary is not None
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.yaml")
        config.write_text(LITELLM_CONF.format(model=MODEL, engine_model=ENGINE_MODEL, engine=engine_port))
        command = (binary, "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1")
        with stranger(*command, port=port, core=core, environ=LITELLM_ENVIRON, ready_s=LITELLM_READY_S) as child:
            yield child


def peer_versions(names: Collection[str]) -> dict[str, str]:
    """Return the versions of the peers among some variants, as they tell them."""
    found: dict[str, str] = {}
    if "nginx" in names and (binary := nginx_binary()):
        said = subprocess.run([binary, "-v"], capture_output=True, text=True, check=False, timeout=10).stderr
        found["nginx"] = said.strip().rpartition("/")[2]
    if "litellm" in names and (binary := litellm_binary()):
        code = "from importlib.metadata import version; print(version('litellm'), version('opentelemetry-api'))"
        python = str(Path(binary).with_name("python"))
        said = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False, timeout=30).stdout
        found |= dict(zip(("litellm", "opentelemetry-api"), said.split(), strict=False))
    return found
