"""What all questions have in common: how they are run, and what their result begins with."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .figures import RESULTS, assemble, save
from .peers import peer_versions
from .processes import cores
from .variants import Rig
from .windows import VoidError, Windows

MOST_ROUNDS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a question is asked."""

    quick: bool = False
    rounds: int = 0
    """0: as many as the question takes by default."""
    peers: bool = False

    def rounds_or(self, usual: int, *, quick: int = 1) -> int:
        """Return how many rounds are measured."""
        return self.rounds or (quick if self.quick else usual)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question with a file of its own: `measure` gives the result, `render` its tables."""

    name: str
    asks: str
    takes_s: float
    """About how long, without peers."""
    measure: Callable[[Options], dict[str, Any]]
    render: Callable[[dict[str, Any]], str]
    peers: bool = False
    """Whether peers are measured too."""


def arguments_of(about: str) -> tuple[argparse.ArgumentParser, Callable[[argparse.Namespace], Options]]:
    """Return a parser with the options of every question, and what reads them."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: shows that it runs")
    parser.add_argument(
        "--rounds", type=_rounds, default=0, help=f"how often everything is measured (1 to {MOST_ROUNDS})"
    )
    parser.add_argument("--peers", action="store_true", help="with other gateways, where they are installed")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON")

    def read(arguments: argparse.Namespace) -> Options:
        return Options(quick=arguments.quick, rounds=arguments.rounds, peers=arguments.peers)

    return parser, read


def _rounds(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= MOST_ROUNDS:
        raise argparse.ArgumentTypeError(f"expected 1 to {MOST_ROUNDS}")
    return int(text)


def leave_in_order() -> None:
    """Let SIGTERM go through the `finally`s that stop the processes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def ask(question: Question) -> None:
    """Ask one question from the command line."""
    parser, read = arguments_of(question.asks)
    arguments = parser.parse_args()
    leave_in_order()
    try:
        result = question.measure(read(arguments))
    except VoidError as error:
        sys.exit(f"{question.name}: {error}")
    save(result, arguments.out)
    print(question.render(result))


def loaded_result(
    name: str, options: Options, rig: Rig, windows: Windows, *, rounds: int, method: dict[str, Any], **content: Any
) -> dict[str, Any]:
    """Make the result of a question that was asked with load."""
    return assemble(
        name,
        rig.revision,
        {
            "rounds": rounds,
            "quick": options.quick,
            "pinned": cores()[0] is not None,
            "variants": rig.named,
            "skipped": rig.skipped,
            "left_out": windows.left_out,
            **method,
        },
        peer_versions(rig.servers),
        voided=windows.account(),
        noise=windows.noise(),
        **content,
    )
