"""`bench`: engines of several kinds asked directly and through a router, in processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from smartrouter_asgi.testing.ollama import GIB, SimulatedModel, SimulatedOllama

from ..bench.pages import assert_drawn_inside, assert_needs_nothing
from ..harness.engines import chunk
from ..harness.routers import router_over
from ..harness.servers import Exchange, RawServer, serve
from .commands import MODULE, Outcome, clean_environment, patched, run, serving

BOUND_S = 40.0
KEY = "sk-canary-0123456789"
FEW = ("--requests", "6", "--warmup", "1", "--max-tokens", "4")
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}}\n\n'


class Engine:
    """A healthy engine that keeps what it was asked, and tells usage when that is wanted."""

    def __init__(self, *, models: tuple[str, ...] = ("engine-model",)) -> None:
        self.models = models
        self.asked: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()

    async def __call__(self, exchange: Exchange) -> None:
        self.keys.add(exchange.header("authorization"))
        if exchange.path == "/v1/models":
            await exchange.answer(200, json.dumps({"data": [{"id": name} for name in self.models]}).encode())
        elif exchange.path != "/v1/chat/completions":
            await exchange.answer(404, b'{"error": {"message": "no such path"}}')
        else:
            self.asked.append(json.loads(exchange.body))
            await self.speak(exchange)

    async def speak(self, exchange: Exchange) -> None:
        await exchange.start_stream()
        for event in (chunk("", role="assistant"), chunk("Hel"), chunk("lo"), chunk(finish="stop")):
            await exchange.chunk(event)
        await exchange.chunk(USAGE + b"data: [DONE]\n\n")
        await exchange.end_stream()


class Failing(Engine):
    """Fails a request for good, once it has been asked so often; its words quote the key."""

    def __init__(self, *, well: int) -> None:
        super().__init__()
        self.well = well

    async def speak(self, exchange: Exchange) -> None:
        if len(self.asked) <= self.well:
            await super().speak(exchange)
        else:
            await exchange.answer(400, b'{"error": {"message": "cannot, with key %s"}}' % KEY.encode())


async def bench(url: str, *args: str, env: dict[str, str] | None = None) -> Outcome:
    return await run("bench", "--url", url, *FEW, *args, env=env)


def figures(outcome: Outcome) -> dict[str, Any]:
    assert outcome.out, outcome.err
    found: dict[str, Any] = json.loads(outcome.out)
    return found


async def test_an_openai_compatible_engine(tmp_path: Path):
    """The type is found out, the only model taken, a router started; table, figures and page are written."""
    engine, report, file = Engine(), tmp_path / "bench.html", tmp_path / "bench.json"
    async with RawServer(engine) as server:
        outcome = await bench(
            server.base_url,
            *("--report", str(report), "--json", str(file)),
            env={"SMARTROUTER_BENCH_API_KEY": KEY},
        )
    assert outcome.code == 0, outcome.text
    assert "engine-model (the only one)" in outcome.out
    assert "first token p50, ms" in outcome.out
    assert "6 of 6" in outcome.out
    assert "warming up" in outcome.err
    assert "6 of 6 rounds" in outcome.err
    found = json.loads(file.read_text())
    assert found["complete"] is True
    assert found["engine"] == {
        "type": "openai",
        "url": f"{server.base_url}/v1",
        "model": "engine-model",
        "chosen": "the only one",
    }
    assert found["pairs"] == 6
    assert found["added"]["ttft_p50_ms"]["low"] is not None
    assert found["tokens_from"] == "usage"
    assert found["sides"]["direct"]["tokens"] == found["sides"]["routed"]["tokens"] == 24
    page = report.read_text()
    assert_needs_nothing(page)
    assert_drawn_inside(page)
    # both ways reach the engine, with the same request but for the first word of the prompt
    assert len(engine.asked) == 2 * 7
    assert {body["model"] for body in engine.asked} == {"engine-model"}
    assert len({body["messages"][0]["content"] for body in engine.asked}) == 14
    assert {body["max_tokens"] for body in engine.asked} == {4}
    assert engine.keys == {f"Bearer {KEY}"}
    assert KEY not in outcome.text + file.read_text() + page


async def test_ollama_is_asked_in_its_own_language():
    models = [SimulatedModel("sim:1b", GIB), SimulatedModel("sim:3b", 3 * GIB)]
    async with SimulatedOllama(models, time_scale=0.01) as ollama:
        outcome = await bench(f"{ollama.base_url}/v1", "--model", "sim:3b", "--json", "-")
        paths = [exchange.path for exchange in ollama.log if exchange.path.startswith("/api/chat")]
    assert outcome.code == 0, outcome.text
    found = figures(outcome)
    assert (found["engine"]["type"], found["engine"]["chosen"]) == ("ollama", "as told")
    assert found["pairs"] == 6
    assert found["tokens_from"] == "usage"
    assert len(paths) == 14
    assert "Ollama's native API" in outcome.err
    assert "first token p50, ms" in outcome.err  # stdout is the JSON's


async def test_of_several_models_the_first_is_taken_and_the_others_named():
    engine = Engine(models=("text-embed-1", "b", "a"))
    async with RawServer(engine) as server:
        outcome = await bench(server.base_url)
    assert outcome.code == 0, outcome.text
    assert "b (the first of 2; others are a; choose with --model)" in outcome.out


async def test_a_router_that_runs_already():
    engine = Engine()
    async with RawServer(engine) as server, serve(router_over(server.base_url)) as routed:
        outcome = await bench(
            server.base_url, *("--routed-url", f"{routed}/v1", "--routed-model", "chat", "--json", "-")
        )
    assert outcome.code == 0, outcome.text
    found = figures(outcome)
    assert found["router"] == {"own": False, "url": f"{routed}/v1", "transport": None}
    assert found["pairs"] == 6
    assert {body["model"] for body in engine.asked} == {"engine-model"}


async def test_several_at_a_time_are_asked_together():
    """Each side with all its connections at once, and never both sides."""
    busy = [0]

    class Together(Engine):
        async def speak(self, exchange: Exchange) -> None:
            busy.append(server.busy)
            await super().speak(exchange)

    async with RawServer(Together()) as server:
        outcome = await bench(server.base_url, *("--concurrency", "3", "--json", "-"))
    found = figures(outcome)
    assert outcome.code == 0, outcome.text
    assert found["plan"] | {"requests": 6, "rounds": 2, "concurrency": 3} == found["plan"]
    assert found["pairs"] == 6
    assert max(busy) <= 3


async def test_failed_requests_are_shown_and_the_exit_code_is_1(tmp_path: Path):
    report = tmp_path / "bench.html"
    async with RawServer(Failing(well=6)) as server:
        outcome = await bench(
            server.base_url, *("--report", str(report), "--api-key", KEY, "--model", "engine-model", "--json", "-")
        )
    assert outcome.code == 1, outcome.text
    found = figures(outcome)
    assert sum(row["count"] for row in found["failures"]) == 8
    assert found["pairs"] == 2
    assert "failed, direct: 4 x status 400: cannot, with key [key]" in outcome.err
    assert "requests failed and are left out" in report.read_text()
    assert KEY not in outcome.text + report.read_text()


async def test_the_same_on_both_sides_is_measured_as_the_same():
    """An engine against itself: no interval of the median is above what a busy machine does at random."""
    async with RawServer(Engine()) as server:
        outcome = await bench(server.base_url, "--routed-url", server.base_url, "--requests", "60", "--json", "-")
    found = figures(outcome)["added"]["ttft_p50_ms"]
    assert outcome.code == 0, outcome.text
    assert found["low"] < 0.2
    assert found["high"] > -0.2


async def test_a_second_run_asks_what_no_cache_can_know():
    engine = Engine()
    async with RawServer(engine) as server:
        both = [await bench(server.base_url, "--routed-url", server.base_url, "--json", "-") for _ in range(2)]
        again = await bench(
            server.base_url,
            *("--routed-url", server.base_url, "--json", "-", "--seed", str(figures(both[0])["plan"]["seed"])),
        )
    prompts = [body["messages"][0]["content"] for body in engine.asked]
    assert again.code == 0, again.text
    assert len(set(prompts[:28])) == 28
    assert prompts[28:] == prompts[:14]


async def test_a_warm_up_that_fails_ends_it():
    async with RawServer(Failing(well=0)) as server:
        outcome = await bench(server.base_url, "--api-key", KEY)
    assert outcome.code == 1
    assert "the warm-up failed, so nothing was measured" in outcome.err
    assert "cannot, with key [key]" in outcome.err
    assert "Traceback" not in outcome.text


async def test_an_engine_that_goes_silent_is_a_failure_in_time():
    class Silent(Engine):
        async def speak(self, exchange: Exchange) -> None:
            if len(self.asked) == 8:
                await exchange.gone()
            else:
                await super().speak(exchange)

    async with RawServer(Silent()) as server:
        outcome = await bench(server.base_url, *("--timeout", "2s", "--json", "-"))
    assert outcome.code == 1
    assert sum(row["count"] for row in figures(outcome)["failures"]) == 1


async def test_nobody_there_is_1(unused_tcp_port: int):
    outcome = await bench(f"http://127.0.0.1:{unused_tcp_port}")
    assert outcome.code == 1
    assert "cannot be reached" in outcome.err


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ((), "--url"),
        (("--url", "ftp://x"), "--url: expected a URL"),
        (("--url", "http://user:pw@x"), "credentials do not belong in it"),
        (("--url", "http://x", "--requests", "0"), "--requests: expected a whole number"),
        (("--url", "http://x", "--requests", "2", "--rounds", "2"), "not allowed with"),
        (("--url", "http://x", "--rounds", "9" * 5000), "--rounds: expected a whole number"),
        (("--url", "http://[::1"), "--url: expected a URL"),
        (("--url", "http://x", "--model", "two\nlines"), "--model: expected a name without"),
        (("--url", "http://x", "--model", "\udcff"), "--model: expected a name without"),
        (("--url", "http://x", "--concurrency", "many"), "--concurrency: expected a whole number"),
        (("--url", "http://x", "--timeout", "soon"), "--timeout: expected a duration"),
        (("--url", "http://x", "--timeout", "0"), "--timeout: expected more than 0"),
        (("--url", "http://x", "--report", "/no/such/folder/x.html"), "cannot be written"),
        (("--url", "http://x", "--report", "/"), "/ cannot be written"),
        (("--url", "http://x", "--report", "a" * 300), "cannot be written"),
        (("--url", "http://x", "--report", "same", "--json", "same"), "--report and --json name the same file"),
        (("--url", "http://x", "--api-key", "pw\npw"), "holds characters that no header takes"),
        (("--url", "http://x", "--transport", "carrier-pigeon"), "invalid choice"),
        (("--url", "http://127.0.0.1:9", "--type", "olama"), "did you mean 'ollama'"),
        (("--url", "http://127.0.0.1:9", "--routed-url", "nothing://"), "--routed-url: expected a URL"),
    ],
)
async def test_wrong_usage_is_2(args: tuple[str, ...], reason: str):
    outcome = await run("bench", *args)
    assert outcome.code == 2, outcome.text
    assert reason in outcome.err
    assert "pw" not in outcome.text.replace("http://", "")
    assert "Traceback" not in outcome.text


async def test_a_wrong_key_says_which_one():
    class Locked(Engine):
        async def __call__(self, exchange: Exchange) -> None:
            await exchange.answer(401, b'{"error": {"message": "bad key %s"}}' % KEY.encode())

    async with RawServer(Locked()) as server:
        outcome = await bench(server.base_url, env={"SMARTROUTER_BENCH_API_KEY": KEY})
    assert outcome.code == 1
    assert "SMARTROUTER_BENCH_API_KEY" in outcome.err
    assert KEY not in outcome.text


async def test_names_are_taken_as_they_are_and_an_empty_one_for_none():
    """Braces of a variable in a model's name are no variable's; markup in it is text."""
    name = "<b>${HOME}</b>"
    async with RawServer(Engine(models=(name,))) as server:
        outcome = await bench(server.base_url, "--model", "", "--report", "", "--json", "-")
    assert outcome.code == 0, outcome.text
    assert figures(outcome)["engine"]["model"] == name


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
async def test_a_file_that_fails_at_the_end_costs_no_other_one(tmp_path: Path):
    file = tmp_path / "bench.json"
    async with RawServer(Engine()) as server:
        outcome = await bench(server.base_url, "--report", "/dev/full", "--json", str(file))
    assert outcome.code == 1
    assert "report: /dev/full cannot be written: No space left on device" in outcome.err
    assert "first token p50, ms" in outcome.out
    assert json.loads(file.read_text())["pairs"] == 6
    assert "Traceback" not in outcome.text


def in_front() -> None:
    """Take SIGINT as in front of a terminal: it may be ignored here, where a shell runs the tests in its background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@asynccontextmanager
async def started(*args: str, under: tuple[str, ...] = ()) -> AsyncIterator[asyncio.subprocess.Process]:
    """A bench that runs; it is ended with the test."""
    process = await asyncio.create_subprocess_exec(
        *(*under, *MODULE, "bench", *args),
        env=clean_environment(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=in_front,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


class Halting(Engine):
    """Answers some requests, then lets the next one wait until its client has left."""

    def __init__(self, *, well: int) -> None:
        super().__init__()
        self.well = well
        self.waits = asyncio.Event()

    async def speak(self, exchange: Exchange) -> None:
        if len(self.asked) <= self.well:
            await super().speak(exchange)
        else:
            self.waits.set()
            await exchange.gone()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_stopping_it_shows_what_was_measured(number: signal.Signals, tmp_path: Path):
    engine, file = Halting(well=10), tmp_path / "bench.json"
    async with RawServer(engine) as server:
        async with started("--url", server.base_url, *FEW, "--requests", "500", "--json", str(file)) as process:
            await asyncio.wait_for(engine.waits.wait(), BOUND_S)
            process.send_signal(number)
            out, err = await asyncio.wait_for(process.communicate(), BOUND_S)
    assert process.returncode == 130, err.decode()
    assert "stopped early" in out.decode()
    assert "first token p50, ms" in out.decode()
    assert "Traceback" not in err.decode()
    found = json.loads(file.read_text())
    assert found["complete"] is False
    assert found["pairs"] == 4
    assert found["failures"] == []


@pytest.mark.parametrize(
    ("under", "number"),
    [
        ((), signal.SIGINT),
        (("sh", "-c", 'trap "" INT; exec "$@"', "sh"), signal.SIGTERM),
    ],
    ids=["in front", "in the background of a shell"],
)
async def test_stopping_it_before_anything_was_measured(under: tuple[str, ...], number: signal.Signals):
    engine = Halting(well=0)
    async with RawServer(engine) as server:
        async with started("--url", server.base_url, *FEW, under=under) as process:
            await asyncio.wait_for(engine.waits.wait(), BOUND_S)
            process.send_signal(number)
            _, err = await asyncio.wait_for(process.communicate(), BOUND_S)
    assert process.returncode == 130
    assert "stopped before anything was measured" in err.decode()
    assert "Traceback" not in err.decode()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for child processes in /proc")
async def test_its_router_goes_with_it_however_it_ends():
    engine = Halting(well=2)
    async with RawServer(engine) as server:
        async with started("--url", server.base_url, *FEW) as process:
            await asyncio.wait_for(engine.waits.wait(), BOUND_S)
            [router] = children(process.pid)
            process.kill()
            await process.communicate()
            async with asyncio.timeout(BOUND_S):
                while is_running(router):
                    await asyncio.sleep(0.02)


def children(pid: int) -> list[int]:
    """The processes that a process has started and that live."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform == "win32", reason="needs a terminal of POSIX")
async def test_a_terminal_gets_a_bar():
    import pty

    above, below = pty.openpty()
    try:
        async with RawServer(Engine()) as server:
            process = await asyncio.create_subprocess_exec(
                *(*MODULE, "bench", "--url", server.base_url, *FEW),
                env={**clean_environment(), "TERM": "xterm", "COLUMNS": "100"},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=below,
            )
            out, _ = await asyncio.wait_for(process.communicate(), BOUND_S)
        os.set_blocking(above, False)
        shown = os.read(above, 200_000).decode()
    finally:
        os.close(above)
        os.close(below)
    assert process.returncode == 0
    assert "measuring" in shown
    assert "7/7" in shown
    assert "rounds that are not counted" not in shown
    assert "\x1b" not in out.decode()


async def test_without_the_server_it_says_what_to_install():
    outcome = await run("bench", "--url", "http://x", program=patched("sys.modules['httptools'] = None"))
    assert outcome.code == 1
    assert "pip install 'smartrouter-asgi[server]'" in outcome.err


async def test_help_names_every_option():
    outcome = await run("bench", "--help")
    assert outcome.code == 0
    for option in ("--url", "--routed-url", "--concurrency", "--report", "SMARTROUTER_BENCH_API_KEY", "Exit code"):
        assert option in outcome.out


async def test_a_demo_can_be_measured():
    """The engine of `serve --demo`, through the gateway that serves it: gate, swaps and all."""
    async with serving("--demo") as served:
        engine = next(
            word.rstrip(":") for word in served.text.split() if word.startswith("http://127") and "/v1" not in word
        )
        outcome = await bench(engine, "--routed-url", served.url, "--model", "sim-small:3b", "--requests", "1")
    assert outcome.code == 0, outcome.text
