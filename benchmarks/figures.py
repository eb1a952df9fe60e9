"""Figures with their spread, what they were measured on, and the file they go to."""

from __future__ import annotations

import compileall
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "smartrouter-asgi",
    "starlette",
    "uvicorn",
    "uvloop",
    "httptools",
    "httpx",
    "anyio",
    "msgspec",
    "prometheus-client",
)


def figure(values: Sequence[float], unit: str, *, samples: int | None = None) -> dict[str, Any]:
    """Return the median of some windows with their spread; `samples` is how many events they saw together."""
    found: dict[str, Any] = {
        "unit": unit,
        "median": _round(statistics.median(values)),
        "low": _round(min(values)),
        "high": _round(max(values)),
        "n": len(values),
    }
    if samples is not None:
        found["samples"] = samples
    return found


def _round(value: float) -> float:
    """Keep four significant digits: more would pretend."""
    return float(f"{value:.4g}")


def quantiles(times_ns: Iterable[int]) -> list[float] | None:
    """Return the 0th to the 100th percentile in microseconds; None when there is nothing to tell."""
    ordered = sorted(times_ns)
    if not ordered:
        return None
    last = len(ordered) - 1
    return [ordered[round(last * p / 100)] / 1000 for p in range(101)]


def median_quantiles(windows: Sequence[Sequence[float]]) -> list[float]:
    """Return of each quantile the median over the windows."""
    return [_round(statistics.median(values)) for values in zip(*windows, strict=True)]


def assemble(
    name: str, revision: str, method: Mapping[str, Any], extra_versions: Mapping[str, str], **content: Any
) -> dict[str, Any]:
    """Make the result of one benchmark; `revision` is the commit as it was when the processes started."""
    return {
        "name": name,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": revision,
        "machine": machine(),
        "versions": {**versions(), **extra_versions},
        "method": dict(method),
        **content,
    }


def save(result: Mapping[str, Any], folder: Path) -> None:
    """Write a result to `<folder>/<name>.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{result['name']}.json").write_text(json.dumps(result, indent=1) + "\n")


def results_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the results of a folder by name; what is none is left out, and said to be when it cannot be read."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            result = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            print(f"{path.name} is left out: {error}", file=sys.stderr)
            continue
        if isinstance(result, dict) and result.get("name") == path.stem:
            found[path.stem] = result
    return found


def is_quick(result: Mapping[str, Any]) -> bool:
    """Tell whether a result comes from a quick run, whose figures mean nothing."""
    return bool(result.get("method", {}).get("quick"))


def versions() -> dict[str, str]:
    """Return the versions that matter to the figures."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Say what was measured on, without names or paths."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "implementation": platform.python_implementation(),
    }


def commit() -> str:
    """Return the commit, with `+` when the package differs from it; `unknown` outside a checkout.

    The program ends when it is another checkout's package that would be measured.
    """
    package = _package()
    if not package.is_relative_to(ROOT.resolve()):
        sys.exit(f"{package} would be measured, not this checkout's package: set PYTHONPATH={ROOT / 'src'}")
    try:
        head = _git("rev-parse", "--short=12", "HEAD").strip()
        return head + ("+" if _git("status", "--porcelain", "src").strip() else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def compile_package() -> None:
    """Write the bytecode of the package, which an environment may keep its first run from doing."""
    compileall.compile_dir(_package(), quiet=2)


def _package() -> Path:
    spec = find_spec("smartrouter_asgi")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).resolve().parent


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10).stdout
