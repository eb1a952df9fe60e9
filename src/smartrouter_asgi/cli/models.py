"""`models`: the names that clients may use, and where each is served."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

from ..app import SmartRouter
from ..config import load_settings
from .errors import FAILED, OK
from .output import Screen, columns, gib
from .survey import Survey, survey

if TYPE_CHECKING:
    import argparse

WITHIN_S = 5.0


def models(options: argparse.Namespace) -> int:
    """List the models; return 1 when no backend answers. Raises `ConfigurationError`."""
    router = SmartRouter(load_settings(file=options.config))
    seen = asyncio.run(_ask(router))
    entries = [_entry(router, seen, name) for name in seen.catalog.names]
    screen = Screen(sys.stdout)
    if options.json:
        screen.line(json.dumps({"models": entries, "down": _down(seen)}))
    else:
        rows = [_row(entry) for entry in entries]
        screen.lines(*columns([("NAME", "SERVED BY", "SIZE", "STATE"), *rows]) if rows else ["no models"])
        for name, reason in _down(seen).items():
            Screen(sys.stderr).line(f"{name} is left out: {reason}")
    return OK if seen.up else FAILED


async def _ask(router: SmartRouter) -> Survey:
    try:
        return await survey(router, within_s=WITHIN_S)
    finally:
        await router.aclose()


def _entry(router: SmartRouter, seen: Survey, name: str) -> dict[str, Any]:
    group = seen.catalog.find(name)
    target = seen.catalog.aliases.get(name)
    is_alias = target is not None and (name not in seen.catalog.models or seen.catalog.models[name].discovered)
    deployments = group.deployments if group is not None else ()
    sizes = {
        (report.name, router.backends[report.name].canonical(info.id)): info.size_bytes
        for report in seen.backends
        for info in report.models or ()
    }
    told = {report.name for report in seen.backends if report.loaded is not None}
    loaded = {
        (report.name, router.backends[report.name].canonical(model.id))
        for report in seen.backends
        for model in report.loaded or ()
    }
    return {
        "name": name,
        "alias_of": target if is_alias else None,
        "deployments": [
            {
                "backend": d.backend,
                "model": d.model,
                "up": d.backend in seen.up,
                "size_bytes": sizes.get((d.backend, router.backends[d.backend].canonical(d.model))),
                "loaded": (d.backend, router.backends[d.backend].canonical(d.model)) in loaded
                if d.backend in told
                else None,
            }
            for d in deployments
        ],
    }


def _row(entry: dict[str, Any]) -> tuple[str, str, str, str]:
    places = entry["deployments"]
    size = next((gib(place["size_bytes"]) for place in places if place["size_bytes"]), "")
    states = []
    if entry["alias_of"]:
        states.append(f"alias of {entry['alias_of']}" + ("" if places else ", which nobody has"))
    if any(place["loaded"] for place in places):
        states.append("loaded")
    if places and not any(place["up"] for place in places):
        states.append("down")
    served = ", ".join(f"{place['backend']}/{place['model']}" for place in places)
    return entry["name"], served, size, ", ".join(states)


def _down(seen: Survey) -> dict[str, str]:
    return {report.name: report.reason for report in seen.backends if report.state != "up"}
