"""LM Studio: OpenAI-compatible under `/v1`, its lists and its memory under `/api`."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..deployment import Capabilities, LoadedModel, ModelInfo
from ..exceptions import AttemptError, FailureKind
from ..wire.call import Call
from .http import LIST_TIMEOUT_S
from .openai_compat import NOT_THERE, OpenAICompatBackend
from .residency import LOAD_TIMEOUT_S, UNLOAD_TIMEOUT_S, load_failure, until_gone

MODELS = "/api/v1/models"
OLDER_MODELS = "/api/v0/models"


class LMStudioBackend(OpenAICompatBackend):
    """One LM Studio server. Releases without `/api/v1` tell what is loaded, but cannot be told to load or unload.

    `options: {ttl: 10m}`, else a positive `keep_alive`, is how long a model stays that a request made it load.
    """

    type = "lmstudio"
    is_settled = False
    """Whether it is known that it can be told to load and unload, or that it cannot: told where deployments are made
    anew after it."""

    async def settle(self) -> None:
        """Find out whether it can be told to load and unload. Raises `AttemptError` if it cannot be told now."""
        await self.list_models()

    def extra_fields(self, call: Call) -> dict[str, Any] | None:
        """Add `ttl`, in whole seconds, unless the client gives its own."""
        ttl_s = self.spec.options.get("ttl") or self.spec.keep_alive_s
        if not ttl_s or ttl_s <= 0 or "ttl" in call.fields:
            return None
        return {"ttl": max(1, round(ttl_s))}

    async def list_models(self) -> tuple[ModelInfo, ...]:
        """Read all downloaded models, loaded or not."""
        rows, current = await self._list()
        self.capabilities = dataclasses.replace(self.capabilities, can_load=current)
        self.is_settled = True
        return tuple(_model_info(row, self.capabilities) for row in rows)

    async def running(self) -> tuple[LoadedModel, ...]:
        """Read which models have an instance in memory."""
        return tuple(LoadedModel(id=row["id"]) for row in await self._rows() if _is_loaded(row))

    async def load(self, model: str) -> None:
        """Load, unless it is in memory: a second instance would be made of one that is."""
        if any(loaded.id == model for loaded in await self.running()):
            return
        payload: dict[str, Any] = {"model": model}
        num_ctx = self.spec.model_num_ctx.get(model, self.spec.num_ctx)
        if num_ctx is not None:
            payload["context_length"] = num_ctx
        try:
            await self.call_json("POST", f"{MODELS}/load", payload, timeout_s=LOAD_TIMEOUT_S)
        except AttemptError as exc:
            raise load_failure(exc) from exc

    async def unload(self, model: str) -> None:
        """Unload every instance of a model; returns when none is listed any more."""
        for instance in await self._instances(model):
            try:
                await self.call_json("POST", f"{MODELS}/unload", {"instance_id": instance}, timeout_s=UNLOAD_TIMEOUT_S)
            except AttemptError as exc:
                if exc.kind not in NOT_THERE:  # gone in the meantime
                    raise

        async def holds() -> bool:
            return bool(await self._instances(model))

        await until_gone(self.name, model, holds)

    async def _instances(self, model: str) -> list[str]:
        return [
            instance["id"]
            for row in await self._rows()
            if row["id"] == model
            for instance in row.get("loaded_instances") or ()
            if isinstance(instance, dict) and isinstance(instance.get("id"), str)
        ]

    async def _rows(self) -> list[dict[str, Any]]:
        rows, _ = await self._list()
        return rows

    async def _list(self) -> tuple[list[dict[str, Any]], bool]:
        """Return the listed models, each with its name under `id`, and whether the list is of the newer form."""
        rows, name, current = await self._listed_at(MODELS, "models"), "key", True
        if rows is None:
            rows, name, current = await self._listed_at(OLDER_MODELS, "data"), "id", False
        if not isinstance(rows, list):
            raise AttemptError(
                f"backend '{self.name}' lists no models: neither {MODELS} nor {OLDER_MODELS} holds a list",
                kind=FailureKind.PROTOCOL,
                code="upstream_protocol",
            )
        return [
            {**row, "id": row[name]}
            for row in rows
            if isinstance(row, dict) and isinstance(row.get(name), str) and row[name]
        ], current

    async def _listed_at(self, path: str, key: str) -> Any:
        """Return what is listed under a path; None where there is no such path, which it also says under 200."""
        try:
            told = await self.call_json("GET", path, timeout_s=LIST_TIMEOUT_S)
        except AttemptError as exc:
            if exc.kind not in NOT_THERE:
                raise
            return None
        rows = told.get(key) if isinstance(told, dict) else None
        return rows if isinstance(rows, list) else None


def _is_loaded(row: dict[str, Any]) -> bool:
    return bool(row.get("loaded_instances")) or row.get("state") == "loaded"


def _loaded_context(row: dict[str, Any]) -> int:
    """Return the context with which a model is loaded now, the longest if there are several; 0 when it is not."""
    configs = [one.get("config") for one in row.get("loaded_instances") or () if isinstance(one, dict)]
    lengths = [config.get("context_length") for config in configs if isinstance(config, dict)]
    return max((length for length in lengths if isinstance(length, int)), default=0)


def _model_info(row: dict[str, Any], capabilities: Capabilities) -> ModelInfo:
    size = row.get("size_bytes")
    told = row.get("capabilities")
    told = told if isinstance(told, dict) else {}
    length = _loaded_context(row) or row.get("max_context_length")
    embeds = row.get("type") in ("embedding", "embeddings")
    return ModelInfo(
        id=row["id"],
        owned_by=owner if isinstance(owner := row.get("publisher"), str) else "",
        size_bytes=size if isinstance(size, int) and size > 0 else None,
        capabilities=tuple(name for name, able in told.items() if able),
        can=dataclasses.replace(
            capabilities,
            chat=not embeds,
            completions=not embeds,
            vision=told.get("vision") is not False,
            context_length=length if isinstance(length, int) and length > 0 else None,
        ),
    )
