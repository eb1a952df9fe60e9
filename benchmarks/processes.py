"""The processes of a benchmark: each on its core, each stopped and reaped whatever happens."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .answers import CHAT_PATH, chat_body

ROOT = Path(__file__).parent.parent
READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 8.0
_PR_SET_PDEATHSIG = 1


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


def _dying_with_parent() -> Callable[[], object] | None:
    """Return what a new process calls so that the kernel ends it with its parent, however that one ends."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up here: between fork and exec nothing may be imported
    return lambda: prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))


class Child:
    """A process and all that descend from it; those of the benchmarks speak lines of JSON (`talks`).

    They leave when their standard input ends. What a stranger prints is kept until its end.
    """

    def __init__(
        self, *command: str, core: set[int] | None, talks: bool = True, environ: dict[str, str] | None = None
    ) -> None:
        self._said = None if talks else tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._command = command
        with pinned(core):
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if talks else self._said,
                stderr=self._said,
                text=True,
                bufsize=1,
                env={**os.environ, **(environ or {})},
                start_new_session=True,
                preexec_fn=_dying_with_parent(),  # this process has one thread
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
            raise RuntimeError(f"{' '.join(self._command[-2:])} said nothing within {timeout_s:g} s")
        return dict(json.loads(line))

    def has_ended(self) -> bool:
        """Tell whether it has ended by itself."""
        return self._process.poll() is not None

    def last_words(self) -> str:
        """Return the end of what a stranger has printed."""
        if self._said is None:
            return ""
        self._said.seek(0)
        return self._said.read().decode(errors="replace")[-600:]

    def stop(self) -> None:
        """End it, and whatever it has left behind in its session."""
        process = self._process
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        if self._said is not None:
            self._said.close()


@contextlib.contextmanager
def stopping(child: Child) -> Iterator[Child]:
    """Stop a process at the end of the block."""
    try:
        yield child
    finally:
        child.stop()


@contextlib.contextmanager
def module(name: str, *arguments: str, core: set[int] | None, serves: bool = True) -> Iterator[Child]:
    """Run one of the benchmarks' modules as a process; `serves`: it says its port first."""
    with stopping(Child(sys.executable, "-m", f"benchmarks.{name}", *arguments, core=core)) as child:
        if serves:
            child.port = int(str(child.hear(READY_TIMEOUT_S)["port"]))
        yield child


@contextlib.contextmanager
def stranger(
    *command: str, port: int, core: set[int] | None, environ: dict[str, str] | None = None, ready_s: float
) -> Iterator[Child]:
    """Run a server that is told its port; it is ready when it has answered a chat request."""
    with stopping(Child(*command, core=core, talks=False, environ=environ)) as child:
        child.port = port
        try:
            first_answer(port, timeout_s=ready_s, alive=lambda: not child.has_ended())
        except (RuntimeError, OSError) as error:
            raise RuntimeError(f"{error}; it said: {child.last_words()}") from error
        yield child


def free_port() -> int:
    """Return a port that nobody listens at for now."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


def first_answer(
    port: int,
    *,
    body: bytes | None = None,
    timeout_s: float = READY_TIMEOUT_S,
    alive: Callable[[], bool] = lambda: True,
) -> None:
    """Wait for a first answer to a chat request. Raises `RuntimeError` when it is not a 200 in time."""
    body = chat_body() if body is None else body
    request = (
        b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n"
        b"content-length: %d\r\n\r\n%s" % (CHAT_PATH.encode(), len(body), body)
    )
    until = time.monotonic() + timeout_s
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as client:
                client.sendall(request)
                status = client.recv(65536)[:12]
        except ConnectionError as error:
            if time.monotonic() > until or not alive():
                raise RuntimeError(f"port {port} never answered: {error!r}") from error
            time.sleep(0.003)  # nothing tells when a stranger begins to listen
            continue
        if status != b"HTTP/1.1 200":
            raise RuntimeError(f"the first answer was {status!r}")
        return
