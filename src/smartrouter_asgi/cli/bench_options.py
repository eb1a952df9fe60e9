"""What the options of `bench` mean, checked before anything is asked."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.backends import parse_base_url
from ..config.units import parse_duration
from .errors import CommandError

if TYPE_CHECKING:
    import argparse

    from ..bench.plan import Plan

USUAL_REQUESTS = 20
DIGITS = 12
"""More than any number here has."""
SOCKETS_EACH = 2
"""Of a request at a time: here one to each side, in the router one to either end."""
SPARE_FILES = 100
SEEDS = 1_000_000
"""Of a run that was given none: prompts that an engine has seen in an earlier run may still be in its cache."""


def plan_of(options: argparse.Namespace) -> Plan:
    """Return the plan that the options describe. Raises `CommandError`."""
    from ..bench.plan import PROMPT, Plan, rounds_needed
    from ..bench.statistics import FEWEST

    concurrency = _count(options.concurrency, "--concurrency", most=1000)
    if options.rounds is not None:
        rounds = _count(options.rounds, "--rounds")
    elif options.requests is not None:
        rounds = rounds_needed(_count(options.requests, "--requests"), concurrency)
    else:
        rounds = max(rounds_needed(USUAL_REQUESTS, concurrency), FEWEST)
    try:
        timeout_s = parse_duration(options.timeout)
    except ValueError as exc:
        raise CommandError(f"--timeout: {exc}") from None
    if timeout_s <= 0:
        raise CommandError("--timeout: expected more than 0")
    return Plan(
        rounds=rounds,
        concurrency=concurrency,
        warmup=_count(options.warmup, "--warmup", least=0),
        max_tokens=_count(options.max_tokens, "--max-tokens"),
        prompt=options.prompt or PROMPT,
        timeout_s=timeout_s,
        seed=random.randrange(SEEDS) if options.seed is None else _count(options.seed, "--seed", least=0),
    )


def _count(text: str, option: str, *, least: int = 1, most: int = 1_000_000) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > DIGITS or not least <= int(text) <= most:
        shown = repr(text) if len(text) <= DIGITS else "what is longer"
        raise CommandError(f"{option}: expected a whole number from {least} to {most:,}, not {shown}")
    return int(text)


def address(text: str, option: str) -> str:
    """Return a base URL; a host alone is taken for http. Raises `CommandError`, which shows no credentials."""
    given = text if "://" in text else f"http://{text}"
    try:
        url = parse_base_url(given)
    except ValueError as exc:
        shown = "" if "@" in text else f", not {text!r}"
        raise CommandError(f"{option}: {exc}{shown}") from None
    return url


def key_of(given: str | None, variable: str) -> str:
    """Return a key, from its option or else its variable; empty: none. Raises `CommandError` without it."""
    key = (given or os.environ.get(variable, "")).strip()
    if not key.isprintable() or not key.isascii():
        raise CommandError(f"the key of the option or of {variable} holds characters that no header takes")
    return key


def model_of(given: str | None, option: str) -> str | None:
    """Return the name of a model; None for an empty one. Raises `CommandError` for one that nobody could have typed."""
    if given and (not given.isprintable() or given != given.strip()):
        raise CommandError(f"{option}: expected a name without surrounding blanks or control characters")
    return given or None


def file_of(given: str | None) -> Path | None:
    """Return a file to write, if there is one.

    Raises `CommandError` for one that cannot be written, before an hour is spent on what goes into it.
    """
    if not given:
        return None
    path = Path(given)
    try:
        writable = not path.is_dir() and path.parent.is_dir() and os.access(_there(path), os.W_OK)
    except (OSError, ValueError):
        writable = False
    if not writable:
        raise CommandError(f"{given} cannot be written")
    return path


def _there(path: Path) -> Path:
    return path if path.exists() else path.parent


def allow_sockets(concurrency: int) -> None:
    """Let this process and the router it starts hold the sockets of so many requests. Raises `CommandError`."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = SOCKETS_EACH * concurrency + SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        most = (hard - SPARE_FILES) // SOCKETS_EACH
        raise CommandError(f"--concurrency: the limit of open files ({hard}) allows for {max(most, 0)} at a time")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
