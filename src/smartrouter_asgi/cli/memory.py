"""What `serve` and `check` say about GPU memory: the budget, or why nothing is gated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import assembly
from ..deployment import Deployment
from .output import gib

if TYPE_CHECKING:
    from ..app import SmartRouter


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryReport:
    """Which backends share how much GPU memory."""

    backends: tuple[str, ...]
    """Those whose models are gated; empty: none."""
    budget_bytes: int | None
    text: str


def memory_report(router: SmartRouter) -> MemoryReport:
    """Say what the gate of a router guards. Backends of type `auto` are known once they were asked."""
    settings = router.settings
    deployer = assembly.Deployer(settings, router.backends)
    local = tuple(name for name in router.backends if deployer.gated(name))
    if router.gate is not None:
        local = tuple(name for name in local if router.gate.covers(Deployment(backend=name, model="", gated=True)))
    if router.gate is None:
        return MemoryReport(backends=(), budget_bytes=None, text=f"local models are not gated: {_why(router, local)}")
    seen = router.gate.snapshot()
    budget_bytes = seen.budget_bytes
    if not local:
        text = "nothing is gated: no backend here loads and unloads models on this machine"
    elif budget_bytes is None:
        text = f"how much there is is not known, so the models of {', '.join(local)} wait (vram.unknown: closed)"
    else:
        source = "90 % of what was detected" if router.memory is not None and not router.memory.declared else "declared"
        spread = f" on {len(seen.devices)} devices" if len(seen.devices) > 1 else ""
        text = f"{gib(budget_bytes)}{spread} ({source}) shared by the models of {', '.join(local)}"
    return MemoryReport(backends=local, budget_bytes=budget_bytes, text=text)


def _why(router: SmartRouter, local: tuple[str, ...]) -> str:
    vram = router.settings.vram
    if not vram.monitor_enabled and vram.max_total_bytes is None:
        return "the monitor is off and no budget is declared"
    if not local:
        return "no backend here loads and unloads models on this machine"
    return "no GPU was detected and no budget is declared (ROUTER_VRAM_MAX_TOTAL_GB)"


def gated_or_unknown(router: SmartRouter) -> tuple[str, ...]:
    """Name the backends whose models are gated, or may be once it is known what they are."""
    deployer = assembly.Deployer(router.settings, router.backends)
    sections = router.settings.backends
    return tuple(
        name
        for name, backend in router.backends.items()
        if deployer.gated(name) or (backend.type == "auto" and sections[name].gated is not False)
    )
