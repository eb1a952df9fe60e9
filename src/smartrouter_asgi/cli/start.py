"""What `serve` has settled before it listens, and the first lines it prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import announce, lookaround
from .sockets import base_url, port_of

if TYPE_CHECKING:
    import socket

    from ..app import SmartRouter
    from ..config import Settings
    from ..testing.ollama import SimulatedOllama
    from .output import Screen
    from .survey import Survey

SURVEY_WITHIN_S = 1.0
"""How long the backends may take to show up in the first lines; requests do not wait for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The settings, the sockets that are bound, and where to print."""

    settings: Settings
    sockets: list[socket.socket]
    screen: Screen

    @property
    def url(self) -> str:
        """Where a client on this machine reaches the gateway."""
        return base_url(self.settings.server.host, port_of(self.sockets))

    @property
    def shown_url(self) -> str:
        """The address as it was asked for."""
        host = self.settings.server.host
        return f"http://{f'[{host}]' if ':' in host else host}:{port_of(self.sockets)}"

    async def find_engines(self) -> Settings:
        """Return the settings; where nobody has said which engines there are, with those on this machine."""
        if self.settings.backends_explicit:
            return self.settings
        ports = [port for port in lookaround.PORTS if port != port_of(self.sockets)]
        found = await lookaround.look_around(ports)
        kept = next((section.base_url for section in self.settings.backends.values()), "")
        announce.announce_engines(self.screen, found, ports, kept)
        return lookaround.with_found(self.settings, found)

    def announce(self, router: SmartRouter, seen: Survey, engine: SimulatedOllama | None = None) -> None:
        """Print engines, memory, warnings, the address, and requests to try; `engine` is a demo's."""
        simulated = engine is not None
        announce.announce_backends(self.screen, seen, simulated=simulated)
        announce.announce_memory(self.screen, router, simulated=simulated)
        announce.announce_warnings(self.screen, router.settings.warnings)
        first = announce.first_chat_model(seen)
        requests = [("try", first)] if first is not None else []
        if first is not None and engine is not None:
            from .demo import largest_model

            requests.append(("then one that needs the GPU to itself, so that the gate swaps", largest_model(engine)))
        announce.announce_url(self.screen, self.shown_url, self.url, requests)
        if simulated:
            self.screen.line(f"  what is in GPU memory:  curl {self.url}/admin/vram")
