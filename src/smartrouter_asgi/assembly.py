"""From settings to parts: which backends there are, and where their models are deployed."""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import urlsplit

from .backends.base import Backend, BackendSpec, Undecided
from .backends.registry import create_backend
from .config import Settings
from .config.backends import BackendSettings
from .config.catalog import CapabilitySettings
from .deployment import Capabilities, Deployment, FootprintKey, ModelInfo
from .exceptions import ConfigurationError, SmartRouterError
from .resilience.breaker import BreakerBoard
from .resilience.retry import counts_as_failure
from .routing.catalog import ModelGroup
from .routing.discovery import DiscoverySource
from .sizing import Sizing
from .transport.http import Transport


def build_backends(settings: Settings, transport: Transport, *, gating: Callable[[str], bool]) -> dict[str, Backend]:
    """Make the backends that the settings name; `gating` tells of which one the memory is shared out.

    Raises `ConfigurationError` for an unknown type.
    """
    sizes = context_sizes(settings)
    return {
        name: create_backend(
            backend_spec(
                name, section, gated=gating(name) and may_be_gated(settings, section), num_ctx=sizes.get(name)
            ),
            transport,
        )
        for name, section in settings.backends.items()
    }


def backend_spec(
    name: str, section: BackendSettings, *, gated: bool, num_ctx: Mapping[str, int] | None = None
) -> BackendSpec:
    """Turn a backend's section into what its adapter gets.

    Where the gate decides what stays in memory, the engine is told to keep it: a timer of its own would unload behind
    the gate's back. Where nothing is gated, the engine's own timer is left alone.
    """
    keep_alive_s = section.keep_alive_s
    if keep_alive_s is None or keep_alive_s < 0:
        keep_alive_s = -1.0 if gated else None
    return BackendSpec(
        name=name,
        type=section.type,
        url=section.base_url,
        api_keys=section.api_keys,
        headers=section.headers,
        keep_alive_s=keep_alive_s,
        num_ctx=section.num_ctx,
        model_num_ctx=num_ctx or {},
        options=section.options,
        gated=gated,
    )


def context_sizes(settings: Settings) -> dict[str, dict[str, int]]:
    """Return the context sizes that deployments pin, by backend and upstream id.

    Raises `ConfigurationError` for two sizes of one model at one backend: it would be loaded again and again.
    """
    sizes: dict[str, dict[str, int]] = {}
    for model in settings.models:
        for deployment in model.deployments:
            if deployment.num_ctx is None:
                continue
            name = upstream_id(settings, deployment.backend, deployment.model)
            pinned = sizes.setdefault(deployment.backend, {}).setdefault(name, deployment.num_ctx)
            if pinned != deployment.num_ctx:
                raise ConfigurationError(
                    f"models: '{name}' at backend '{deployment.backend}' has num_ctx {pinned} and {deployment.num_ctx}:"
                    " give it one size, each change would load it again"
                )
    return sizes


def upstream_id(settings: Settings, backend: str, model: str) -> str:
    """Put the backend's prefix before a configured model's id, unless it is there."""
    section = settings.backends.get(backend)
    prefix = section.model_prefix if section is not None else ""
    return model if model.startswith(prefix) else prefix + model


class Deployer:
    """Makes deployments: puts the backend's prefix on, knows limits, abilities and sizes, decides what is gated."""

    def __init__(self, settings: Settings, backends: Mapping[str, Backend], *, budget_bytes: int | None = None) -> None:
        self._settings = settings
        self._backends = backends
        self._sizing = Sizing(budget_bytes=budget_bytes)
        self._sizes = context_sizes(settings)
        self._listed: dict[str, dict[str, ModelInfo]] = {}

    def learn(self, backend: str, models: Sequence[ModelInfo]) -> None:
        """Take in what a backend tells of its models: configured deployments are made with it from then on."""
        canonical = self._backends[backend].canonical
        self._listed[backend] = {canonical(info.id): info for info in models}

    def configured(self) -> list[ModelGroup]:
        """Make the groups of the configured models, with what is known of the backends by now."""
        return [
            ModelGroup(
                name=model.name,
                deployments=tuple(
                    self.deploy(
                        d.backend,
                        upstream_id(self._settings, d.backend, d.model),
                        vram_bytes=d.vram_bytes,
                        order=d.order,
                        weight=d.weight,
                        max_parallel=d.max_parallel,
                        num_ctx=d.num_ctx,
                        said=d.capabilities,
                    )
                    for d in model.deployments
                ),
                balance=model.balance,
                affinity=model.affinity,
                fallbacks=model.fallbacks,
                context_window_fallbacks=model.context_window_fallbacks,
                content_policy_fallbacks=model.content_policy_fallbacks,
            )
            for model in self._settings.models
        ]

    def discovered(self, backend: str, info: ModelInfo) -> Deployment:
        """Make the deployment of a listed model."""
        deployment = self.deploy(backend, info.id, info=info)
        return dataclasses.replace(deployment, gated=False) if info.remote else deployment

    def deploy(
        self,
        backend: str,
        upstream_id: str,
        *,
        vram_bytes: int | None = None,
        order: int = 1,
        weight: float = 1.0,
        max_parallel: int | None = None,
        num_ctx: int | None = None,
        said: CapabilitySettings | None = None,
        info: ModelInfo | None = None,
    ) -> Deployment:
        """Make the deployment of an upstream id, which is taken as it is.

        `said` is what configuration says of its capabilities, `info` what the engine does (default: what is known).
        """
        adapter = self._backends[backend]
        model = adapter.canonical(upstream_id)
        info = info or self._listed.get(backend, {}).get(model)
        told = info.can if info is not None and info.can is not None else adapter.capabilities
        num_ctx = num_ctx or self._num_ctx(backend, model)
        gated = self.gated(backend)
        estimate_bytes, key = self._size(backend, info, num_ctx, max_parallel) if gated and info else (None, None)
        return Deployment(
            backend=backend,
            model=model,
            vram_bytes=vram_bytes,
            order=order,
            weight=weight,
            max_parallel=max_parallel,
            gated=gated,
            capabilities=_with(told, said, num_ctx),
            estimate_bytes=estimate_bytes,
            footprint_key=key,
        )

    def may_be_gated(self, backend: str) -> bool:
        """Tell whether a backend's models need a lease, or may once it is known what it can do."""
        section, adapter = self._settings.backends.get(backend), self._backends[backend]
        if isinstance(adapter, Undecided) and not adapter.is_settled:
            return section is None or may_be_gated(self._settings, section)
        return self.gated(backend)

    def gated(self, backend: str) -> bool:
        """Tell whether a backend's models need a lease: it can load and unload them, and it shares our GPU."""
        section = self._settings.backends.get(backend)
        if not self._backends[backend].capabilities.can_load:
            return False
        return section is None or may_be_gated(self._settings, section)

    def _size(
        self, backend: str, info: ModelInfo, num_ctx: int | None, max_parallel: int | None
    ) -> tuple[int | None, FootprintKey | None]:
        section = self._settings.backends.get(backend)
        parallel = max_parallel or (section.max_parallel if section is not None else None)
        kv_type = section.kv_type if section is not None else "f16"
        engine = self._backends[backend].type
        return (
            self._sizing.estimate_bytes(info, num_ctx=num_ctx, parallel=parallel, kv_type=kv_type),
            self._sizing.footprint_key(info, engine=engine, num_ctx=num_ctx, parallel=parallel, kv_type=kv_type),
        )

    def _num_ctx(self, backend: str, model: str) -> int | None:
        section = self._settings.backends.get(backend)
        if section is None:
            return None
        canonical = self._backends[backend].canonical
        pinned = {canonical(name): size for name, size in self._sizes.get(backend, {}).items()}
        return pinned.get(model, section.num_ctx)


def _with(told: Capabilities, said: CapabilitySettings | None, num_ctx: int | None) -> Capabilities:
    """Return what a model can do: as the operator says, else as is told; no context is longer than the pinned one."""
    changes = said.model_dump(exclude_none=True) if said is not None else {}
    length = changes.get("context_length", told.context_length)
    lengths = [one for one in (length, num_ctx) if one is not None]
    if lengths:
        changes["context_length"] = min(lengths)
    return dataclasses.replace(told, **changes) if changes else told


def may_be_gated(settings: Settings, section: BackendSettings) -> bool:
    """Tell whether an engine shares the GPU memory that the gate guards.

    `auto`: one on this machine does, and one elsewhere once a budget is declared, its own or one for all: a reading of
    this machine's GPUs says nothing about another's.
    """
    if section.gated != "auto":
        return section.gated
    declared = section.vram_bytes is not None or settings.vram.max_total_bytes is not None
    return declared or is_local(section.base_url)


Listed = Callable[[str, Sequence[ModelInfo]], None]
"""Told what a backend has listed, once it is believed."""


def discovery_sources(
    settings: Settings,
    backends: Mapping[str, Backend],
    deployer: Deployer,
    breakers: BreakerBoard,
    listed: Listed = lambda *_: None,
) -> list[DiscoverySource]:
    """Say how each backend is asked for its models: behind a breaker of its own, so that a dead one is left alone."""

    def learn(backend: str, models: Sequence[ModelInfo]) -> None:
        deployer.learn(backend, models)
        listed(backend, models)

    return [
        DiscoverySource(
            backend=name,
            list_models=_guarded(backend, breakers),
            deploy=functools.partial(deployer.discovered, name),
            learn=functools.partial(learn, name),
            prefix=section.model_prefix if (section := settings.backends.get(name)) is not None else "",
        )
        for name, backend in backends.items()
    ]


def _guarded(backend: Backend, breakers: BreakerBoard) -> Callable[[], Awaitable[Sequence[ModelInfo]]]:
    async def list_models() -> Sequence[ModelInfo]:
        permit = breakers.get(backend.name, "list").acquire()
        try:
            models = await backend.list_models()
        except SmartRouterError as exc:
            kind = getattr(exc, "kind", None)
            if kind is not None and counts_as_failure(kind):
                permit.failure()
            raise
        else:
            permit.success()
            return models
        finally:
            permit.release()

    return list_models


def is_local(url: str) -> bool:
    """Tell whether a URL points at this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
