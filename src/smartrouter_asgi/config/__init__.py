"""Settings: from environment, file and command line to one immutable, checked value.

Units and file formats are known here and nowhere else; everything that comes out is in seconds and bytes.
"""

from .backends import BackendSettings
from .catalog import DeploymentSettings, DiscoverySettings, ModelSettings
from .load import load_settings
from .models import AdminSettings, LoggingSettings, ServerSettings, Settings, settings_schema
from .resilience import (
    CircuitBreakerSettings,
    DrainSettings,
    HedgeSettings,
    ResilienceSettings,
    RetryBudgetSettings,
    RetrySettings,
    TimeoutSettings,
)
from .vram import DeviceSettings, VRAMSettings

__all__ = [
    "AdminSettings",
    "BackendSettings",
    "CircuitBreakerSettings",
    "DeploymentSettings",
    "DeviceSettings",
    "DiscoverySettings",
    "DrainSettings",
    "HedgeSettings",
    "LoggingSettings",
    "ModelSettings",
    "ResilienceSettings",
    "RetryBudgetSettings",
    "RetrySettings",
    "ServerSettings",
    "Settings",
    "TimeoutSettings",
    "VRAMSettings",
    "load_settings",
    "settings_schema",
]
