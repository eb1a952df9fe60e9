"""An LLM gateway made of ASGI layers that work alone and together. What is heavy is imported when it is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .app import SmartRouter as SmartRouter
    from .app import create_app as create_app
    from .app import install as install
    from .backends.base import Backend as Backend
    from .backends.base import BackendSpec as BackendSpec
    from .backends.base import BaseBackend as BaseBackend
    from .backends.base import PlainAnswer as PlainAnswer
    from .backends.http import HTTPBackend as HTTPBackend
    from .backends.llamacpp import LlamaCppBackend as LlamaCppBackend
    from .backends.ollama import OllamaBackend as OllamaBackend
    from .backends.openai_compat import OpenAICompatBackend as OpenAICompatBackend
    from .backends.tokens import EnvironmentKey as EnvironmentKey
    from .backends.tokens import TokenSource as TokenSource
    from .config import Settings as Settings
    from .config import load_settings as load_settings
    from .deployment import Capabilities as Capabilities
    from .deployment import Deployment as Deployment
    from .deployment import LoadedModel as LoadedModel
    from .deployment import ModelInfo as ModelInfo
    from .dispatch import BackendDispatch as BackendDispatch
    from .events import Observer as Observer
    from .exceptions import AttemptError as AttemptError
    from .exceptions import ConfigurationError as ConfigurationError
    from .exceptions import FailureKind as FailureKind
    from .exceptions import SmartRouterError as SmartRouterError
    from .exceptions import UnsupportedParameterError as UnsupportedParameterError
    from .middleware.errors import ErrorEnvelopeMiddleware as ErrorEnvelopeMiddleware
    from .middleware.resilience import ResilienceMiddleware as ResilienceMiddleware
    from .middleware.resolution import ModelResolutionMiddleware as ModelResolutionMiddleware
    from .middleware.vram import VRAMGateMiddleware as VRAMGateMiddleware
    from .resilience.breaker import CircuitBreaker as CircuitBreaker
    from .resilience.deadline import Timeouts as Timeouts
    from .resilience.policy import BreakerPolicy as BreakerPolicy
    from .resilience.retry import RetryPolicy as RetryPolicy
    from .routing.catalog import Catalog as Catalog
    from .routing.catalog import ModelGroup as ModelGroup
    from .routing.plan import RoutePlan as RoutePlan
    from .transport.direct.for_httpx import DirectHTTPXTransport as DirectHTTPXTransport
    from .transport.direct.transport import DirectTransport as DirectTransport
    from .transport.http import Transport as Transport
    from .transport.httpx_transport import HttpxTransport as HttpxTransport
    from .vram.gate import VRAMGate as VRAMGate
    from .vram.lifecycle import CallbackLifecycle as CallbackLifecycle
    from .vram.lifecycle import ModelLifecycle as ModelLifecycle
    from .vram.policy import GatePolicy as GatePolicy
    from .wire.call import Call as Call
    from .wire.stream import Piece as Piece
    from .wire.stream import PieceKind as PieceKind
    from .wire.stream import Usage as Usage

_HOMES = {
    "AttemptError": "exceptions",
    "Backend": "backends.base",
    "BackendDispatch": "dispatch",
    "BackendSpec": "backends.base",
    "BaseBackend": "backends.base",
    "BreakerPolicy": "resilience.policy",
    "Call": "wire.call",
    "CallbackLifecycle": "vram.lifecycle",
    "Capabilities": "deployment",
    "Catalog": "routing.catalog",
    "CircuitBreaker": "resilience.breaker",
    "ConfigurationError": "exceptions",
    "Deployment": "deployment",
    "DirectHTTPXTransport": "transport.direct.for_httpx",
    "DirectTransport": "transport.direct.transport",
    "EnvironmentKey": "backends.tokens",
    "ErrorEnvelopeMiddleware": "middleware.errors",
    "FailureKind": "exceptions",
    "GatePolicy": "vram.policy",
    "HTTPBackend": "backends.http",
    "HttpxTransport": "transport.httpx_transport",
    "LlamaCppBackend": "backends.llamacpp",
    "LoadedModel": "deployment",
    "ModelGroup": "routing.catalog",
    "ModelInfo": "deployment",
    "ModelLifecycle": "vram.lifecycle",
    "ModelResolutionMiddleware": "middleware.resolution",
    "Observer": "events",
    "OllamaBackend": "backends.ollama",
    "OpenAICompatBackend": "backends.openai_compat",
    "Piece": "wire.stream",
    "PieceKind": "wire.stream",
    "PlainAnswer": "backends.base",
    "ResilienceMiddleware": "middleware.resilience",
    "RetryPolicy": "resilience.retry",
    "RoutePlan": "routing.plan",
    "Settings": "config",
    "SmartRouter": "app",
    "SmartRouterError": "exceptions",
    "Timeouts": "resilience.deadline",
    "TokenSource": "backends.tokens",
    "Transport": "transport.http",
    "UnsupportedParameterError": "exceptions",
    "Usage": "wire.stream",
    "VRAMGate": "vram.gate",
    "VRAMGateMiddleware": "middleware.vram",
    "create_app": "app",
    "install": "app",
    "load_settings": "config",
}

__all__ = [
    *_HOMES,
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("smartrouter-asgi")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
