"""A look at every backend: does it answer, how fast, which models does it list and hold in memory."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import anyio

from .. import assembly, policies
from ..exceptions import AttemptError, FailureKind, SmartRouterError
from ..routing.discovery import build_catalog
from ..routing.listing import Listing

if TYPE_CHECKING:
    from ..app import SmartRouter
    from ..backends.base import Backend
    from ..deployment import LoadedModel, ModelInfo
    from ..routing.catalog import Catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendReport:
    """What one backend answered."""

    name: str
    type: str
    url: str
    state: Literal["up", "down", "silent"]
    """`silent`: it has not answered within the time that was given."""
    reason: str = ""
    """Why it is not up, or lists nothing."""
    advice: str = ""
    latency_s: float | None = None
    models: tuple[ModelInfo, ...] | None = None
    """None: it did not say."""
    loaded: tuple[LoadedModel, ...] | None = None
    """None: it cannot tell, or did not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """All backends, and the catalog that their answers make."""

    backends: tuple[BackendReport, ...]
    catalog: Catalog

    @property
    def up(self) -> frozenset[str]:
        """Names of the backends that answer."""
        return frozenset(report.name for report in self.backends if report.state == "up")


async def survey(router: SmartRouter, *, within_s: float) -> Survey:
    """Ask all backends at once; each has so many seconds. Never raises."""
    reports = await asyncio.gather(*(_ask(router, backend, within_s) for backend in router.backends.values()))
    settings = router.settings
    deployer = assembly.Deployer(settings, router.backends)
    listed = {report.name: report.models or () for report in reports} if settings.discovery.enabled else {}
    catalog = build_catalog(
        deployer.configured(),
        settings.aliases,
        assembly.discovery_sources(settings, router.backends, deployer, router.breakers),
        {name: Listing(models=listed.get(name, ())) for name in router.backends},
        policies.discovery_rules(settings),
    )
    return Survey(backends=tuple(reports), catalog=catalog)


async def _ask(router: SmartRouter, backend: Backend, within_s: float) -> BackendReport:
    section = router.settings.backends.get(backend.name)
    url = section.base_url if section is not None else ""
    started = time.perf_counter()
    latency_s: float | None = None
    models: tuple[ModelInfo, ...] | None = None
    loaded: tuple[LoadedModel, ...] | None = None
    error: Exception | None = None
    with anyio.move_on_after(within_s):
        try:
            await backend.ping()
            latency_s = time.perf_counter() - started
            models = await backend.list_models()
            if backend.capabilities.can_report_loaded:
                loaded = await backend.running()
        except Exception as exc:  # a backend from outside the package may raise anything
            error = exc
    reason = _reason(error)
    if latency_s is None and error is None:
        reason = f"backend '{backend.name}' has not answered within {within_s:g} s"
    return BackendReport(
        name=backend.name,
        type=backend.type,
        url=url,
        state="up" if latency_s is not None else "down" if error is not None else "silent",
        reason=reason,
        advice=_advice(backend, error) if latency_s is None else "",
        latency_s=latency_s,
        models=models,
        loaded=loaded,
    )


def _reason(error: Exception | None) -> str:
    if error is None or isinstance(error, SmartRouterError):
        return str(error or "")
    return f"its adapter failed with {type(error).__name__}"


def _advice(backend: Backend, error: Exception | None) -> str:
    """Say what an operator can do about a backend that is not up."""
    if error is not None and not (isinstance(error, AttemptError) and error.kind is FailureKind.CONNECT):
        return ""  # the reason says it
    start = {"ollama": "start it with `ollama serve`", "llama.cpp": "start llama-server"}.get(backend.type)
    return f"{start}, or correct its URL" if start else "is it running, and is its URL right?"
