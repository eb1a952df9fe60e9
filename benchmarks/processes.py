"""The processes of a benchmark: each on its core, each stopped and reaped whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from .answers import CHAT_PATH, chat_body

ROOT = Path(__file__).parent.parent
READY_TIMEOUT_S = 30.0

NGINX_CONF = """
daemon off; worker_processes 1; pid {folder}/pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream engine {{ server 127.0.0.1:{engine}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port}; keepalive_requests 1000000000;
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


def cores() -> tuple[set[int] | None, set[int] | None]:
    """Return the cores for the process under test and for engine and load: two different ones where there are two."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    allowed = sorted(os.sched_getaffinity(0))
    return ({allowed[0]}, {allowed[1]}) if len(allowed) > 1 else (None, None)


@contextlib.contextmanager
def pinned(to: set[int] | None) -> Iterator[None]:
    """Let processes that are started inside the block inherit a core."""
    if to is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, to)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Child:
    """A process that speaks lines of JSON; it leaves when its standard input ends."""

    def __init__(self, *command: str, core: set[int] | None) -> None:
        with pinned(core):
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
        self.pid = self._process.pid
        self.port = 0

    def tell(self, value: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")

    def hear(self, timeout_s: float) -> dict[str, object]:
        """Return its next line. Raises `RuntimeError` when none comes in time."""
        out = self._process.stdout
        assert out is not None
        ready, _, _ = select.select([out], [], [], timeout_s)
        line = out.readline() if ready else ""
        if not line:
            raise RuntimeError(f"{self._process.args[-2:]} said nothing within {timeout_s:g} s")
        return dict(json.loads(line))

    def stop(self) -> None:
        process = self._process
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        process.terminate()
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def module(name: str, *arguments: str, core: set[int] | None, serves: bool = True) -> Iterator[Child]:
    """Run one of the benchmarks' modules as a process; `serves`: it says its port first."""
    child = Child(sys.executable, "-m", f"benchmarks.{name}", *arguments, core=core)
    try:
        if serves:
            child.port = int(str(child.hear(READY_TIMEOUT_S)["port"]))
        yield child
    finally:
        child.stop()


def nginx_binary() -> str | None:
    """Return where nginx is (`BENCH_NGINX` or the search path), if there is one."""
    return os.environ.get("BENCH_NGINX") or shutil.which("nginx")


@contextlib.contextmanager
def nginx(engine_port: int, *, core: set[int] | None) -> Iterator[Child]:
    """Run nginx as an unbuffered reverse proxy with one worker and kept-alive upstream connections."""
    binary = nginx_binary()
    assert binary is not None
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        Path(folder, "conf").write_text(NGINX_CONF.format(folder=folder, engine=engine_port, port=port))
        held.close()
        child = Child(binary, "-e", "stderr", "-p", folder, "-c", "conf", core=core)
        try:
            child.port = port
            first_answer(port)
            yield child
        finally:
            child.stop()


def first_answer(port: int, *, path: str = CHAT_PATH, body: bytes | None = None) -> None:
    """Wait for a first answer to a chat request. Raises `RuntimeError` when it is not a 200 in time."""
    body = chat_body() if body is None else body
    request = b"POST %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % (
        path.encode(),
        len(body),
    )
    until = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=READY_TIMEOUT_S) as client:
                client.sendall(request + body)
                status = client.recv(65536)[:12]
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
            continue
        if status != b"HTTP/1.1 200":
            raise RuntimeError(f"the first answer was {status!r}")
        return


def versions_of(binary: str) -> Mapping[str, str]:
    """Return nginx's own version."""
    said = subprocess.run([binary, "-v"], capture_output=True, text=True, check=False, timeout=10).stderr
    return {"nginx": said.strip().rpartition("/")[2]}
