"""Reads the `ROUTER_*` variables and says where in the file each has its place."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource

from .environment import PREFIX, Environment
from .fields import KeyPath, did_you_mean
from .problems import Origin, Sources, configuration_error, shown
from .units import GIB

BACKEND_FIELDS = (
    "provider",
    "ollama_url",
    "llama_cpp_url",
    "openai_base_url",
    "openai_api_key",
    "model_prefix",
    "model_keep_alive",
)
"""The variables that describe the environment's one backend; a file's `backends` takes their place."""

_NAMES_A_BACKEND = frozenset({"provider", "ollama_url", "llama_cpp_url", "openai_base_url"})
_SECRET_FIELDS = frozenset({"openai_api_key", "admin_api_key"})
_GIBIBYTE_FIELDS = frozenset(
    {"vram_max_total_gb", "vram_default_estimate_gb", "amd_unified_memory_gb", "apple_unified_memory_gb"}
)

_BREAKER = ("resilience", "circuit_breaker")

SETTING_PATHS: Mapping[str, KeyPath] = {
    "backend_retry_enabled": ("resilience", "retry", "enabled"),
    "backend_max_retries": ("resilience", "retry", "max_retries"),
    "backend_retry_base_delay": ("resilience", "retry", "base_delay"),
    "backend_retry_max_delay": ("resilience", "retry", "max_delay"),
    "backend_circuit_breaker_enabled": (*_BREAKER, "enabled"),
    "backend_circuit_breaker_failure_threshold": (*_BREAKER, "failure_threshold"),
    "backend_circuit_breaker_reset_timeout": (*_BREAKER, "reset_timeout"),
    "backend_circuit_breaker_half_open_max_attempts": (*_BREAKER, "half_open_max_attempts"),
    "backend_circuit_breaker_sliding_window_size": (*_BREAKER, "sliding_window_size"),
    "generation_timeout": ("resilience", "timeouts", "total"),
    "vram_monitor_enabled": ("vram", "monitor_enabled"),
    "vram_monitor_interval": ("vram", "monitor_interval"),
    "vram_max_total_gb": ("vram", "max_total"),
    "vram_auto_unload_enabled": ("vram", "auto_unload"),
    "vram_unload_strategy": ("vram", "unload_strategy"),
    "vram_default_estimate_gb": ("vram", "default_estimate"),
    "vram_unload_threshold_pct": ("vram", "unload_threshold_pct"),
    "pinned_model": ("vram", "pinned"),
    "amd_unified_memory_gb": ("vram", "amd_unified_memory"),
    "apple_unified_memory_gb": ("vram", "apple_unified_memory"),
    "transport": ("transport",),
    "host": ("server", "host"),
    "port": ("server", "port"),
    "admin_api_key": ("admin", "api_key"),
    "log_level": ("logging", "level"),
    "log_format": ("logging", "format"),
}
"""Where in the file each variable that is not about the backend has its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A value, where in the file it belongs, and where it came from."""

    path: KeyPath
    value: Any
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Variables:
    """The `ROUTER_*` variables that were set, parsed."""

    values: Environment
    raw: Mapping[str, str] = field(repr=False)
    """Their texts, by field name."""
    unknown: tuple[str, ...] = ()
    """Names nothing reads."""

    @property
    def names_a_backend(self) -> bool:
        """Whether a provider or a URL was set."""
        return not _NAMES_A_BACKEND.isdisjoint(self.raw)

    def backend_variables(self) -> list[str]:
        """Name the backend variables that were set."""
        return [variable(name) for name in BACKEND_FIELDS if name in self.raw]

    def settings(self) -> Iterator[Placed]:
        """Yield what was set and is not about the backend."""
        for name, path in SETTING_PATHS.items():
            if name in self.raw:
                yield Placed(path=path, value=file_value(self.values, name), origin=_origin(name, self.raw))

    def backend(self) -> tuple[list[Placed], list[str]]:
        """Return the environment's one backend, value by value, and warnings about variables it has no use for."""
        provider = self.values.provider
        url = self._url_field(provider)
        fields: dict[str, str] = {"type": "provider", "url": url, "keep_alive": "model_keep_alive"}
        if url == "openai_base_url":
            fields["api_key"] = "openai_api_key"
        fields["model_prefix"] = "model_prefix"
        placed = [
            Placed(path=("backends", provider, key), value=getattr(self.values, name), origin=_origin(name, self.raw))
            for key, name in fields.items()
        ]
        useless = [name for name in BACKEND_FIELDS if name in self.raw and name not in fields.values()]
        said = f"{PREFIX}PROVIDER={provider}" + ("" if "provider" in self.raw else " (the default)")
        return placed, [f"{variable(name)} has no effect with {said}" for name in useless]

    def _url_field(self, provider: str) -> str:
        """Choose the URL: the provider's own; llama.cpp also takes Ollama's; `auto` takes the first one set."""
        choices = {
            "ollama": ("ollama_url",),
            "llama.cpp": ("llama_cpp_url", "ollama_url"),
            "openai": ("openai_base_url",),
            "auto": ("ollama_url", "llama_cpp_url", "openai_base_url"),
        }[provider]
        return next((name for name in choices if name in self.raw), choices[0])


def read_environment(environ: Mapping[str, str]) -> Variables:
    """Parse the variables; raise `ConfigurationError` naming variable, value and what would be right."""
    source = EnvSettingsSource(Environment)
    source.env_vars = {name.lower(): text for name, text in environ.items() if text}
    given: dict[str, str] = source()
    try:
        values = Environment(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        origins: dict[KeyPath, Origin] = {(name,): _origin(name, given) for name in given}
        raise configuration_error(error, Environment, Sources(origins=origins)) from None
    ours = (name for name, text in environ.items() if text and name.upper().startswith(PREFIX))
    unknown = tuple(name for name in ours if name.upper().removeprefix(PREFIX).lower() not in Environment.model_fields)
    return Variables(values=values, raw=given, unknown=unknown)


def unknown_warnings(variables: Variables, used: Collection[str]) -> list[str]:
    """Say which variables nothing reads, with the nearest right name; `used` are those the file interpolates."""
    known = [name.upper() for name in Environment.model_fields]
    lines = []
    for name in variables.unknown:
        if name not in used:
            hint = did_you_mean(name.upper().removeprefix(PREFIX), known, cutoff=0.7)
            lines.append(f"{name}: unknown variable, ignored" + hint.replace("mean '", f"mean '{PREFIX}"))
    return lines


def variable(name: str) -> str:
    """Return the variable of a field."""
    return PREFIX + name.upper()


def file_value(values: Environment, name: str) -> Any:
    """Return a variable's value in the file's terms: bytes for GiB, a list for the one pinned model."""
    value = getattr(values, name)
    if value is not None and name in _GIBIBYTE_FIELDS:
        return int(value * GIB)
    return [value] if name == "pinned_model" else value


def _origin(name: str, raw: Mapping[str, str]) -> Origin:
    secret = name in _SECRET_FIELDS or name not in raw
    return Origin(label=variable(name), shown="" if secret else shown(raw[name]))
