"""What one section must know of another: dead ends are problems, odd but workable choices are warnings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .fields import KeyPath, Problem, did_you_mean, key_path
from .units import MIB, format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .models import Settings


def find_problems(settings: Settings) -> list[Problem]:
    """List what cannot work, each with its key path; pure."""
    problems = [
        *_unknown_backends(settings),
        *_duplicate_models(settings),
        *_contradicting_footprints(settings),
        *_bad_aliases(settings),
    ]
    if not settings.discovery.enabled:
        problems += [
            Problem(path=path, value=name, message="unknown model" + _suggestion(settings, name))
            for path, name in _unconfigured_names(settings)
        ]
    return problems


def find_warnings(settings: Settings) -> list[str]:
    """List what works but is perhaps not meant; pure."""
    return [
        *_discovered_only(settings),
        *_size_warnings(settings),
        *_delay_warnings(settings),
    ]


def _unknown_backends(settings: Settings) -> Iterator[Problem]:
    known = ", ".join(settings.backends) or "none"
    for m, model in enumerate(settings.models):
        for d, deployment in enumerate(model.deployments):
            if deployment.backend not in settings.backends:
                hint = did_you_mean(deployment.backend, settings.backends) or f"; there is: {known}"
                path = ("models", m, "deployments", d, "backend")
                yield Problem(path=path, value=deployment.backend, message="unknown backend" + hint)


def _duplicate_models(settings: Settings) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for m, model in enumerate(settings.models):
        if model.name in first:
            message = f"already the name of models[{first[model.name]}]: list all deployments under one of them"
            yield Problem(path=("models", m, "name"), value=model.name, message=message)
        first.setdefault(model.name, m)


def _contradicting_footprints(settings: Settings) -> Iterator[Problem]:
    first: dict[tuple[str, str], tuple[int, str]] = {}
    for m, model in enumerate(settings.models):
        for d, deployment in enumerate(model.deployments):
            if deployment.vram_bytes is None:
                continue
            path = ("models", m, "deployments", d, "vram")
            place = (deployment.backend, deployment.model)
            size_bytes, where = first.setdefault(place, (deployment.vram_bytes, key_path(path)))
            if size_bytes != deployment.vram_bytes:
                message = f"the same model of the same backend has {format_size(size_bytes)} at {where}: write one size"
                yield Problem(path=path, value=format_size(deployment.vram_bytes), message=message)


def _bad_aliases(settings: Settings) -> Iterator[Problem]:
    names = {model.name for model in settings.models}
    for alias, target in settings.aliases.items():
        path: KeyPath = ("aliases", alias)
        if alias in names:
            yield Problem(path=path, value=target, message="a configured model has this name, so the alias has no use")
        elif target == alias:
            yield Problem(path=path, value=target, message="an alias of itself: name a model")
        elif target not in names and target in settings.aliases:
            message = f"an alias of an alias: write {settings.aliases[target]!r}"
            yield Problem(path=path, value=target, message=message)
    for path, name in _fallbacks(settings):
        model = settings.models[int(path[1])]
        if settings.aliases.get(name, name) == model.name:
            yield Problem(path=path, value=name, message="falls back to itself: name another model")


def _fallbacks(settings: Settings) -> Iterator[tuple[KeyPath, str]]:
    for m, model in enumerate(settings.models):
        lists = {
            "fallbacks": model.fallbacks,
            "context_window_fallbacks": model.context_window_fallbacks,
            "content_policy_fallbacks": model.content_policy_fallbacks,
        }
        for key, names in lists.items():
            for n, name in enumerate(names):
                yield ("models", m, key, n), name


def _unconfigured_names(settings: Settings) -> Iterator[tuple[KeyPath, str]]:
    """Every name that refers to a model, and that no section of the file defines."""
    names = {model.name for model in settings.models}
    for alias, target in settings.aliases.items():
        if target not in names and target not in settings.aliases:
            yield ("aliases", alias), target
    names |= set(settings.aliases)
    for path, name in _fallbacks(settings):
        if name not in names:
            yield path, name
    for model in settings.models:
        for deployment in model.deployments:
            names |= {deployment.model, f"{deployment.backend}/{deployment.model}"}
    for key, listed in (("pinned", settings.vram.pinned), ("preload", settings.vram.preload)):
        for n, name in enumerate(listed):
            if name not in names:
                yield ("vram", key, n), name


def _suggestion(settings: Settings, name: str) -> str:
    names = [model.name for model in settings.models] + list(settings.aliases)
    return did_you_mean(name, (known for known in names if known != name))


def _discovered_only(settings: Settings) -> Iterator[str]:
    if not settings.discovery.enabled or not settings.models:
        return
    for path, name in _unconfigured_names(settings):
        if path[0] != "vram":
            where = f"{key_path(path)}: {name!r} is no configured model; it works while a backend lists it"
            yield where + _suggestion(settings, name)


def _size_warnings(settings: Settings) -> Iterator[str]:
    vram = settings.vram
    sizes: list[tuple[KeyPath, int | None]] = [
        (("vram", "max_total"), vram.max_total_bytes),
        (("vram", "default_estimate"), vram.default_estimate_bytes),
        *((("vram", "devices", device, "max"), limit.max_bytes) for device, limit in vram.devices.items()),
    ]
    for m, model in enumerate(settings.models):
        for d, deployment in enumerate(model.deployments):
            path: KeyPath = ("models", m, "deployments", d, "vram")
            sizes.append((path, deployment.vram_bytes))
            if vram.max_total_bytes is not None and (deployment.vram_bytes or 0) > vram.max_total_bytes >= MIB:
                needs, has = format_size(deployment.vram_bytes or 0), format_size(vram.max_total_bytes)
                yield f"{key_path(path)}: {needs} never fits into vram.max_total ({has})"
    for path, size_bytes in sizes:
        if size_bytes is not None and size_bytes < MIB:
            yield f"{key_path(path)}: {size_bytes} bytes is very little; a bare number is bytes: write it as 6GiB"


def _delay_warnings(settings: Settings) -> Iterator[str]:
    retry = settings.resilience.retry
    if retry.base_delay_s > retry.max_delay_s:
        base, limit = format_duration(retry.base_delay_s), format_duration(retry.max_delay_s)
        yield f"resilience.retry.base_delay: {base} is above max_delay, so every delay is {limit}"
