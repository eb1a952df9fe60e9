"""The real commands in processes of their own, with no `ROUTER_*` variable of the outer environment."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

MODULE = (sys.executable, "-m", "smartrouter_asgi")
LAST_LINE = "for OpenAI clients:"
BOUND_S = 20.0


def patched(code: str) -> tuple[str, ...]:
    """The command line of a process that runs some code before `main`."""
    return (
        sys.executable,
        "-c",
        f"import sys\n{code}\nfrom smartrouter_asgi.cli import main\nsys.exit(main(sys.argv[1:]))",
    )


def looking_at(*ports: int) -> tuple[str, ...]:
    """The command line of a process that looks for engines at these ports only."""
    return patched(f"from smartrouter_asgi.cli import lookaround\nlookaround.PORTS = {ports!r}")


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.upper().startswith("ROUTER_") and "PROXY" not in k.upper()}
    return {**kept, **(extra or {})}


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


async def run(*args: str, env: Mapping[str, str] | None = None, program: tuple[str, ...] = MODULE) -> Outcome:
    """Run a command to its end."""
    process = await _start(program, args, env)
    out, err = await asyncio.wait_for(process.communicate(), BOUND_S)
    return _outcome(process, out, err)


@dataclass
class Served:
    """A `serve` that listens."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)
    outcome: Outcome | None = None

    @property
    def url(self) -> str:
        found = re.search(r"listening on (http://\S+)/v1", self.text)
        assert found, self.text
        return found[1]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def curls(self) -> list[list[str]]:
        return [shlex.split(line) for line in self.lines if line.strip().startswith("curl ")]

    async def request(self, curl: list[str]) -> httpx.Response:
        """Do with httpx what a curl line that was printed does."""
        assert curl[:2] == ["curl", "-N"]
        name, _, value = curl[curl.index("-H") + 1].partition(": ")
        async with httpx.AsyncClient(timeout=BOUND_S, trust_env=False) as client:
            return await client.post(curl[2], content=curl[curl.index("-d") + 1], headers={name: value})

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(timeout=BOUND_S, trust_env=False) as client:
            return await client.get(self.url + path)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> Outcome:
        """Send a signal and wait for the end."""
        if self.outcome is None:
            self.process.send_signal(number)
            out, err = await asyncio.wait_for(self.process.communicate(), BOUND_S)
            self.outcome = _outcome(self.process, "\n".join(self.lines).encode() + b"\n" + out, err)
        return self.outcome


@asynccontextmanager
async def serving(
    *args: str, env: Mapping[str, str] | None = None, program: tuple[str, ...] = MODULE
) -> AsyncIterator[Served]:
    """Run `serve` on a free port; yields once its first lines are there."""
    process = await _start(program, ("serve", "--port", "0", *args), env)
    served = Served(process)
    try:
        async with asyncio.timeout(BOUND_S):
            assert process.stdout is not None
            while not (served.lines and LAST_LINE in served.lines[-1]):
                line = await process.stdout.readline()
                if not line:
                    _, err = await process.communicate()
                    raise AssertionError(f"serve ended with {process.returncode}: {served.text}\n{err.decode()}")
                served.lines.append(line.decode().rstrip("\n"))
        yield served
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.communicate(), BOUND_S)
            except TimeoutError:
                process.kill()
                await process.communicate()


async def _start(
    program: tuple[str, ...], args: tuple[str, ...], env: Mapping[str, str] | None
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *program,
        *args,
        env=clean_environment(env),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


def _outcome(process: asyncio.subprocess.Process, out: bytes, err: bytes) -> Outcome:
    assert process.returncode is not None
    return Outcome(process.returncode, out.decode(), err.decode())
