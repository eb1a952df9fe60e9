"""`check`: what answers, what is missing, and what to do about it."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..app import SmartRouter
from ..config import load_settings
from .announce import announce_memory, announce_warnings
from .errors import FAILED, OK
from .memory import memory_report
from .output import Screen, columns, counted
from .survey import BackendReport, Survey, survey

if TYPE_CHECKING:
    import argparse

    from ..deployment import Deployment

WITHIN_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentReport:
    """Whether a configured deployment's backend lists its model."""

    model: str
    """The name that clients use."""
    deployment: Deployment
    listed: bool | None
    """None: the backend has not said what it has."""
    must_be_listed: bool
    """Whether the engine serves only what it lists; some take any name, some list a part."""


def check(options: argparse.Namespace) -> int:
    """Ask everything once and report; return 0 when all is well, else 1. Raises `ConfigurationError`."""
    router = SmartRouter(load_settings(file=options.config))
    seen = asyncio.run(_ask(router))
    deployments = _deployments(router, seen)
    well = len(seen.up) == len(router.backends) and not any(
        report.listed is False and report.must_be_listed for report in deployments
    )
    screen = Screen(sys.stdout)
    if options.json:
        screen.line(json.dumps(_as_json(router, seen, deployments, well=well)))
    else:
        _print(screen, router, seen, deployments)
        screen.line("all is well" if well else "not all is well: see above", "bold green" if well else "bold yellow")
    return OK if well else FAILED


async def _ask(router: SmartRouter) -> Survey:
    try:
        return await survey(router, within_s=WITHIN_S)
    finally:
        await router.aclose()


def _deployments(router: SmartRouter, seen: Survey) -> list[DeploymentReport]:
    listed = {report.name: report.models for report in seen.backends}
    reports = []
    for model in router.settings.models:
        group = seen.catalog.find(model.name)
        for deployment in group.deployments if group is not None else ():
            backend = router.backends[deployment.backend]
            models = listed[deployment.backend]
            ids = None if models is None else {backend.canonical(info.id) for info in models}
            reports.append(
                DeploymentReport(
                    model=model.name,
                    deployment=deployment,
                    listed=None if ids is None else backend.canonical(deployment.model) in ids,
                    must_be_listed=backend.capabilities.can_load,
                )
            )
    return reports


def _print(screen: Screen, router: SmartRouter, seen: Survey, deployments: list[DeploymentReport]) -> None:
    screen.line("backends")
    rows = columns((_word(report), report.name, _told(report)) for report in seen.backends)
    for row, report in zip(rows, seen.backends, strict=True):
        screen.line(f"  {row}", "green" if report.state == "up" else "red")
        if report.state != "up":
            screen.line(f"        {'; '.join(filter(None, (report.reason, report.advice)))}")
    if deployments:
        screen.line("configured models")
        for row in columns((_listed_word(one), one.model, _listed_text(one)) for one in deployments):
            screen.line(f"  {row}")
    announce_memory(screen, router)
    announce_warnings(screen, router.settings.warnings)


def _word(report: BackendReport) -> str:
    return "ok" if report.state == "up" else "fail"


def _told(report: BackendReport) -> str:
    at = f"{report.type} at {report.url}" if report.url else report.type
    if report.state != "up" or report.latency_s is None:
        return at
    listed = report.reason if report.models is None else counted(len(report.models), "model")
    return f"{at}: answers in {report.latency_s * 1000:.0f} ms, {listed}"


def _listed_word(report: DeploymentReport) -> str:
    if report.listed is None:
        return "?"
    return "ok" if report.listed else "fail" if report.must_be_listed else "note"


def _listed_text(report: DeploymentReport) -> str:
    backend, model = report.deployment.backend, report.deployment.model
    if report.listed is None:
        return f"{report.deployment.id}: '{backend}' has not said what it has"
    if report.listed:
        return report.deployment.id
    if report.must_be_listed:
        return f"{report.deployment.id}: '{backend}' does not have it: correct the name, or `ollama pull {model}` there"
    return f"{report.deployment.id}: '{backend}' does not list it; it may serve it all the same"


def _as_json(router: SmartRouter, seen: Survey, deployments: list[DeploymentReport], *, well: bool) -> dict[str, Any]:
    memory = memory_report(router)
    return {
        "status": "ok" if well else "problems",
        "version": __version__,
        "backends": {
            report.name: {
                "state": report.state,
                "type": report.type,
                "url": report.url,
                "latency_ms": None if report.latency_s is None else round(report.latency_s * 1000, 1),
                "models": None if report.models is None else len(report.models),
                "loaded": None if report.loaded is None else len(report.loaded),
                "reason": report.reason or None,
                "advice": report.advice or None,
            }
            for report in seen.backends
        },
        "deployments": [
            {
                "model": report.model,
                "backend": report.deployment.backend,
                "upstream_model": report.deployment.model,
                "listed": report.listed,
            }
            for report in deployments
        ],
        "vram": {
            "gated": bool(memory.backends),
            "backends": list(memory.backends),
            "budget_bytes": memory.budget_bytes,
            "text": memory.text,
        },
        "warnings": router.settings.warnings,
    }
