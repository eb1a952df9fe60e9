"""SimulatedOllama: the engine that users and tests start."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any, Self, TypeVar

from .api import OllamaAPI
from .clock import EngineClock
from .faults import Faults
from .gpu import SimulatedGPU
from .http_server import HTTPServer
from .models import GIB, MIB, Library
from .observation import Observation
from .runners import RunnerPool
from .scheduler import Scheduler
from .simulation import Simulation

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from .models import SimulatedModel
    from .observation import Exchange, Stats

T = TypeVar("T")

DEFAULT_MAX_LOADED = 3
CONTEXT_TIERS = ((47 * GIB, 262144), (23 * GIB, 32768), (0, 4096))


class SimulatedOllama:
    """An Ollama server without models: real sockets, Ollama's API and scheduler, one simulated GPU, made-up answers.

    Names of the arguments follow Ollama's settings. One engine second takes `time_scale` real seconds; whatever the
    engine reports (durations, `expires_at`) is in engine seconds. `vram_release_s` is the span in which the memory of
    an unloaded runner comes back. `num_ctx` 0 chooses the default context by the size of the GPU. A port of 0 means any
    free one. Raises `ValueError` for two models of one name.
    """

    def __init__(
        self,
        models: Sequence[SimulatedModel],
        *,
        gpu_bytes: int = 24 * GIB,
        max_loaded_models: int = 0,
        num_parallel: int = 1,
        max_queue: int = 512,
        keep_alive_s: float = 300.0,
        num_ctx: int = 0,
        reserve_bytes: int = 457 * MIB,
        vram_release_s: tuple[float, float] = (0.5, 1.5),
        time_scale: float = 1.0,
        faults: Faults | None = None,
        version: str = "0.33.0",
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.host = host
        self.port = port
        self.faults = Faults() if faults is None else faults
        self.observation = Observation()
        self.gpu = SimulatedGPU(gpu_bytes, lambda: self.faults.stolen_vram_bytes)
        self.scheduler = Scheduler(
            self.gpu,
            max_loaded=max_loaded_models or DEFAULT_MAX_LOADED,
            parallel=max(1, num_parallel),
            max_queue=max_queue,
            keep_alive_s=keep_alive_s if keep_alive_s >= 0 else float("inf"),
            reserve=reserve_bytes,
        )
        clock = EngineClock(time_scale)
        self._pool = RunnerPool(self.scheduler, clock, self.faults, self.observation, vram_release_s)
        simulation = Simulation(
            version=version,
            library=Library(models),
            gpu=self.gpu,
            pool=self._pool,
            clock=clock,
            faults=self.faults,
            observation=self.observation,
            default_num_ctx=num_ctx or next(ctx for least, ctx in CONTEXT_TIERS if gpu_bytes >= least),
        )
        self.models = tuple(simulation.library)
        self._server = HTTPServer(OllamaAPI(simulation), self._connections_changed)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<SimulatedOllama {self.base_url} loaded={list(self.loaded)}>"

    async def start(self) -> None:
        """Listen, on the port that `base_url` tells from now on."""
        self._loop = asyncio.get_running_loop()
        await self.accept_connections()

    async def aclose(self) -> None:
        """Stop listening, break every connection and stop every runner."""
        await self.refuse_connections()
        await self._pool.aclose()

    async def refuse_connections(self) -> None:
        """Stop listening and break every open connection, as a server that went down; runners stay."""
        self._server.stop_listening()
        await self._server.drop_connections()

    async def accept_connections(self) -> None:
        """Listen, again on the same port after `refuse_connections`."""
        await self._server.listen(self.host, self.port)
        self.port = self._server.port

    @contextlib.contextmanager
    def run_in_thread(self) -> Iterator[Self]:
        """Run the engine in a thread of its own while the block lasts, for callers without an event loop.

        In the block use `call` for its coroutines and `wait` instead of `wait_for`.
        """
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="simulated-ollama", daemon=True)
        thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self.start(), loop).result()
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self.aclose(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run one of the engine's coroutines from outside its thread and return the result."""
        assert self._loop is not None, "start the engine first"
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    @property
    def base_url(self) -> str:
        """Where the engine listens, without a slash at the end."""
        return f"http://{self.host}:{self.port}"

    @property
    def log(self) -> list[Exchange]:
        """The requests that have arrived, in order."""
        return self.observation.log

    @property
    def stats(self) -> Stats:
        """Counts of what has happened."""
        return self.observation.stats

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the models whose runners can answer, oldest first."""
        return tuple(runner.model.name for runner in self.scheduler.runners.values())

    @property
    def loading(self) -> str | None:
        """Name of the model that is being loaded."""
        return self.scheduler.loading.model.name if self.scheduler.loading else None

    @property
    def pending(self) -> int:
        """How many requests wait for a load, the one that is worked on not counted."""
        return len(self.scheduler.pending)

    @property
    def waiting_for_slot(self) -> int:
        """How many requests hold a loaded runner and wait for one of its slots."""
        return sum(len(runner.slot_queue) for runner in self.scheduler.runners.values())

    def memory(self) -> tuple[int, int]:
        """Return total and free bytes of the GPU, as a probe of the device would."""
        return self.gpu.total_bytes, self.gpu.free_bytes

    async def wait_for(self, condition: Callable[[Self], bool], *, timeout_s: float = 10.0) -> None:
        """Wait until the condition holds, looked at after every change; raises `TimeoutError` after so many real s."""
        await self.observation.wait_for(lambda: condition(self), timeout_s)

    def wait(self, condition: Callable[[Self], bool], *, timeout_s: float = 10.0) -> None:
        """Do what `wait_for` does, from outside the engine's thread."""
        self.call(self.wait_for(condition, timeout_s=timeout_s))

    def _connections_changed(self, now_open: int, opened: int) -> None:
        self.stats.open_connections = now_open
        self.stats.connections += opened
        self.observation.changed()
