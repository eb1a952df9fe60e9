"""What the options of `bench` mean, checked before anything is asked."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..config.backends import parse_base_url
from ..config.units import parse_duration
from .errors import CommandError

if TYPE_CHECKING:
    import argparse

    from ..bench.plan import Plan

SEEDS = 1_000_000
"""Of a run that was given none: prompts that an engine has seen in an earlier run may still be in its cache."""


def plan_of(options: argparse.Namespace) -> Plan:
    """Return the plan that the options describe. Raises `CommandError`."""
    from ..bench.plan import PROMPT, Plan, rounds_needed

    concurrency = _count(options.concurrency, "--concurrency", most=1000)
    if options.rounds is not None:
        rounds = _count(options.rounds, "--rounds")
    else:
        rounds = rounds_needed(_count(options.requests or "20", "--requests"), concurrency)
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
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise CommandError(f"{option}: expected a whole number from {least} to {most:,}, not {text!r}")
    return int(text)


def address(text: str, option: str) -> str:
    """Return a base URL; a host alone is taken for http. Raises `CommandError`, which shows no credentials."""
    given = text if "://" in text else f"http://{text}"
    try:
        url = parse_base_url(given)
    except ValueError as exc:
        shown = "" if "@" in urlsplit(given).netloc else f", not {text!r}"
        raise CommandError(f"{option}: {exc}{shown}") from None
    return url


def key_of(given: str | None, variable: str) -> str:
    """Return a key, from its option or else its variable; empty: none. Raises `CommandError` without it."""
    key = (given or os.environ.get(variable, "")).strip()
    if not key.isprintable() or not key.isascii():
        raise CommandError(f"the key of the option or of {variable} holds characters that no header takes")
    return key


def refuse_unwritable(file: str | None) -> None:
    """Refuse a file that cannot be written before an hour is spent on what goes into it. Raises `CommandError`."""
    if file is None:
        return
    path = Path(file)
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise CommandError(f"{file} cannot be written")
