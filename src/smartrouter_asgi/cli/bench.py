"""`bench`: the user's own engine, asked directly and through the router in turn."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..exceptions import AttemptError, ConfigurationError
from .announce import is_for_chat
from .bench_options import address, allow_sockets, file_of, key_of, model_of, plan_of
from .errors import FAILED, OK, CommandError
from .output import Screen, counted
from .progress import Progress

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from pathlib import Path

    from ..bench.client import Target
    from ..bench.engine import Engine
    from ..bench.plan import Plan
    from ..bench.run import Measured

KEY = "SMARTROUTER_BENCH_API_KEY"
ROUTED_KEY = "SMARTROUTER_BENCH_ROUTED_API_KEY"
INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What is written besides the table."""

    page: Path | None
    figures: Path | None


@dataclass
class Bench:
    """One run: what it was told, and what there is so far."""

    options: argparse.Namespace
    plan: Plan
    files: Files
    screen: Screen
    engine: Engine | None = None
    router: dict[str, Any] = field(default_factory=dict)
    measured: Measured | None = None


def bench(options: argparse.Namespace) -> int:
    """Measure and report; 1 when a request failed, 130 when it was stopped. Raises `CommandError`."""
    try:
        import httptools  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise CommandError("bench needs the server: pip install 'smartrouter-asgi[server]'", exit_code=FAILED) from None
    plan = plan_of(options)
    options.url = address(options.url, "--url")
    if options.routed_url is not None:
        options.routed_url = address(options.routed_url, "--routed-url")
    options.model = model_of(options.model, "--model")
    options.routed_model = model_of(options.routed_model, "--routed-model")
    options.api_key, options.routed_api_key = key_of(options.api_key, KEY), key_of(options.routed_api_key, ROUTED_KEY)
    files = Files(page=file_of(options.report), figures=file_of(None if options.json == "-" else options.json))
    if files.page is not None and files.page == files.figures:
        raise CommandError("--report and --json name the same file")
    allow_sockets(plan.concurrency)
    bench = Bench(options, plan, files, Screen(sys.stderr if options.json == "-" else sys.stdout))
    try:
        _run(lambda: _measure(bench))
        complete = True
    except (KeyboardInterrupt, asyncio.CancelledError):
        complete = False
    if bench.engine is None or bench.measured is None or not bench.measured.turns:
        Screen(sys.stderr).line("stopped before anything was measured", "yellow")
        return INTERRUPTED
    found, is_kept = _report(bench, bench.engine, bench.measured, complete=complete)
    if not complete:
        return INTERRUPTED
    return FAILED if found["failures"] or not is_kept else OK


async def _measure(bench: Bench) -> None:
    """Find the engine, start the router, run the plan."""
    from ..bench.engine import NoModelError, find_engine, routed_target
    from ..bench.run import Measured, WarmUpError, measure
    from ..bench.served import NotServedError, serving
    from ..transport.direct.transport import DirectTransport

    options = bench.options
    key = options.api_key
    transport = DirectTransport()
    try:
        bench.engine = engine = await find_engine(
            options.url, transport, type=options.type.lower(), model=options.model, key=key, usable=is_for_chat
        )
    except (ConfigurationError, NoModelError) as exc:
        raise CommandError(str(exc)) from None
    except (AttemptError, TimeoutError) as exc:
        reason = str(exc).replace(key, "[key]") if key else str(exc)
        if isinstance(exc, AttemptError) and exc.code == "upstream_auth":
            reason += f" (here --api-key or {KEY})"
        raise CommandError(f"{options.url}: {reason or 'no answer in time'}", exit_code=FAILED) from None
    finally:
        await transport.aclose()
    async with AsyncExitStack() as stack:
        try:
            if options.routed_url is None:
                bench.router = {"own": True, "url": None, "transport": _transport(options.transport)}
                url = await stack.enter_async_context(
                    serving(engine, transport=options.transport, timeout_s=bench.plan.timeout_s, key=key)
                )
                routed = routed_target(url, engine.model)
            else:
                bench.router = {"own": False, "url": options.routed_url, "transport": None}
                routed = routed_target(options.routed_url, options.routed_model or engine.model, options.routed_api_key)
        except NotServedError as exc:
            raise CommandError(str(exc), exit_code=FAILED) from None
        _announce(bench, engine, routed)
        bench.measured = measured = Measured()
        gc.collect()
        gc.freeze()  # what is loaded by now is never looked at again: no long pauses while the clock runs
        with Progress(sys.stderr, bench.plan) as progress:
            try:
                await measure(
                    bench.plan, {"direct": engine.direct, "routed": routed}, measured, progress=progress.update
                )
            except WarmUpError as exc:
                raise CommandError(f"the warm-up failed, so nothing was measured: {exc}", exit_code=FAILED) from None


def _transport(name: str) -> str:
    """Say what a transport stands for."""
    from ..transport.choice import AUTO

    return f"{name} ({AUTO})" if name == "auto" else name


def _announce(bench: Bench, engine: Engine, routed: Target) -> None:
    screen, plan = bench.screen, bench.plan
    screen.line(f"smartrouter-asgi {__version__} bench", "bold")
    screen.line(f"  model   {engine.model} ({engine.chosen})")
    screen.line(f"  direct  {engine.direct.url} ({engine.type})")
    own = "a router of its own, in another process" if bench.router["own"] else "a router that runs already"
    screen.line(f"  routed  {routed.url} ({own})")
    screen.line(f"  plan    {counted(plan.requests, 'request')} each way, {plan.concurrency} at a time")


def _report(bench: Bench, engine: Engine, measured: Measured, *, complete: bool) -> tuple[dict[str, Any], bool]:
    """Show and write what was found; return it, and whether all of it could be written."""
    from ..bench.report import report
    from ..bench.result import assemble
    from ..bench.terminal import lines

    found = assemble(bench.plan, engine, bench.router, measured, complete=complete)
    for text, style in lines(found):
        bench.screen.line(text, style)
    if bench.options.json == "-":
        Screen(sys.stdout).line(json.dumps(found))
    kept = [
        _written(bench.screen, "figures", bench.files.figures, lambda: json.dumps(found, indent=1) + "\n"),
        _written(bench.screen, "report", bench.files.page, lambda: report(found)),
    ]
    return found, all(kept)


def _written(screen: Screen, what: str, file: Path | None, text: Callable[[], str]) -> bool:
    """Write a file and say so; False when that failed."""
    if file is None:
        return True
    try:
        file.write_text(text(), encoding="utf-8")
    except OSError as exc:
        Screen(sys.stderr).line(f"{what}: {file} cannot be written: {exc.strerror or type(exc).__name__}", "red")
        return False
    screen.line(f"{what}: {file}")
    return True


def _run(main: Callable[[], Any]) -> None:
    """Run to the end, or until SIGINT or SIGTERM: both cancel, so that what was started is stopped in order.

    Not one by the other: a shell has its background jobs ignore SIGINT.
    """
    from .server import loop_factory

    running: list[asyncio.Task[Any] | None] = []

    async def body() -> None:
        running.append(asyncio.current_task())
        await main()

    def terminate(*_: object) -> None:
        if not running:
            raise KeyboardInterrupt
        for task in filter(None, running):
            task.get_loop().call_soon_threadsafe(task.cancel)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(body())
    finally:
        signal.signal(signal.SIGTERM, before)
