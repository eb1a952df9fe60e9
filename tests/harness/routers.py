"""Routers over scripted engines."""

from __future__ import annotations

from typing import Any

from smartrouter_asgi import Settings, SmartRouter

MESSAGES = [{"role": "user", "content": "hi"}]


def chat(model: str = "chat", **fields: Any) -> dict[str, Any]:
    """Body of a chat request."""
    return {"model": model, "messages": MESSAGES, **fields}


def router_over(*urls: str, resilience: dict[str, Any] | None = None, **settings: Any) -> SmartRouter:
    """A router whose model `chat` is served by OpenAI-compatible engines at these URLs, in this order."""
    names = [f"b{number}" for number, _ in enumerate(urls, 1)]
    return SmartRouter(
        Settings.model_validate(
            {
                "backends": {n: {"type": "openai", "url": f"{u}/v1"} for n, u in zip(names, urls, strict=True)},
                "models": [
                    {
                        "name": "chat",
                        "deployments": [
                            {"backend": name, "model": "engine-model", "order": order}
                            for order, name in enumerate(names, 1)
                        ],
                    }
                ],
                "discovery": {"enabled": False},
                "resilience": {"retry": {"base_delay": "10ms", "max_delay": "50ms"}, **(resilience or {})},
                **settings,
            }
        )
    )


def in_line(router: SmartRouter) -> int:
    """How many requests wait for a slot of a deployment or a backend."""
    app: Any = router._inference
    while hasattr(app, "app"):
        app = app.app
    return sum(app._limits.depths().values())
