"""The gateway as a server of its own, from a configuration file.

    python examples/01_standalone.py
    curl localhost:11436/v1/chat/completions -d '{"model": "chat", "messages": [{"role": "user", "content": "Hi"}]}'

`smartrouter-asgi serve --config examples/config.example.yaml` does the same, and more at its start and end.
"""

from __future__ import annotations

import os
from pathlib import Path

from smartrouter_asgi import SmartRouter

CONFIG = Path(__file__).with_name("config.example.yaml")


def create_app() -> SmartRouter:
    # A file that cannot be used is refused here, naming file, key and value. ROUTER_* variables win over the file.
    return SmartRouter.from_file(os.environ.get("ROUTER_CONFIG", CONFIG))


if __name__ == "__main__":
    import uvicorn

    router = create_app()
    uvicorn.run(router, host=router.settings.server.host, port=router.settings.server.port)
