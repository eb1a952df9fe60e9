"""The gateway below /llm in a FastAPI app that has routes and a lifespan of its own.

    ROUTER_OLLAMA_URL=http://127.0.0.1:11434 python examples/02_mounted_fastapi.py
    curl http://127.0.0.1:8000/llm/v1/models

OpenAI clients take `base_url="http://127.0.0.1:8000/llm/v1"`. Who may call it is the host app's business.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from smartrouter_asgi import SmartRouter, install


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.greeting = "hello"  # what the app itself needs: a database, a cache, ...
    yield
    app.state.greeting = "bye"


def create_app() -> FastAPI:
    app = FastAPI(lifespan=lifespan)

    @app.get("/hello")
    async def hello() -> dict[str, str]:
        return {"says": app.state.greeting}

    # Starlette runs no lifespan of a mounted app. `install` mounts the router and enters its lifespan with the host's;
    # with a plain `app.mount("/llm", router)` everything starts on demand, and one warning says so.
    install(app, "/llm", SmartRouter.from_env())
    return app


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(create_app(), host="127.0.0.1", port=8000)
