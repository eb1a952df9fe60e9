"""Any server with an OpenAI-compatible API: requests and answers pass as the bytes they are."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

from ..deployment import Capabilities, Deployment, ModelInfo
from ..exceptions import AttemptError, FailureKind, UnsupportedParameterError
from ..transport.http import Transport
from ..types import Headers
from ..wire.call import OPERATION_PATHS, Call
from ..wire.openai import OpenAIStreamCodec, read_plain
from .base import BackendSpec, PlainAnswer
from .http import LIST_TIMEOUT_S, HTTPBackend
from .http_exchange import Exchange
from .presets import OPENAI, PRESETS, VERSION, Preset

PATHS = {operation: path for path, operation in OPERATION_PATHS.items()}

NOT_THERE = frozenset({FailureKind.MODEL_MISSING, FailureKind.MODEL_FAILED})
"""Kinds of failure by which a server says that it has no such path."""

_VERSIONED = frozenset({*OPERATION_PATHS, "/models"})


class OpenAICompatBackend(HTTPBackend):
    """Passes OpenAI-shaped traffic through: only the model's name is replaced, every other value stays its bytes.

    The preset of the spec's type says where things are. The base URL ends where `/chat/completions` begins, usually in
    `/v1`; the engine's own paths (`/health` and the like) are beside it.
    """

    type = "openai"
    capabilities = Capabilities()
    preset: Preset = OPENAI

    def __init__(self, spec: BackendSpec, transport: Transport) -> None:
        known = PRESETS.get(spec.type)
        if known is not None:
            self.preset, self.type, self.capabilities = known, known.type, known.capabilities
        super().__init__(spec, transport)
        self._base = self.preset.base_url(spec.url, spec.options)

    def base_headers(self) -> Headers:
        """Headers of every request: the preset's own, unless the configuration gives them."""
        headers = super().base_headers()
        given = {name for name, _ in headers}
        own = [(name.encode(), value.encode()) for name, value in self.preset.headers.items()]
        return [*(pair for pair in own if pair[0] not in given), *headers]

    def auth_headers(self, secret: str) -> Headers:
        """Headers that carry a key: `Authorization`, or Azure's `api-key`, where a token is a bearer's all the same."""
        if self.preset.auth == "api-key" and not _is_token(secret):
            return [(b"api-key", secret.encode())]
        return [(b"authorization", b"Bearer " + secret.encode())]

    def url_of(self, path: str) -> str:
        """Return the full URL: the API's paths below the version, the engine's own beside it."""
        below = path.partition("?")[0] in _VERSIONED
        return (self._base if below else self._base.removesuffix(VERSION)) + path

    def prepare(self, call: Call, deployment: Deployment) -> Exchange:
        """Replace the model's name, and add what `extra_fields` says."""
        return Exchange(
            path=PATHS[call.operation],
            body=call.with_model(deployment.model, self.extra_fields(call)),
            decode=self._decode,
            codec=partial(OpenAIStreamCodec, self.name, choices=_choices(call)) if call.stream else self._codec,
            ignored=self.ignored_fields(call),
        )

    def extra_fields(self, call: Call) -> dict[str, Any] | None:
        """Return members to add to a request; none by default."""
        return None

    def check(self, call: Call, deployment: Deployment) -> None:
        """Refuse the operations and the fields that it does not honour."""
        super().check(call, deployment)
        self.ignored_fields(call)

    def ignored_fields(self, call: Call) -> tuple[str, ...]:
        """Name the fields of a request that have no effect here; a null counts as absent.

        Raises `UnsupportedParameterError` (400) for one that would have an effect and has none.
        """
        rules = self.preset.fields
        if not rules.ignored and not rules.refused:
            return ()
        ignored = []
        for name in call.fields:
            if name in rules.refused and (value := call.value(name)) is not None:
                if value not in rules.refused[name]:
                    raise self.unsupported(name, "leave it out")
                ignored.append(name)
            elif name in rules.ignored and call.value(name) is not None:
                ignored.append(name)
        return tuple(ignored)

    def unsupported(self, name: str, hint: str) -> UnsupportedParameterError:
        """Return the error for a field that it would take in silence and not honour."""
        return UnsupportedParameterError(f"'{name}' has no effect at backend '{self.name}': {hint}", param=name)

    async def ping(self) -> None:
        """Raise `AttemptError` unless it answers; without a health path or a list any answer but a failure will do."""
        if self.preset.health_path is not None:
            await self.call_json("GET", self.preset.health_path)
        elif self.preset.list_path is not None:
            await self.list_models()
        else:
            try:
                await self.call_json("GET", "/models", timeout_s=LIST_TIMEOUT_S)
            except AttemptError as exc:
                if exc.kind not in NOT_THERE:
                    raise

    async def list_models(self) -> tuple[ModelInfo, ...]:
        """Read `/models`: `{"data": [...]}` or a bare list of objects with an `id`; nothing where there is no list."""
        preset = self.preset
        if preset.list_path is None:
            return ()
        try:
            listed = await self.call_json("GET", preset.list_path, timeout_s=LIST_TIMEOUT_S)
        except AttemptError as exc:
            if exc.kind not in NOT_THERE or not (preset.list_optional or preset.list_fallback):
                raise
            return () if preset.list_fallback is None else await self._only_model(preset.list_fallback)
        return tuple(model_info(entry, self.capabilities) for entry in self.entries(listed, preset.list_path))

    def entries(self, listed: Any, path: str) -> list[dict[str, Any]]:
        """Return the listed objects that have an `id`. Raises `AttemptError` when the answer is no list."""
        entries = listed.get("data") if isinstance(listed, dict) else listed
        if not isinstance(entries, list):
            raise AttemptError(
                f"backend '{self.name}' lists no models: {path.partition('?')[0]} holds neither a list nor 'data'",
                kind=FailureKind.PROTOCOL,
                code="upstream_protocol",
            )
        return [e for e in entries if isinstance(e, dict) and isinstance(e.get("id"), str) and e["id"]]

    async def _only_model(self, path: str) -> tuple[ModelInfo, ...]:
        told = await self.call_json("GET", path, timeout_s=LIST_TIMEOUT_S)
        model = told.get("model_id") if isinstance(told, dict) else None
        if not isinstance(model, str) or not model:
            return ()
        return (model_info({"id": model, "max_model_len": told.get("max_total_tokens")}, self.capabilities),)

    def _codec(self) -> OpenAIStreamCodec:
        return OpenAIStreamCodec(self.name)

    def _decode(self, body: bytes) -> PlainAnswer:
        return PlainAnswer(body=body, usage=read_plain(self.name, body))


def model_info(entry: dict[str, Any], capabilities: Capabilities) -> ModelInfo:
    """Read one listed object; what is of no known type counts as not told. vLLM and hosts tell the context's length."""
    created, owner = entry.get("created"), entry.get("owned_by")
    length = entry.get("max_model_len") or entry.get("context_length")
    is_told = isinstance(length, int) and not isinstance(length, bool) and length > 0
    return ModelInfo(
        id=entry["id"],
        created=created if isinstance(created, int) else 0,
        owned_by=owner if isinstance(owner, str) else "",
        can=dataclasses.replace(capabilities, context_length=length) if is_told else None,
    )


def _choices(call: Call) -> int:
    """Return how many answers were asked for; what is no number is the engine's to refuse."""
    n = call.value("n") if "n" in call.fields else 1
    return n if isinstance(n, int) and n > 0 else 1


def _is_token(secret: str) -> bool:
    """Tell a token (three parts of base64, the first of them JSON) from a key."""
    return secret.startswith("eyJ") and secret.count(".") == 2
