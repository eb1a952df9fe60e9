"""A router in a process of its own, with defaults and one backend, for as long as a benchmark runs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from .engine import NAME, Engine

KEY_VARIABLE = "SMARTROUTER_BENCH_ENGINE_KEY"
"""How the key gets to the child: in its environment, and in no file."""
START_WITHIN_S = 30.0
STOP_WITHIN_S = 15.0

_LISTENING = re.compile(rb"listening on (http://\S+)/v1")


class NotServedError(Exception):
    """The router did not start; the message ends with what it said."""


@asynccontextmanager
async def serving(engine: Engine, *, transport: str, timeout_s: float, key: str = "") -> AsyncGenerator[str]:
    """Serve the engine through a router on a free port of this machine; yields its URL. Raises `NotServedError`."""
    with tempfile.TemporaryDirectory(prefix="smartrouter-bench-") as folder:
        file, said = Path(folder) / "router.yaml", Path(folder) / "said"
        file.write_text(json.dumps(settings(engine, transport=transport, timeout_s=timeout_s, keyed=bool(key))))
        with said.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", f"{__package__}.child", "serve"),
                *("--config", str(file), "--host", "127.0.0.1", "--port", "0"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=_environment(os.environ, key),
                start_new_session=True,  # Ctrl-C is for the benchmark, which then ends the router in order
            )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            url = await _listening(process.stdout)
            if url is None:
                raise NotServedError(_last_words(said, key))
            draining = asyncio.create_task(_drain(process.stdout))
            try:
                yield url
            finally:
                draining.cancel()
        finally:
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), STOP_WITHIN_S)
            except BaseException as exc:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
                if not isinstance(exc, TimeoutError):
                    raise


def settings(engine: Engine, *, transport: str, timeout_s: float, keyed: bool) -> dict[str, object]:
    """Return the router's configuration: one backend and one model, defaults for all else.

    The gate stays out: with one model there is nothing to wait for, and it would change how long Ollama keeps it.
    """
    backend: dict[str, object] = {"type": engine.type, "url": engine.url, "gated": False}
    model = engine.model.replace("${", "$${")  # an engine's name for it, and no variable's
    if keyed:
        backend["api_keys"] = [f"${{{KEY_VARIABLE}}}"]
    return {
        "backends": {NAME: backend},
        "models": [{"name": model, "deployments": [{"backend": NAME, "model": model}]}],
        "transport": transport,
        "resilience": {"timeouts": {"total": timeout_s}},
    }


def _environment(environ: Mapping[str, str], key: str) -> dict[str, str]:
    """Return the environment without what would configure a router."""
    kept = {name: value for name, value in environ.items() if not name.upper().startswith("ROUTER_")}
    return {**kept, **({KEY_VARIABLE: key} if key else {})}


async def _listening(stdout: asyncio.StreamReader) -> str | None:
    try:
        async with asyncio.timeout(START_WITHIN_S):
            async for line in stdout:
                if found := _LISTENING.search(line):
                    return found[1].decode()
    except TimeoutError:
        pass
    return None


async def _drain(stdout: asyncio.StreamReader) -> None:
    while await stdout.read(4096):
        pass


def _last_words(said: Path, key: str) -> str:
    text = said.read_text(errors="replace")
    text = text.replace(key, "[key]") if key else text
    return "the router did not start: " + (" / ".join(text.split("\n")[-4:]).strip(" /") or "it said nothing")
