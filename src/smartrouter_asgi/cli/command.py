"""The commands, their options, and the exit code that each error becomes."""

from __future__ import annotations

import argparse
import json
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

from ..exceptions import ConfigurationError
from .errors import FAILED, MISUSED, OK, CommandError
from .output import Screen

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "smartrouter-asgi"

_DESCRIPTION = "An LLM gateway for the engines on your own hardware, OpenAI-compatible."
_EPILOG = """\
first steps:
  smartrouter-asgi serve --demo      a simulated engine and GPU: nothing else is needed
  smartrouter-asgi serve             uses the engines that run on this machine
  smartrouter-asgi check             says what answers and what does not
  smartrouter-asgi bench --url URL   measures what the gateway adds to an engine of yours

Settings come from the command line, then ROUTER_* variables, then the file, then the defaults.
"""
_SERVE = """\
Serve the gateway. With no file and no provider or URL set, it looks around for engines on this machine.
Without a key it listens on loopback only; it stops in order on Ctrl-C and SIGTERM.
"""
_CHECK = """\
Ask every backend whether it answers and whether it lists the models that the configuration names.
Exit code: 0 all is well, 1 something does not answer or is missing, 2 the configuration cannot be used.
"""
_MODELS = """\
List the names that clients may use, and where each is served.
Exit code: 0 listed, 1 no backend answers, 2 the configuration cannot be used.
"""
_BENCH = """\
Measure what the router adds to an engine of yours: the same streamed request straight to the engine and through the
router, in pairs of random order. Time to first token, time between tokens, tokens/s, and the difference with its noise.

The router is one of its own, with defaults, in another process of this machine, unless --routed-url names one. Every
prompt begins with a word of its own, so that the engine's prompt cache favours neither side. Keys are never printed.
To see what is noise alone, give --routed-url the engine's own address: both sides are then the same.
Exit code: 0 measured, 1 something failed, 2 wrong usage, 130 stopped by Ctrl-C (it shows what it has).
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 well, 1 something does not work, 2 configuration or usage."""
    parser = _parser()
    try:
        options = parser.parse_args(argv)
        if options.version:
            Screen(sys.stdout).line(f"{PROGRAM} {version(PROGRAM)}")
            return OK
        if options.command is None:
            parser.print_help()
            return MISUSED
        return _run(options)
    except SystemExit as stop:  # argparse's, or uvicorn's when the start failed
        return stop.code if isinstance(stop.code, int) else OK if stop.code is None else FAILED
    except KeyboardInterrupt:
        return 130


def _run(options: argparse.Namespace) -> int:
    try:
        if options.command == "serve":
            from .serve import serve

            return serve(options)
        if options.command == "check":
            from .check import check

            return check(options)
        if options.command == "bench":
            from .bench import bench

            return bench(options)
        from .models import models

        return models(options)
    except ConfigurationError as error:
        problems = error.message.splitlines()
        Screen(sys.stderr).lines(f"{PROGRAM}: the configuration cannot be used", *(f"  {line}" for line in problems))
        if getattr(options, "json", False):
            Screen(sys.stdout).line(json.dumps({"status": "bad_configuration", "problems": problems}))
        return MISUSED
    except CommandError as error:
        Screen(sys.stderr).lines(*f"{PROGRAM}: {error}".splitlines())
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    _add_serve(commands)
    for name, line, description in (
        ("check", "say what answers and what does not", _CHECK),
        ("models", "list the names that clients may use", _MODELS),
    ):
        command = _add(commands, name, line, description)
        command.add_argument("--config", metavar="FILE", help="YAML or TOML file (ROUTER_CONFIG)")
        command.add_argument("--json", action="store_true", help="one JSON object instead of text")
    _add_bench(commands)
    return parser


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    serve = _add(commands, "serve", "run the gateway", _SERVE)
    serve.add_argument("--host", help="address to listen on (ROUTER_HOST; default 127.0.0.1)")
    serve.add_argument("--port", help="port to listen on, 0 for any free one (ROUTER_PORT; default 11436)")
    serve.add_argument("--config", metavar="FILE", help="YAML or TOML file (ROUTER_CONFIG)")
    serve.add_argument("--demo", action="store_true", help="a simulated engine and GPU, no configuration is read")
    serve.add_argument("--workers", metavar="N", help="processes (default 1; more than one without VRAM gating only)")
    serve.add_argument("--log-level", metavar="LEVEL", help="DEBUG, INFO, WARNING, ERROR (ROUTER_LOG_LEVEL)")
    serve.add_argument(
        "--allow-unauthenticated",
        action="store_true",
        help="listen on an address that other machines reach, though anybody may then use the models",
    )


def _add_bench(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bench = _add(commands, "bench", "measure what the router adds to an engine of yours", _BENCH)
    engine = bench.add_argument_group("what is measured")
    engine.add_argument("--url", required=True, help="base URL of the engine, with or without /v1")
    engine.add_argument("--type", default="auto", help="kind of engine, as in the configuration (default: asked)")
    engine.add_argument("--model", help="model to ask (default: the only one, or the first that is listed)")
    engine.add_argument("--api-key", metavar="KEY", help="of the engine; better in SMARTROUTER_BENCH_API_KEY")
    router = bench.add_argument_group("the router")
    router.add_argument("--routed-url", metavar="URL", help="one that runs already (default: one is started)")
    router.add_argument("--routed-model", metavar="NAME", help="its name for the model (default: the same)")
    router.add_argument("--routed-api-key", metavar="KEY", help="of it; better in SMARTROUTER_BENCH_ROUTED_API_KEY")
    router.add_argument(
        "--transport",
        choices=("auto", "direct", "httpx"),
        default="auto",
        help="how the router that is started speaks to the engine (default auto)",
    )
    plan = bench.add_argument_group("how")
    amount = plan.add_mutually_exclusive_group()
    amount.add_argument("--requests", metavar="N", help="requests each way (default 20, and 6 rounds at least)")
    amount.add_argument("--rounds", metavar="N", help="the same in rounds of as many requests as run at a time")
    plan.add_argument("--concurrency", metavar="N", default="1", help="requests at a time (default 1)")
    plan.add_argument("--warmup", metavar="N", default="2", help="rounds before that are not counted (default 2)")
    plan.add_argument("--max-tokens", metavar="N", default="64", help="length of an answer (default 64)")
    plan.add_argument("--prompt", metavar="TEXT", help="instead of the built-in one; a word is put before it")
    plan.add_argument("--timeout", metavar="TIME", default="120s", help="for a whole request (default 120s)")
    plan.add_argument("--seed", metavar="N", help="of order and prompts, to ask the very same again (default: another)")
    output = bench.add_argument_group("results")
    output.add_argument("--json", metavar="FILE", help="write the figures; - is stdout, the table then goes to stderr")
    output.add_argument("--report", metavar="FILE.html", help="write a page with plots that needs nothing else")


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, line: str, description: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name, help=line, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
