"""What requests leave to Python's cycle collector: nothing of ours, so that it can rest (see `calm_collector`)."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator

import pytest

from smartrouter_asgi.testing import drive

from .harness.engines import good
from .harness.routers import chat, router_over
from .harness.servers import RawServer

PACKAGE = "smartrouter_asgi"


@pytest.fixture
def garbage() -> Iterator[list[object]]:
    """Everything that only the collector frees, from now on."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def is_ours(found: object) -> bool:
    """Tell a value of one of our types, or a function of ours."""
    return type(found).__module__.startswith(PACKAGE) or (getattr(found, "__module__", None) or "").startswith(PACKAGE)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_request_leaves_no_cycle(stream: bool, garbage: list[object]):
    body = json.dumps(chat(stream=stream)).encode()
    async with RawServer(good) as engine:
        router = router_over(engine.base_url, transport="direct")
        for _ in range(3):
            assert (await drive(router, body=body)).status == 200
        gc.collect()
        garbage.clear()  # of what is made once
        for _ in range(5):
            assert (await drive(router, body=body)).status == 200
        gc.collect()
        assert not [type(one).__name__ for one in garbage if is_ours(one)]
        await router.aclose()


async def test_a_cycle_would_be_found(garbage: list[object]):
    """So that the test above can fail."""
    router = router_over("http://127.0.0.1:9")
    router.myself = router  # type: ignore[attr-defined]
    del router
    gc.collect()
    assert [one for one in garbage if is_ours(one)]
