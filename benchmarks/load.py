"""The load generator, a process of its own: `python -m benchmarks.load`.

Each line of its standard input is a job, each line of its standard output what came of it, both JSON. By default a
closed loop: every connection sends its next request when it has the answer to the last one; with a `rate` an open one
(`schedule.py`). CPU time of the processes under test is read at the window's first and last moment, so that it belongs
to the answers counted.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from .answers import chat_body, chat_body_of
from .child import new_loop, say
from .client import Connection, Exchange, Leaver, Tally
from .figures import quantiles
from .schedule import PacedConnection, Schedule, Sender, ticking
from .usage import cpu_s, machine_busy_s, rss_bytes, to_be_accepted, tree

OPEN_TIMEOUT_S = 20.0
PATIENCE_S = 10.0
DRAIN_S = 2.0
"""How long an open loop waits for answers when everything is sent."""


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
    body_bytes: int = 0
    """How large a plain request is at least."""
    hold: bool = False
    """The window opens once all streams have begun and ends before they do: what a running stream costs."""
    rate: float = 0.0
    """Over 0: an open loop with so many requests a second."""
    leave: int = 0
    """Over 0: so many streams, each left by its client at the first chunk; `connections` of them at a time."""
    warmup_s: float = 0.3
    """How long to wait when every connection has had an answer; 0: the window opens at once."""
    seconds: float = 1.0
    requests: int = 0
    """Over 0: the window ends with so many answers, at the latest after `seconds`."""
    status: int = 200
    """What every answer must say."""
    holding: str = ""
    """Words that every plain answer must hold."""
    least: int = 10
    """How many answers or chunks the window must see: on a starved machine it lasts longer, up to `PATIENCE_S`."""

    def exchange(self) -> Exchange:
        """Return what each connection asks and how it is to be answered."""
        body = chat_body(self.chunks, self.pace_ms) if self.chunks else chat_body_of(self.body_bytes)
        return Exchange(
            port=self.port,
            body=body,
            chunks=self.chunks,
            pace_ms=self.pace_ms,
            status=self.status,
            holding=self.holding,
        )


@dataclass(slots=True)
class Meter:
    """What processes use between two moments."""

    job: Job
    pids: list[int] = field(default_factory=list)
    _began: float = 0.0
    _before: tuple[float, ...] = ()

    def start(self) -> None:
        self.pids = tree(self.job.pid)
        self._began, self._before = time.monotonic(), self._read()

    def read(self) -> dict[str, object]:
        seconds = time.monotonic() - self._began
        used = [after - before for before, after in zip(self._before, self._read(), strict=True)]
        names = ("cpu_s", "machine_busy_s", "engine_cpu_s", "load_cpu_s")
        return {"seconds": seconds, **dict(zip(names, used, strict=True)), "rss_bytes": rss_bytes(self.pids)}

    def _read(self) -> tuple[float, ...]:
        engine = [self.job.engine_pid] if self.job.engine_pid not in (0, self.job.pid) else []
        return cpu_s(self.pids), machine_busy_s(), cpu_s(engine), time.process_time()


async def run_job(job: Job) -> dict[str, object]:
    """Make the load of one window and return what was measured."""
    tally, meter = Tally(), Meter(job)
    connections: list[Connection] = []
    try:
        if job.leave:
            found = await _leaving(job, tally, meter)
        elif job.rate:
            found = await _open_loop(job, tally, meter, connections)
        else:
            found = await _closed_loop(job, tally, meter, connections)
        return {**found, **_seen(tally)}
    finally:
        for connection in connections:
            connection.close()
        await asyncio.sleep(0)


def _seen(tally: Tally) -> dict[str, object]:
    return {
        "requests": tally.requests,
        "chunks": tally.chunks,
        "streams": tally.streams_begun,
        "sent": tally.sent,
        "latency_us": quantiles(tally.latency),
        "first_token_us": quantiles(tally.first_token),
        "delay_us": quantiles(tally.delay),
        "jitter_us": quantiles(tally.jitter),
        "errors": tally.errors[:3],
    }


async def _connect(job: Job, connections: list[Connection], make: Callable[[Exchange], Connection]) -> None:
    """Make all connections, then let them begin: a busy server on uvloop accepts but one in each turn of its loop."""
    loop, exchange = asyncio.get_running_loop(), job.exchange()
    for _ in range(job.connections):
        connection = make(exchange)
        connections.append(connection)
        await loop.create_connection(lambda made=connection: made, "127.0.0.1", job.port)
    await _until(lambda: to_be_accepted(job.port) == 0, OPEN_TIMEOUT_S)
    for connection in connections:
        connection.ready()
        if job.pace_ms:  # spread over the pace, so that the streams do not all speak at once
            await asyncio.sleep(job.pace_ms / 1000 / job.connections)


async def _closed_loop(job: Job, tally: Tally, meter: Meter, connections: list[Connection]) -> dict[str, object]:
    await _connect(job, connections, lambda exchange: Connection(tally, exchange))
    if job.hold or job.warmup_s:
        await _all_begun(job, tally)
    await asyncio.sleep(job.warmup_s)
    meter.start()
    tally.open = True
    if job.requests:
        await _until(lambda: tally.requests >= job.requests or bool(tally.errors), job.seconds)
    else:
        await asyncio.sleep(job.seconds)
        await _until(lambda: max(tally.requests, tally.chunks) >= job.least or bool(tally.errors), PATIENCE_S)
    tally.open = False
    return meter.read()


async def _open_loop(job: Job, tally: Tally, meter: Meter, connections: list[Connection]) -> dict[str, object]:
    begin_ns = time.monotonic_ns() + 50_000_000
    counts_from_ns = begin_ns + round(job.warmup_s * 1e9)
    schedule = Schedule(rate=job.rate, begin_ns=begin_ns, count=round(job.rate * (job.warmup_s + job.seconds)))
    sender = Sender(tally, schedule, counts_from_ns=counts_from_ns)
    await _connect(job, connections, lambda exchange: PacedConnection(tally, exchange, sender))
    with ticking(sender.tick, from_ns=begin_ns, every_ns=max(20_000, round(1e9 / job.rate))):
        await asyncio.sleep(max(0.0, counts_from_ns - time.monotonic_ns()) / 1e9)
        meter.start()
        await _until(lambda: schedule.is_over or bool(tally.errors), job.seconds + PATIENCE_S)
        seen_in_time = {"answered_in_time": tally.requests, "behind": sender.behind}
        used = meter.read()
        await _until(lambda: not sender.behind or bool(tally.errors), DRAIN_S)
    unfinished = sender.give_up(time.monotonic_ns())
    lateness = quantiles(sender.lateness)
    return {**used, **seen_in_time, "unfinished": unfinished, "lateness_us": lateness}


async def _leaving(job: Job, tally: Tally, meter: Meter) -> dict[str, object]:
    loop, exchange, left = asyncio.get_running_loop(), job.exchange(), 0
    meter.start()

    async def one_after_the_other() -> None:
        nonlocal left
        while left < job.leave and not tally.errors:
            left += 1
            leaver = Leaver(tally, exchange)
            await loop.create_connection(lambda made=leaver: made, "127.0.0.1", job.port)
            leaver.ready()
            await leaver.left.wait()

    try:
        async with asyncio.timeout(job.seconds), asyncio.TaskGroup() as group:
            for _ in range(job.connections):
                group.create_task(one_after_the_other())
    except TimeoutError:
        tally.errors.append(f"{left} of {job.leave} clients came to their first chunk within {job.seconds:g} s")
    return meter.read()


async def _all_begun(job: Job, tally: Tally) -> None:
    """Wait until every stream that is held has brought its first chunk, or every connection has had an answer."""

    def begun() -> int:
        return tally.streams_begun if job.hold else tally.warm

    await _until(lambda: begun() >= job.connections or bool(tally.errors), OPEN_TIMEOUT_S)
    if begun() < job.connections and not tally.errors:
        tally.errors.append(f"only {begun()} of {job.connections} were answered within {OPEN_TIMEOUT_S:g} s")


async def _until(true: Callable[[], bool], timeout_s: float) -> None:
    """Wait for a condition, looking every 10 ms."""
    for _ in range(int(timeout_s * 100)):
        if true():
            return
        await asyncio.sleep(0.01)


def main() -> None:
    gc.disable()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        for line in sys.stdin:
            say(runner.run(run_job(Job(**json.loads(line)))))
            gc.collect()


if __name__ == "__main__":
    main()
