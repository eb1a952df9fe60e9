"""Looks for engines on this machine: at the usual ports, told apart by what they answer and never by the port."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from ..backends.auto import detect, url_for
from ..backends.base import BackendSpec
from ..config import BackendSettings
from ..exceptions import AttemptError, FailureKind
from ..transport.httpx_transport import HttpxTransport

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..config import Settings
    from ..transport.http import Transport

PORTS = (11434, 8080, 8000, 1234, 9931, 4000, 1337, 5000, 5001, 8081, 30000)
"""Where engines usually listen: Ollama, llama.cpp, vLLM, LM Studio, LiteLLM, SGLang, and those that copy them."""

WITHIN_S = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Something that accepts connections on this machine."""

    port: int
    type: str | None
    """None: it answers like no engine known here, or not in time."""

    @property
    def url(self) -> str:
        """Where it is, as its backend type wants it written."""
        root = f"http://127.0.0.1:{self.port}"
        return root if self.type is None else url_for(self.type, root)


async def look_around(ports: Iterable[int], *, within_s: float = WITHIN_S) -> tuple[Found, ...]:
    """Ask all ports at once and return what accepts connections, in the order of the ports."""
    transport = HttpxTransport(connect_timeout_s=within_s)
    try:
        answers = await asyncio.gather(*(_ask(port, transport, within_s) for port in ports))
    finally:
        await transport.aclose()
    return tuple(found for found in answers if found is not None)


def with_found(settings: Settings, found: Iterable[Found]) -> Settings:
    """Return the settings with the engines that were found for backends, named after their types.

    What the environment says of its one backend besides the address goes for each of them.
    """
    engines = [engine for engine in found if engine.type is not None]
    kinds = Counter(engine.type for engine in engines)
    template = next(iter(settings.backends.values()), None)
    backends = {
        str(engine.type) if kinds[engine.type] == 1 else f"{engine.type}-{engine.port}": BackendSettings.model_validate(
            {
                "type": engine.type,
                "url": engine.url,
                **({"keep_alive": template.keep_alive_s, "model_prefix": template.model_prefix} if template else {}),
            }
        )
        for engine in engines
    }
    return settings.model_copy(update={"backends": backends}) if backends else settings


async def _ask(port: int, transport: Transport, within_s: float) -> Found | None:
    spec = BackendSpec(name=f"port {port}", type="auto", url=f"http://127.0.0.1:{port}")
    kind = None
    with anyio.move_on_after(2 * within_s):
        try:
            kind = await detect(spec, transport, within_s=within_s)
        except AttemptError as exc:
            if exc.kind is not FailureKind.FIRST_TOKEN_TIMEOUT:
                return None
    return Found(port=port, type=kind)
