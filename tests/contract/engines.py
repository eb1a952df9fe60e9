"""Scripted engines, one for each shape in the field. Each class says in `source` where its shapes come from.

"facts" is the collection of facts the project was planned with: read from the engines' sources, their vendors'
documentation, or a running server. What no engine here does is guess.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from ..harness.servers import Exchange

CREATED = 1760000000
KEY = "key-of-the-gateway-0123456789"
VECTOR = [0.6, -0.8, 0.0]

JSON = dict[str, Any]


def dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def event(value: Any) -> bytes:
    return b"data: " + dump(value) + b"\n\n"


class Engine:
    """OpenAI's own API; the others say what they do otherwise."""

    source = "OpenAI's API reference; field order and null fields as the service sends them"
    type = "openai"
    version = "/v1"
    model = "gpt-4o-mini"
    owner = "system"
    any_name = False
    """Whether the `model` of a request is not looked at."""
    embeds = True
    completes = True
    forbidden: ClassVar[tuple[str, ...]] = ()
    """Paths that cost money or wake a model: nobody may ask for them by itself."""
    key: str | None = KEY
    answer_id = "chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG"

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.stalls = False
        """Whether a stream stops after its first word, until the other side leaves."""
        self.left = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        method, target = exchange.head.split(b" ", 2)[:2]
        url = urlsplit(target.decode())
        self.requests.append((method.decode(), url.path))
        body = json.loads(exchange.body) if exchange.body else None
        if self.key is not None and self.needs_key(url.path) and not self.admits(exchange, url.path):
            await self.fail(exchange, 401, "Incorrect API key provided", "invalid_request_error", "invalid_api_key")
        elif not await self.beside(exchange, method.decode(), url.path, parse_qs(url.query), body):
            await self.api(exchange, method.decode(), url.path, body)

    def needs_key(self, path: str) -> bool:
        return True

    def admits(self, exchange: Exchange, path: str) -> bool:
        return exchange.header("authorization") == f"Bearer {self.key}"

    async def beside(self, exchange: Exchange, method: str, path: str, query: JSON, body: Any) -> bool:
        """Answer what only this engine has; false when it is none of that."""
        return False

    async def api(self, exchange: Exchange, method: str, path: str, body: Any) -> None:
        route = path.removeprefix(self.version) if path.startswith(self.version) else None
        if method == "GET" and route == "/models":
            await self.say(exchange, self.listing())
        elif method == "POST" and route in ("/chat/completions", "/completions", "/embeddings"):
            if not self.any_name and body["model"] not in self.models():
                await self.unknown(exchange, body["model"])
            elif route == "/embeddings":
                await (self.embeddings(exchange, body) if self.embeds else self.not_there(exchange))
            elif route == "/completions" and not self.completes:
                await self.not_there(exchange)
            else:
                await self.generate(exchange, body, chat=route == "/chat/completions")
        else:
            await self.not_there(exchange)

    async def not_there(self, exchange: Exchange) -> None:
        await self.fail(exchange, 404, "Invalid URL", "invalid_request_error", None)

    async def say(self, exchange: Exchange, value: Any, status: int = 200) -> None:
        await exchange.answer(status, dump(value))

    def models(self) -> list[str]:
        return [self.model]

    def listing(self) -> Any:
        return {"object": "list", "data": [self.listed(name) for name in self.models()]}

    def listed(self, name: str) -> JSON:
        return {"id": name, "object": "model", "created": CREATED, "owned_by": self.owner}

    async def unknown(self, exchange: Exchange, model: str) -> None:
        message = f"The model `{model}` does not exist or you do not have access to it."
        await self.fail(exchange, 404, message, "invalid_request_error", "model_not_found")

    async def fail(self, exchange: Exchange, status: int, message: str, type: str, code: str | None) -> None:
        await self.say(exchange, {"error": {"message": message, "type": type, "param": None, "code": code}}, status)

    async def embeddings(self, exchange: Exchange, body: JSON) -> None:
        given = body["input"] if isinstance(body["input"], list) else [body["input"]]
        rows = [{"object": "embedding", "index": n, "embedding": VECTOR} for n, _ in enumerate(given)]
        usage = {"prompt_tokens": len(given), "total_tokens": len(given)}
        await self.say(exchange, {"object": "list", "data": rows, "model": body["model"], "usage": usage})

    async def generate(self, exchange: Exchange, body: JSON, *, chat: bool) -> None:
        if not body.get("stream"):
            await self.say(exchange, self.whole(body, chat=chat))
            return
        await exchange.start_stream("text/event-stream; charset=utf-8")
        for data in self.stream(body, chat=chat):
            await exchange.chunk(data)
            if self.stalls and b"Hel" in data:
                await exchange.gone()
                self.left.set()
                return
        await exchange.end_stream()

    usage: ClassVar[JSON] = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}

    def frame(self, body: JSON, kind: str, choices: list[JSON], **extra: Any) -> JSON:
        return {
            "id": self.answer_id,
            "object": kind,
            "created": CREATED,
            "model": body["model"],
            "choices": choices,
            **extra,
        }

    def message(self) -> JSON:
        return {"role": "assistant", "content": "Hello ☃", "refusal": None, "annotations": []}

    def whole(self, body: JSON, *, chat: bool) -> JSON:
        said = {"message": self.message()} if chat else {"text": "Hello ☃"}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": "stop"}
        kind = "chat.completion" if chat else "text_completion"
        return self.frame(body, kind, [choice], usage=self.usage, service_tier="default", system_fingerprint="fp_1")

    def deltas(self) -> list[JSON]:
        return [{"role": "assistant", "content": "", "refusal": None}, {"content": "Hel"}, {"content": "lo ☃"}]

    def chunk(self, body: JSON, said: JSON, finish: str | None = None, *, chat: bool, **extra: Any) -> JSON:
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish}
        return self.frame(body, "chat.completion.chunk" if chat else "text_completion", [choice], **extra)

    def stream(self, body: JSON, *, chat: bool) -> list[bytes]:
        asked = bool((body.get("stream_options") or {}).get("include_usage"))
        extra: JSON = {"usage": None} if asked else {}
        if chat:
            chunks = [self.chunk(body, {"delta": delta}, chat=True, **extra) for delta in self.deltas()]
            chunks.append(self.chunk(body, {"delta": {}}, "stop", chat=True, **extra))
        else:
            chunks = [self.chunk(body, {"text": text}, chat=False, **extra) for text in ("Hel", "lo ☃")]
            chunks.append(self.chunk(body, {"text": ""}, "stop", chat=False, **extra))
        if asked:
            chunks.append(self.frame(body, chunks[0]["object"], [], usage=self.usage))
        return [*(event(chunk) for chunk in chunks), b"data: [DONE]\n\n"]


class VLLM(Engine):
    source = "facts 4 and 4.1 (vLLM's source and documentation): nested errors, `reasoning`, sleep mode in dev mode"
    type = "vllm"
    model = "meta-llama/Llama-3.1-8B-Instruct"
    owner = "vllm"
    asleep = False

    def needs_key(self, path: str) -> bool:
        return path.startswith("/v1")

    async def beside(self, exchange: Exchange, method: str, path: str, query: JSON, body: Any) -> bool:
        if path == "/health":
            await exchange.answer(200, b"")
        elif path == "/version":
            await self.say(exchange, {"version": "0.11.1"})
        elif path == "/is_sleeping" and method == "GET":
            await self.say(exchange, {"is_sleeping": self.asleep})
        elif path in ("/sleep", "/wake_up") and method == "POST":
            self.asleep = path == "/sleep"
            await exchange.answer(200, b"")
        elif self.asleep and method == "POST":
            await exchange.answer(500, dump({"error": {"message": "the engine sleeps", "code": 500}}))
        else:
            return False
        return True

    async def not_there(self, exchange: Exchange) -> None:
        await self.say(exchange, {"detail": "Not Found"}, 404)  # FastAPI's

    def listed(self, name: str) -> JSON:
        return {**super().listed(name), "root": name, "parent": None, "max_model_len": 8192, "permission": []}

    async def unknown(self, exchange: Exchange, model: str) -> None:
        error = {"message": f"The model `{model}` does not exist.", "type": "NotFoundError", "param": None, "code": 404}
        await self.say(exchange, {"error": error}, 404)

    def message(self) -> JSON:
        return {"role": "assistant", "content": "Hello ☃", "reasoning": "hm", "tool_calls": []}

    def deltas(self) -> list[JSON]:
        return [{"role": "assistant", "content": ""}, {"reasoning": "hm"}, {"content": "Hel"}, {"content": "lo ☃"}]


class OlderVLLM(VLLM):
    source = "facts 4.1: older releases answer with flat errors, and have no sleep mode unless started with it"

    async def beside(self, exchange: Exchange, method: str, path: str, query: JSON, body: Any) -> bool:
        return path == "/health" and await super().beside(exchange, method, path, query, body)

    async def unknown(self, exchange: Exchange, model: str) -> None:
        message = f"The model `{model}` does not exist."
        flat = {"object": "error", "message": message, "type": "NotFoundError", "param": None, "code": 404}
        await self.say(exchange, flat, 404)

    def deltas(self) -> list[JSON]:
        return [{"role": "assistant", "content": ""}, {"reasoning_content": "hm"}, {"content": "Hello ☃"}]


class SGLang(Engine):
    source = "facts 4: /v1/models with owned_by sglang, /health cheap, /health_generate runs a token"
    type = "sglang"
    model = "qwen/qwen2.5-0.5b-instruct"
    owner = "sglang"
    forbidden = ("/health_generate",)

    async def beside(self, exchange: Exchange, method: str, path: str, query: JSON, body: Any) -> bool:
        if path in ("/health", "/health_generate"):
            await exchange.answer(200, b"")
            return True
        return False

    async def not_there(self, exchange: Exchange) -> None:
        await self.say(exchange, {"detail": "Not Found"}, 404)

    async def unknown(self, exchange: Exchange, model: str) -> None:
        flat = {"object": "error", "message": f"The model `{model}` does not exist", "type": "NotFound", "code": 404}
        await self.say(exchange, flat, 404)


class TGI(Engine):
    source = "facts 4: /info, no auth, errors with error_type, the request's model not looked at; no embeddings"
    type = "tgi"
    model = "HuggingFaceH4/zephyr-7b-beta"
    any_name = True
    key = None
    embeds = False
    answer_id = ""
    lists = True

    async def beside(self, exchange: Exchange, method: str, path: str, query: JSON, body: Any) -> bool:
        if path == "/info":
            limits = {"max_input_tokens": 4095, "max_total_tokens": 4096, "max_concurrent_requests": 128}
            await self.say(exchange, {"model_id": self.model, "version": "3.3.0", **limits})
            return True
        if path == "/v1/models" and not self.lists:
            await self.not_there(exchange)
            return True
        return False

    async def not_there(self, exchange: Exchange) -> None:
        await exchange.answer(404, b"", "text/plain")

    def listed(self, name: str) -> JSON:
        return {"id": name, "object": "model", "created": 0, "owned_by": name}


class OlderTGI(TGI):
    source = "facts 4: releases without a list of models tell of their one model under /info"
    lists = False


class LocalAI(Engine):
    source = "facts 4: /backend/monitor?model=, /backend/load, /backend/shutdown; /system from LocalAI's source"
    type = "localai"
    model = "gpt-4"

    def __init__(self) -> None:
        super().__init__()
        self.loaded: set[str] = set()

    async def beside(self, exchange: Exchange, method: str, path: str, query: JSON, body: Any) -> bool:
        if path == "/system":
            await self.say(exchange, {"backends": ["llama-cpp"], "loaded_models": [{"id": m} for m in self.loaded]})
        elif path == "/backend/monitor":
            [model] = query["model"]
            if model in self.loaded:
                await self.say(exchange, {"state": 2, "memory": {"total": 1, "breakdown": {}}})
            else:
                await self.fail(exchange, 500, "backend is not currently loaded", "", None)
        elif path in ("/backend/load", "/backend/shutdown") and method == "POST":
            if body["model"] not in self.models():
                await self.fail(exchange, 500, "could not load model", "", None)
            else:
                (self.loaded.add if path == "/backend/load" else self.loaded.discard)(body["model"])
                await self.say(exchange, {"message": "ok"})
        else:
            return False
        return True

    async def generate(self, exchange: Exchange, body: JSON, *, chat: bool) -> None:
        self.loaded.add(body["model"])
        await super().generate(exchange, body, chat=chat)

    def listed(self, name: str) -> JSON:
        return {"id": name, "object": "model"}

    async def fail(self, exchange: Exchange, status: int, message: str, type: str, code: str | None) -> None:
        await self.say(exchange, {"error": {"code": status, "message": message, "type": type}}, status)


class LMStudio(Engine):
    source = "facts 4: /api/v1/models with loaded_instances, load and unload; unknown paths answer 200 with an error"
    type = "lmstudio"
    model = "qwen2.5-7b-instruct"
    owner = "organization_owner"

    def __init__(self) -> None:
        super().__init__()
        self.loaded: set[str] = set()

    async def beside(self, exchange: Exchange, method: str, path: str, query: JSON, body: Any) -> bool:
        if path == "/api/v1/models":
            await self.say(exchange, {"models": [self.row(name) for name in self.models()]})
        elif path == "/api/v1/models/load":
            if body["model"] not in self.models():
                await self.fail(exchange, 404, f"Model {body['model']} not found", "model_not_found", None)
            else:
                self.loaded.add(body["model"])
                await self.say(exchange, {"type": "llm", "instance_id": body["model"], "status": "loaded"})
        elif path == "/api/v1/models/unload":
            self.loaded.discard(body["instance_id"])
            await self.say(exchange, {"instance_id": body["instance_id"]})
        else:
            return False
        return True

    def row(self, name: str) -> JSON:
        instances = [{"id": name, "config": {"context_length": 4096}}] if name in self.loaded else []
        return {
            "type": "llm",
            "publisher": "qwen",
            "key": name,
            "size_bytes": 4_683_073_184,
            "loaded_instances": instances,
            "max_context_length": 32768,
            "capabilities": {"vision": False, "trained_for_tool_use": True},
        }

    async def generate(self, exchange: Exchange, body: JSON, *, chat: bool) -> None:
        self.loaded.add(body["model"])
        await super().generate(exchange, body, chat=chat)

    async def not_there(self, exchange: Exchange) -> None:
        await self.say(exchange, {"error": f"Unexpected endpoint or method. (GET {exchange.path})"})


class OlderLMStudio(LMStudio):
    source = "facts 4: /api/v0/models with a state; no load or unload"

    async def beside(self, exchange: Exchange, method: str, path: str, query: JSON, body: Any) -> bool:
        if path == "/api/v0/models":
            rows = [
                {"id": n, "object": "model", "type": "llm", "state": "loaded" if n in self.loaded else "not-loaded"}
                for n in self.models()
            ]
            await self.say(exchange, {"object": "list", "data": rows})
            return True
        if path.startswith("/api/"):
            await exchange.answer(404, b"Not Found", "text/plain")
            return True
        return False


class LiteLLM(Engine):
    source = "facts 4 and LiteLLM's documentation: liveliness and readiness without key; /health calls every model"
    type = "litellm"
    owner = "openai"
    forbidden = ("/health",)

    def needs_key(self, path: str) -> bool:
        return not path.startswith("/health/")

    async def beside(self, exchange: Exchange, method: str, path: str, query: JSON, body: Any) -> bool:
        if path == "/health/liveliness":
            await self.say(exchange, "I'm alive!")
        elif path == "/health/readiness":
            await self.say(exchange, {"status": "healthy", "db": "Not connected", "litellm_version": "1.80.0"})
        elif path == "/health":
            await self.say(exchange, {"healthy_endpoints": [], "unhealthy_endpoints": []})
        else:
            return False
        return True

    async def unknown(self, exchange: Exchange, model: str) -> None:
        message = f"/chat/completions: Invalid model name passed in model={model}. Call `/v1/models` to view models"
        await self.say(
            exchange,
            {"error": {"message": message, "type": "invalid_request_error", "param": "model", "code": "400"}},
            400,
        )

    async def not_there(self, exchange: Exchange) -> None:
        await self.say(exchange, {"detail": "Not Found"}, 404)


class OpenRouter(Engine):
    source = "facts 4: comments before and between events, pricing in the list, error.code an int"
    type = "openrouter"
    version = "/api/v1"
    model = "meta-llama/llama-3.1-8b-instruct"
    answer_id = "gen-1"

    def listed(self, name: str) -> JSON:
        pricing = {"prompt": "0.00000002", "completion": "0.00000003"}
        return {"id": name, "name": "Llama", "created": CREATED, "context_length": 131072, "pricing": pricing}

    async def fail(self, exchange: Exchange, status: int, message: str, type: str, code: str | None) -> None:
        await self.say(exchange, {"error": {"message": message, "code": status}}, status)

    async def unknown(self, exchange: Exchange, model: str) -> None:
        await self.fail(exchange, 400, f"{model} is not a valid model ID", "", None)

    def stream(self, body: JSON, *, chat: bool) -> list[bytes]:
        first, *rest = super().stream(body, chat=chat)
        comment = b": OPENROUTER PROCESSING\n\n"
        return [comment, comment, first, comment, *rest]


class Together(Engine):
    source = "facts 4: the list is a bare array"
    type = "together"
    model = "meta-llama/Llama-3.3-70B-Instruct-Turbo"

    def listing(self) -> Any:
        return [
            {"id": n, "object": "model", "created": CREATED, "type": "chat", "context_length": 131072, "pricing": {}}
            for n in self.models()
        ]


class Anthropic(Engine):
    source = "facts 4 and 4.3: the list wants x-api-key and anthropic-version, chat a bearer; no [DONE] is left out"
    type = "anthropic"
    model = "claude-sonnet-4-5"
    embeds = completes = False

    def admits(self, exchange: Exchange, path: str) -> bool:
        if path.endswith("/models"):
            return exchange.header("x-api-key") == self.key and exchange.header("anthropic-version") == "2023-06-01"
        return super().admits(exchange, path)

    def listing(self) -> Any:
        rows = [
            {"type": "model", "id": n, "display_name": n, "created_at": "2025-09-29T00:00:00Z"} for n in self.models()
        ]
        return {"data": rows, "has_more": False, "first_id": self.model, "last_id": self.model}

    async def fail(self, exchange: Exchange, status: int, message: str, type: str, code: str | None) -> None:
        error = {"type": "error", "error": {"type": type, "message": message}, "request_id": "req_1"}
        await self.say(exchange, error, status)

    async def unknown(self, exchange: Exchange, model: str) -> None:
        await self.fail(exchange, 404, f"model: {model}", "not_found_error", None)


class Azure(Engine):
    source = "facts 4: /openai/v1, api-key header, a first chunk without choices; names of deployments are the owner's"
    type = "azure"
    version = "/openai/v1"
    model = "my-deployment"

    def admits(self, exchange: Exchange, path: str) -> bool:
        return exchange.header("api-key") == self.key

    async def unknown(self, exchange: Exchange, model: str) -> None:
        message = "The API deployment for this resource does not exist."
        await self.say(exchange, {"error": {"code": "DeploymentNotFound", "message": message}}, 404)

    def stream(self, body: JSON, *, chat: bool) -> list[bytes]:
        results = [{"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False, "severity": "safe"}}}]
        first = {
            "id": "",
            "object": "",
            "created": 0,
            "model": "",
            "choices": [],
            "prompt_filter_results": results,
        }
        if chat:
            first["object"] = "chat.completion.chunk"
        else:
            first["object"] = "text_completion"
        return [event(first), *super().stream(body, chat=chat)]


class Bedrock(Engine):
    source = "facts 4: /openai/v1 at the runtime, a bearer's key; the runtime itself has no list of models"
    type = "bedrock"
    version = "/openai/v1"
    model = "openai.gpt-oss-20b-1:0"
    embeds = completes = False

    async def beside(self, exchange: Exchange, method: str, path: str, query: JSON, body: Any) -> bool:
        if path.endswith("/models"):
            await self.say(exchange, {"Output": {"__type": "UnknownOperationException"}, "Version": "1.0"}, 404)
            return True
        return False

    async def unknown(self, exchange: Exchange, model: str) -> None:
        await self.fail(exchange, 400, "The provided model identifier is invalid.", "validation_error", None)


class Vertex(Engine):
    source = "facts 4: the openapi endpoint of a project, a bearer's token, no list; Google's error object"
    type = "vertex"
    version = "/v1/projects/p1/locations/global/endpoints/openapi"
    model = "google/gemini-2.5-flash"
    embeds = completes = False

    async def api(self, exchange: Exchange, method: str, path: str, body: Any) -> None:
        if path.endswith("/models"):
            await self.not_there(exchange)
        else:
            await super().api(exchange, method, path, body)

    async def fail(self, exchange: Exchange, status: int, message: str, type: str, code: str | None) -> None:
        error = {"error": {"code": status, "message": message, "status": "NOT_FOUND" if status == 404 else "INVALID"}}
        await self.say(exchange, error, status)

    async def unknown(self, exchange: Exchange, model: str) -> None:
        message = f"Publisher Model `projects/p1/locations/global/publishers/google/models/{model}` was not found."
        await self.fail(exchange, 404, message, "", None)


class OllamaV1(Engine):
    source = "facts 1.8 (Ollama's source): short ids, fp_ollama, owned_by library, errors with a null code"
    model = "llama3.2:latest"
    owner = "library"
    key = None
    answer_id = "chatcmpl-998"

    def models(self) -> list[str]:
        return [self.model, "qwen2.5:0.5b"]

    def message(self) -> JSON:
        return {"role": "assistant", "content": "Hello ☃", "reasoning": "hm"}

    async def unknown(self, exchange: Exchange, model: str) -> None:
        await self.fail(exchange, 404, f"model '{model}' not found", "not_found_error", None)

    async def not_there(self, exchange: Exchange) -> None:
        await exchange.answer(404, b"404 page not found", "text/plain")


class LlamaCpp(Engine):
    source = "facts 3.1 (a running llama-server): /health, /props, /slots, owned_by llamacpp, comments as pings"
    type = "llama.cpp"
    model = "tiny-llama"
    owner = "llamacpp"
    any_name = True
    embeds = False

    def needs_key(self, path: str) -> bool:
        return path != "/health"

    async def beside(self, exchange: Exchange, method: str, path: str, query: JSON, body: Any) -> bool:
        if path == "/health":
            await self.say(exchange, {"status": "ok"})
        elif path == "/props":
            await self.say(exchange, {"default_generation_settings": {}, "total_slots": 1, "is_sleeping": False})
        elif path == "/slots":
            await self.say(exchange, [{"id": 0, "n_ctx": 4096, "is_processing": False}])
        else:
            return False
        return True

    def listing(self) -> Any:
        return {"models": [{"name": n, "model": n} for n in self.models()], **super().listing()}

    def listed(self, name: str) -> JSON:
        return {**super().listed(name), "aliases": [], "tags": [], "meta": {"n_ctx": 4096, "size": 500_000}}

    async def fail(self, exchange: Exchange, status: int, message: str, type: str, code: str | None) -> None:
        await self.say(exchange, {"error": {"code": status, "message": message, "type": type}}, status)

    async def not_there(self, exchange: Exchange) -> None:
        await self.fail(exchange, 404, "File Not Found", "not_found_error", None)

    def deltas(self) -> list[JSON]:
        return [{"role": "assistant", "content": None}, {"content": "Hel"}, {"content": "lo ☃"}]

    def stream(self, body: JSON, *, chat: bool) -> list[bytes]:
        first, *rest = super().stream(body, chat=chat)
        return [first, b":\n\n", *rest]


class LlamaCppRouter(LlamaCpp):
    source = "facts 3.2 (llama.cpp's source and threads): status in the list, load returns at once, unknown is a 400"
    any_name = False
    forbidden = ("/completion",)

    def __init__(self) -> None:
        super().__init__()
        self.states = {"tiny-llama": "unloaded", "other": "unloaded"}

    def models(self) -> list[str]:
        return list(self.states)

    def listed(self, name: str) -> JSON:
        listed = {**super().listed(name), "status": {"value": self.states[name]}, "source": "cache"}
        if self.states[name] == "loading":
            self.states[name] = "loaded"
        return listed

    async def beside(self, exchange: Exchange, method: str, path: str, query: JSON, body: Any) -> bool:
        if path == "/props" and "model" not in query:
            await self.say(exchange, {"role": "router", "max_instances": 4})
        elif path == "/models/load":
            if body["model"] not in self.states:
                await self.fail(exchange, 404, "model is not found", "not_found_error", None)
            elif self.states[body["model"]] != "unloaded":
                await self.fail(exchange, 400, "model is already running", "invalid_request_error", None)
            else:
                self.states[body["model"]] = "loading"
                await self.say(exchange, {"success": True})
        elif path == "/models/unload":
            if self.states.get(body["model"], "unloaded") == "unloaded":
                await self.fail(exchange, 400, "model is not running", "invalid_request_error", None)
            else:
                self.states[body["model"]] = "unloaded"
                await self.say(exchange, {"success": True})
        else:
            return await super().beside(exchange, method, path, query, body)
        return True

    async def unknown(self, exchange: Exchange, model: str) -> None:
        await self.fail(exchange, 400, f"model '{model}' not found", "invalid_request_error", None)

    async def generate(self, exchange: Exchange, body: JSON, *, chat: bool) -> None:
        self.states[body["model"]] = "loaded"
        await super().generate(exchange, body, chat=chat)


class LlamaSwap(Engine):
    source = "facts 3.3 (llama-swap's source): /running, unload, /upstream/<model>/health, errors with src, text bodies"
    type = "llama-swap"
    model = "qwen-coder"
    owner = "llama-swap"
    forbidden = ("/unload",)

    def __init__(self) -> None:
        super().__init__()
        self.running: dict[str, str] = {}

    def models(self) -> list[str]:
        return [self.model, "smollm"]

    def listed(self, name: str) -> JSON:
        status = {"value": "loaded" if name in self.running else "unloaded"}
        return {**super().listed(name), "status": status, "meta": {"llamaswap": {"type": "model", "aliases": []}}}

    async def beside(self, exchange: Exchange, method: str, path: str, query: JSON, body: Any) -> bool:
        if path == "/health":
            await exchange.answer(200, b"OK", "text/plain")
        elif path == "/running":
            rows = [{"model": m, "state": s, "cmd": "llama-server", "ttl": 0} for m, s in self.running.items()]
            await self.say(exchange, {"running": rows})
        elif path.startswith("/upstream/"):
            model = unquote(path.split("/")[2])
            if model not in self.models():
                await self.unknown(exchange, model)
            else:
                self.running[model] = "ready"
                await self.say(exchange, {"status": "ok"})
        elif path.startswith("/api/models/unload/"):
            model = unquote(path.rpartition("/")[2])
            if model not in self.models():
                await self.unknown(exchange, model)
            else:
                self.running.pop(model, None)
                await self.say(exchange, {"msg": "ok"})
        else:
            return False
        return True

    async def unknown(self, exchange: Exchange, model: str) -> None:
        error = {"message": f"no router for requested model {model}", "type": "invalid_request_error"}
        await self.say(exchange, {"src": "llama-swap", "error": error}, 404)

    async def not_there(self, exchange: Exchange) -> None:
        await exchange.answer(404, b"404 page not found", "text/plain")

    async def generate(self, exchange: Exchange, body: JSON, *, chat: bool) -> None:
        self.running[body["model"]] = "ready"
        await super().generate(exchange, body, chat=chat)


SCRIPTED: tuple[type[Engine], ...] = (
    Engine,
    VLLM,
    OlderVLLM,
    SGLang,
    TGI,
    OlderTGI,
    LocalAI,
    LMStudio,
    OlderLMStudio,
    LiteLLM,
    OpenRouter,
    Together,
    Anthropic,
    Azure,
    Bedrock,
    Vertex,
    OllamaV1,
    LlamaCpp,
    LlamaCppRouter,
    LlamaSwap,
)
