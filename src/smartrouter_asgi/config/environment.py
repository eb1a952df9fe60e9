"""The flat `ROUTER_*` variables with their defaults: one backend and the settings people change most."""

from typing import Annotated, TypeAlias

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from .backends import DEFAULT_URLS
from .fields import (
    Count,
    LogFormat,
    LogLevel,
    Percent,
    Port,
    PositiveSeconds,
    Provider,
    Seconds,
    SecondsOrForever,
    SecretText,
    TransportName,
    UnloadStrategy,
    WholeNumber,
)
from .units import FOREVER

PREFIX = "ROUTER_"

Gibibytes: TypeAlias = Annotated[float, Field(gt=0)]


class Environment(BaseSettings):
    """Every variable, by its name without `ROUTER_` in lower case, with its default."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    provider: Provider = "ollama"
    ollama_url: str = DEFAULT_URLS["ollama"]
    llama_cpp_url: str = DEFAULT_URLS["llama.cpp"]
    openai_base_url: str = DEFAULT_URLS["openai"]
    openai_api_key: SecretText | None = None
    model_prefix: str = ""
    model_keep_alive: SecondsOrForever = FOREVER
    """-1: the gate decides."""

    backend_retry_enabled: bool = True
    backend_max_retries: WholeNumber = 3
    backend_retry_base_delay: Seconds = 0.5
    backend_retry_max_delay: Seconds = 8.0
    backend_circuit_breaker_enabled: bool = True
    backend_circuit_breaker_failure_threshold: Count = 5
    backend_circuit_breaker_reset_timeout: PositiveSeconds = 60.0
    backend_circuit_breaker_half_open_max_attempts: Count = 3
    backend_circuit_breaker_sliding_window_size: Count = 100
    generation_timeout: PositiveSeconds = 600.0

    vram_monitor_enabled: bool = True
    vram_monitor_interval: PositiveSeconds = 2.0
    vram_max_total_gb: Gibibytes | None = None
    vram_auto_unload_enabled: bool = True
    vram_unload_strategy: UnloadStrategy = "lru"
    vram_default_estimate_gb: Gibibytes = 8.0
    vram_unload_threshold_pct: Percent = 85.0
    pinned_model: str | None = None
    amd_unified_memory_gb: Gibibytes | None = None
    apple_unified_memory_gb: Gibibytes | None = None

    transport: TransportName = "auto"
    host: str = "127.0.0.1"
    port: Port = 11436
    config: str | None = None
    admin_api_key: SecretText | None = None
    log_level: LogLevel = "INFO"
    log_format: LogFormat = "text"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from the constructor alone: `read_environment` gives it those of the mapping it was handed."""
        return (init_settings,)

    @field_validator("port", mode="before")
    @classmethod
    def _no_service_link(cls, value: object) -> object:
        if isinstance(value, str) and value.startswith("tcp://"):
            raise ValueError(
                "expected a port number; Kubernetes sets this for a Service named 'router': "
                "set enableServiceLinks: false in the pod, or rename the Service"
            )
        return value
