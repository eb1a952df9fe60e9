from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _no_real_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the gateway keeps in the user's cache folder goes nowhere near the real one, of child processes too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
