"""What a benchmark has found, as one JSON object: for `--json`, and all that the terminal and the report show."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from random import Random
from typing import Any

from .engine import Engine
from .plan import PROMPT, SIDES, Plan, Side
from .reading import Sample, printable
from .run import Measured
from .statistics import Difference, curve, median, median_difference, percentile, percentile_difference

PACKAGES = ("smartrouter-asgi", "uvicorn", "uvloop", "httptools", "httpx", "starlette")


def assemble(
    plan: Plan, engine: Engine, router: dict[str, Any], measured: Measured, *, complete: bool
) -> dict[str, Any]:
    """Return the result. It holds no key and no prompt but the built-in one; times are in milliseconds."""
    rounds = measured.pairs()
    counts_by_usage = all(s.tokens is not None for side in SIDES for s in measured.samples(side) if not s.failure)
    return {
        "name": "bench",
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "complete": complete,
        "versions": _versions(),
        "machine": _machine(),
        "engine": {
            "type": engine.type,
            "url": engine.url,
            "model": printable(engine.model),
            "chosen": printable(engine.chosen),
        },
        "router": router,
        "plan": {
            "requests": plan.requests,
            "rounds": plan.rounds,
            "concurrency": plan.concurrency,
            "warmup": plan.warmup,
            "max_tokens": plan.max_tokens,
            "timeout_s": plan.timeout_s,
            "seed": plan.seed,
            "prompt": "built-in" if plan.prompt == PROMPT else f"{len(plan.prompt)} characters",
        },
        "tokens_from": "usage" if counts_by_usage else "events",
        "sides": {side: _side(measured, side, by_usage=counts_by_usage) for side in SIDES},
        "pairs": sum(map(len, rounds)),
        "added": _added(rounds),
        "failures": _failures(measured),
        "samples": [
            {
                "round": turn.round,
                "slot": slot,
                "side": turn.side,
                "first": turn.is_first,
                **(
                    {"failure": sample.failure}
                    if sample.failure
                    else {
                        "ttft_ms": _ms(sample.ttft_s),
                        "total_ms": _ms(sample.total_s),
                        "events": sample.events,
                        "tokens": sample.tokens,
                    }
                ),
            }
            for turn in measured.turns
            for slot, sample in enumerate(turn.samples)
        ],
    }


def _side(measured: Measured, side: Side, *, by_usage: bool) -> dict[str, Any]:
    samples = measured.samples(side)
    good = [sample for sample in samples if not sample.failure]
    found: dict[str, Any] = {"requests": len(samples), "failed": len(samples) - len(good)}
    if not good:
        return found
    gaps = [gap for sample in good for gap in sample.gaps_s]
    tokens = [sample.tokens if by_usage and sample.tokens else sample.events for sample in good]
    rates = [(n - 1) / sample.spoken_s for n, sample in zip(tokens, good, strict=True) if n > 1 and sample.spoken_s]
    busy_s = sum(turn.took_s for turn in measured.turns if turn.side == side)
    return {
        **found,
        "ttft_ms": _spread([sample.ttft_s for sample in good]),
        "total_ms": _spread([sample.total_s for sample in good]),
        "gap_ms": _spread(gaps) if gaps else None,
        "gap_curve": [[_ms(value), round(share, 3)] for value, share in curve(gaps)],
        "tokens": sum(tokens),
        "stream_tokens_per_s": _rounded(median(rates)) if rates else None,
        "tokens_per_s": _rounded(sum(tokens) / busy_s),
    }


def _added(rounds: Sequence[Sequence[tuple[Sample, Sample]]]) -> dict[str, Any] | None:
    if not rounds:
        return None
    first = [[(direct.ttft_s, routed.ttft_s) for direct, routed in pairs] for pairs in rounds]
    total = [[(direct.total_s, routed.total_s) for direct, routed in pairs] for pairs in rounds]
    gaps = [
        [(_mean(direct.gaps_s), _mean(routed.gaps_s)) for direct, routed in pairs if direct.gaps_s and routed.gaps_s]
        for pairs in rounds
    ]
    gaps = [pairs for pairs in gaps if pairs]
    return {
        "ttft_p50_ms": _difference(median_difference(first)),
        "ttft_p95_ms": _difference(percentile_difference(first, 0.95, Random(0))),
        "gap_mean_ms": _difference(median_difference(gaps)) if gaps else None,
        "total_p50_ms": _difference(median_difference(total)),
    }


def _difference(found: Difference) -> dict[str, Any]:
    return {
        "value": _ms(found.value),
        "low": None if found.low is None else _ms(found.low),
        "high": None if found.high is None else _ms(found.high),
        "pairs": found.pairs,
        "rounds": found.rounds,
        "needs": found.needs,
        "verdict": found.verdict,
    }


def _failures(measured: Measured) -> list[dict[str, Any]]:
    counted = Counter((side, sample.failure) for side in SIDES for sample in measured.samples(side) if sample.failure)
    return [{"side": side, "reason": reason, "count": count} for (side, reason), count in counted.most_common()]


def _spread(values: Sequence[float]) -> dict[str, float]:
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    return {
        "low": _ms(min(values)),
        **{name: _ms(percentile(values, share)) for name, share in shares.items()},
        "high": _ms(max(values)),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 4)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _machine() -> dict[str, Any]:
    """Say what was measured on, without names or paths."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = named[0] if named else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "implementation": platform.python_implementation(),
    }
