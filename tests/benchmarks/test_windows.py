"""A window with a failed request is void: measured again, a bounded number of times, and told of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmarks.answers import ANSWER
from benchmarks.load import Job, run_job
from benchmarks.windows import VoidError, Windows

JOB = {"connections": 2, "seconds": 1.0}
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="what is used is read from /proc")


def window(**seen: Any) -> dict[str, Any]:
    used = {"cpu_s": 0.1, "engine_cpu_s": 0.0, "load_cpu_s": 0.0, "machine_busy_s": 0.3, "seconds": 1.0}
    return {"errors": [], "requests": 5, "chunks": 0, "streams": 0, **used, **seen}


class Load:
    """A load generator that has seen all this already."""

    def __init__(self, *windows: dict[str, Any]) -> None:
        self.windows = list(windows)
        self.jobs: list[Any] = []

    def tell(self, value: object) -> None:
        self.jobs.append(value)

    def hear(self, timeout_s: float) -> dict[str, Any]:
        return self.windows.pop(0)


def test_a_wrong_answer_voids_a_window_which_is_measured_again():
    good = window()
    windows = Windows(Load(window(errors=["HTTP/1.1 502"]), good))
    assert windows.measure("router", JOB) is good
    assert windows.valid == [good]
    assert windows.account() == {"windows": 1, "of": 2, "reasons": ["router: a failed request: HTTP/1.1 502"]}


def test_three_void_windows_in_a_row_end_the_run():
    load = Load(*[window(errors=["no"])] * 9)
    with pytest.raises(VoidError, match="router"):
        Windows(load).measure("router", JOB)
    assert len(load.jobs) == 3


def test_too_many_void_windows_end_the_run_though_each_was_repeated_well():
    windows = Windows(Load(*[window(errors=["no"]), window()] * 9))
    for _ in range(3):
        windows.measure("router", JOB)
    with pytest.raises(VoidError, match="windows were void"):
        windows.measure("router", JOB)
    assert windows.void == 4


def test_a_window_that_shows_nothing_is_void():
    good = window()
    assert Windows(Load(window(requests=0, chunks=0), good)).measure("router", JOB) is good


def test_a_peer_without_a_valid_window_is_left_out_and_named():
    load = Load(*[window(errors=["no"])] * 3, window())
    windows = Windows(load)
    assert windows.measure_peer("litellm, plain_32", JOB) is None
    assert windows.measure_peer("litellm, plain_32", JOB) is None, "it is not tried again"
    assert len(load.jobs) == 3
    assert windows.left_out.keys() == {"litellm, plain_32"}
    assert windows.measure("router", JOB) == window()
    assert windows.account() == {"windows": 0, "of": 1, "reasons": []}


def test_the_engine_is_no_stranger():
    load = Load(window(), window())
    windows = Windows(load, engine_pid=7)
    windows.measure("memory", JOB)
    windows.measure("router", {**JOB, "engine_pid": 8})
    assert [job["engine_pid"] for job in load.jobs] == [7, 8]


async def serve(answer: bytes, job: Callable[[int], Job]) -> dict[str, Any]:
    """Make load on a server that always gives this answer."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server:
        async with asyncio.timeout(30):
            return await run_job(job(server.sockets[0].getsockname()[1]))


@needs_proc
@pytest.mark.parametrize("rate", [0.0, 200.0], ids=["closed", "open"])
@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", "503"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhm", "hm"),
    ],
    ids=["another status", "other words"],
)
async def test_the_load_generator_takes_no_wrong_answer(answer: bytes, complaint: str, rate: float):
    found = await serve(
        answer, lambda port: Job(port=port, pid=1, connections=1, rate=rate, seconds=0.05, holding="work")
    )
    assert complaint in found["errors"][0]
    assert found["requests"] == 0


@needs_proc
@pytest.mark.parametrize("rate", [0.0, 200.0], ids=["closed", "open"])
async def test_the_load_generator_counts_right_answers(rate: float):
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(ANSWER), ANSWER)
    found = await serve(
        answer, lambda port: Job(port=port, pid=1, connections=1, rate=rate, seconds=0.1, warmup_s=0.0, holding="work")
    )
    assert found["errors"] == []
    assert found["requests"] > 0
    assert len(found["latency_us"]) == 101
