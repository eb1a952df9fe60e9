from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from smartrouter_asgi.transport import choice


@pytest.fixture(scope="session")
def _cache_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    base = tmp_path_factory.mktemp("caches")
    return (base / str(number) for number in count())


@pytest.fixture(autouse=True)
def transport_name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have the routers of a test speak through `TEST_TRANSPORT=direct` or `httpx`, else their own choice.

    A package whose tests are to hold for both gives each of them this fixture with a parameter. Routers in processes
    of their own have to be told: it returns the name.
    """
    name = getattr(request, "param", None) or os.environ.get("TEST_TRANSPORT")
    if name:
        monkeypatch.setattr(choice, "AUTO", name)
    return choice.AUTO


@pytest.fixture(autouse=True)
def _a_cache_of_its_own(_cache_folders: Iterator[Path]) -> Iterator[None]:
    """Whatever a test's gateways, or its child processes, keep in the user's cache folder is seen by that test only."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(next(_cache_folders))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before
