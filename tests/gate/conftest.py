from __future__ import annotations

import pytest

from smartrouter_asgi.backends import llamacpp, ollama, residency
from smartrouter_asgi.backends.ollama import OllamaBackend


@pytest.fixture(autouse=True)
def _quick_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripted memory comes back at once, and the simulated one twenty times as fast as a real GPU's."""
    monkeypatch.setattr(OllamaBackend, "unload_settle_s", 0.1)
    monkeypatch.setattr(ollama, "UNLOAD_POLL_S", 0.01)
    monkeypatch.setattr(residency, "CONFIRM_POLL_S", 0.01)
    monkeypatch.setattr(llamacpp, "POLL_S", 0.01)
