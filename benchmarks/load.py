"""The load generator, a process of its own: `python -m benchmarks.load`.

Each line of its standard input is a job, each line of its standard output what came of it, both JSON. A closed loop:
every connection sends its next request when it has the answer to the last one. CPU time of the processes under test is
read at the window's first and last moment, so that it belongs to the answers counted.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .child import new_loop, say
from .client import Connection, Tally
from .usage import cpu_s, machine_busy_s, rss_bytes, tree

OPEN_TIMEOUT_S = 20.0
PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One window of load."""

    port: int
    pid: int
    """The process under test; its children count too."""
    connections: int
    engine_pid: int = 0
    """The engine, so that its time can be told from that of strangers."""
    chunks: int = 0
    """0: plain answers."""
    pace_ms: int = 0
    hold: bool = False
    """The window opens once all streams have begun and ends before they do: what a running stream costs."""
    warmup_s: float = 0.3
    seconds: float = 1.0
    status: int = 200
    """What every answer must say."""
    holding: str = ""
    """Words that every plain answer must hold."""
    least: int = 10
    """How many answers or chunks the window must see: on a starved machine it lasts longer, up to `PATIENCE_S`."""


async def run_job(job: Job) -> dict[str, object]:
    """Make the load of one window and return what was measured."""
    tally = Tally()
    connections: list[Connection] = []
    try:
        await _connect(job, tally, connections)
        open_s = await _all_begun(tally, job.connections) if job.hold else 0.0
        await asyncio.sleep(job.warmup_s)
        return {"open_s": open_s, **await _window(job, tally), "sent": tally.sent}
    finally:
        for connection in connections:
            connection.close()
        await asyncio.sleep(0)


async def _connect(job: Job, tally: Tally, connections: list[Connection]) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(job.connections):
        connection = Connection(tally, job.chunks, job.pace_ms, job.port, status=job.status, holding=job.holding)
        connections.append(connection)
        await loop.create_connection(lambda made=connection: made, "127.0.0.1", job.port)
        if job.pace_ms:  # spread over the pace, so that the streams do not all speak at once
            await asyncio.sleep(job.pace_ms / 1000 / job.connections)


async def _all_begun(tally: Tally, streams: int) -> float:
    """Wait until every stream has brought its first chunk and return how long that took."""
    started = time.monotonic()
    await _until(lambda: tally.streams_begun >= streams or bool(tally.errors), OPEN_TIMEOUT_S)
    return time.monotonic() - started


async def _until(true: Callable[[], bool], timeout_s: float) -> None:
    """Wait for a condition, looking every 10 ms."""
    for _ in range(int(timeout_s * 100)):
        if true():
            return
        await asyncio.sleep(0.01)


async def _window(job: Job, tally: Tally) -> dict[str, object]:
    pids = tree(job.pid)
    engine = [job.engine_pid] if job.engine_pid not in (0, job.pid) else []
    began, cpu, busy = time.monotonic(), cpu_s(pids), machine_busy_s()
    own, engine_cpu = time.process_time(), cpu_s(engine)
    tally.open = True
    await asyncio.sleep(job.seconds)
    await _until(lambda: max(tally.requests, tally.chunks) >= job.least or bool(tally.errors), PATIENCE_S)
    tally.open = False
    seconds, cpu, busy = time.monotonic() - began, cpu_s(pids) - cpu, machine_busy_s() - busy
    return {
        "seconds": seconds,
        "requests": tally.requests,
        "chunks": tally.chunks,
        "streams": tally.streams_begun,
        "cpu_s": cpu,
        "engine_cpu_s": cpu_s(engine) - engine_cpu,
        "load_cpu_s": time.process_time() - own,
        "machine_busy_s": busy,
        "rss_bytes": rss_bytes(pids),
        "latency_us": percentiles(tally.latency),
        "first_token_us": percentiles(tally.first_token),
        "chunk_delay_us": percentiles(tally.delay),
        "errors": tally.errors[:3],
    }


def percentiles(times_ns: Iterable[int]) -> dict[str, float] | None:
    """Return p50, p95 and p99 in microseconds; None when there is nothing to tell."""
    ordered = sorted(times_ns)
    if not ordered:
        return None
    last = len(ordered) - 1
    return {f"p{p}": ordered[round(last * p / 100)] / 1000 for p in (50, 95, 99)}


def main() -> None:
    gc.disable()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        for line in sys.stdin:
            say(runner.run(run_job(Job(**json.loads(line)))))
            gc.collect()


if __name__ == "__main__":
    main()
