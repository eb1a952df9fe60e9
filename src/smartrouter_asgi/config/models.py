"""`Settings`: everything the gateway can be told, as one immutable value."""

from collections.abc import Iterable
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, PrivateAttr, model_validator

from .backends import BackendSettings
from .catalog import DiscoverySettings, ModelSettings
from .checks import find_problems, find_warnings
from .fields import (
    Count,
    LogFormat,
    LogLevel,
    Name,
    Port,
    PositiveBytes,
    SecretText,
    Section,
    TransportName,
    refuse,
)
from .resilience import ResilienceSettings
from .units import MIB
from .vram import VRAMSettings


class ServerSettings(Section):
    """Where the gateway listens when it is served alone."""

    host: Name = "127.0.0.1"
    port: Port = 11436
    """0: any free port."""
    max_body_bytes: PositiveBytes = Field(default=10 * MIB, alias="max_body")
    workers: Count = 1


class AdminSettings(Section):
    """Who may use the admin endpoints."""

    api_key: SecretText | None = None
    """Not set: only callers on this machine."""


class LoggingSettings(Section):
    """What is logged and how."""

    level: LogLevel = "INFO"
    format: LogFormat = "text"


def _backend_name(value: str) -> str:
    # It becomes a response header, a metric label and the left half of `backend/model`.
    if not value.isascii() or not value.replace("_", "").replace("-", "").replace(".", "").isalnum():
        raise ValueError("expected a backend name of letters, digits, '.', '_' and '-'")
    return value


class Settings(Section):
    """Everything the gateway can be told; `load_settings` makes one from file, environment and command line."""

    backends: dict[Annotated[str, Field(max_length=64), AfterValidator(_backend_name)], BackendSettings] = Field(
        default_factory=dict
    )
    """By name."""
    models: tuple[ModelSettings, ...] = ()
    aliases: dict[Name, Name] = Field(default_factory=dict)
    """Other names of configured models or discovered ids."""
    discovery: DiscoverySettings = Field(default_factory=DiscoverySettings)
    resilience: ResilienceSettings = Field(default_factory=ResilienceSettings)
    vram: VRAMSettings = Field(default_factory=VRAMSettings)
    server: ServerSettings = Field(default_factory=ServerSettings)
    admin: AdminSettings = Field(default_factory=AdminSettings)
    logging: LoggingSettings = Field(default_factory=LoggingSettings)
    transport: TransportName = "auto"
    """Which HTTP client speaks to the engines."""

    _warnings: list[str] = PrivateAttr(default_factory=list)
    _backends_explicit: bool = PrivateAttr(default=True)

    @property
    def warnings(self) -> list[str]:
        """Lines to print once at start: accepted, but perhaps not what was meant."""
        return list(self._warnings)

    @property
    def backends_explicit(self) -> bool:
        """Whether somebody said where the backends are: a file, a provider or a URL, or code."""
        return self._backends_explicit

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(find_problems(self))
        self._warnings = find_warnings(self)
        return self

    def noted(self, *, warnings: Iterable[str] = (), backends_explicit: bool = True) -> Self:
        """Return a copy that has these warnings before its own, and knows whether its backends were named."""
        copy = self.model_copy()
        copy._warnings = [*warnings, *self._warnings]
        copy._backends_explicit = backends_explicit
        return copy


def settings_schema() -> dict[str, Any]:
    """Return the JSON Schema of the file."""
    return Settings.model_json_schema(by_alias=True, mode="validation")
