"""What is known of each OpenAI-compatible server, as data: its address, its paths, its key's header, its limits.

Behaviour that is more than data has a class of its own beside this module; the registry says which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ..deployment import Capabilities

AuthStyle: TypeAlias = Literal["bearer", "api-key"]

VERSION = "/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRules:
    """Fields of a request that a server takes in silence and does nothing with. A null always counts as absent."""

    ignored: frozenset[str] = frozenset()
    """Those without effect on the answer: they go up and are listed as ignored."""
    refused: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Those that would change the answer: refused (400), but for these values, which ask for what it does anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One kind of OpenAI-compatible server."""

    type: str
    url: str = ""
    """Where it is looked for when no address is given; `{region}` and the like come from the backend's options."""
    version: str = VERSION
    """How the path of the API ends; put after an address that lacks it, never twice. Empty: the address is complete."""
    list_path: str | None = "/models"
    """Where it lists its models, below the version; None: it cannot, so only configured models are asked for."""
    list_fallback: str | None = None
    """Where it tells of its one model, beside the version, when it has no list."""
    list_optional: bool = False
    """Whether an answer that there is no list means that there is nothing to discover."""
    health_path: str | None = None
    """What to ask to see whether it is up; None: the list."""
    auth: AuthStyle = "bearer"
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with every request."""
    capabilities: Capabilities = field(default_factory=Capabilities)
    fields: FieldRules = field(default_factory=FieldRules)
    """What becomes of request fields that it does not honour; every other one passes."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options it takes in the configuration, each with its default; an empty default: none."""

    def base_url(self, url: str, options: Mapping[str, Any]) -> str:
        """Return the folder of its API: the given address with the version put on, else its usual one.

        Empty when neither the address nor the options that it is made of are given. Idempotent.
        """
        if url:
            url = url.rstrip("/")
            if not self.version or url.endswith(VERSION):
                return url
            return url.removesuffix(self.version.removesuffix(VERSION)) + self.version
        given = {name: options.get(name) or default for name, default in self.options.items()}
        return "" if self.missing(options) else self._usual(given)

    def missing(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Name the options that have to be given when the address is not."""
        return tuple(n for n, default in self.options.items() if f"{{{n}}}" in self.url and not options.get(n, default))

    def _usual(self, given: Mapping[str, Any]) -> str:
        if given.get("location") == "global":  # the one location that is no part of the host's name
            return self.url.replace("{location}-", "").format(**given)
        return self.url.format(**given)


_ANTHROPIC_FIELDS = FieldRules(
    ignored=frozenset(
        {
            "metadata",
            "prediction",
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "safety_identifier",
            "service_tier",
            "store",
            "user",
        }
    ),
    refused={
        "audio": (),
        "frequency_penalty": (0,),
        "logit_bias": ({},),
        "logprobs": (False,),
        "modalities": (["text"],),
        "n": (1,),
        "presence_penalty": (0,),
        "reasoning_effort": (),
        "response_format": ({"type": "text"},),
        "seed": (),
        "top_logprobs": (0,),
        "moderation": (),
        "verbosity": ("medium",),
        "web_search_options": (),
    },
)
"""The table of Anthropic's page on compatibility with OpenAI's SDK: what is "ignored" there, `n`, and the fields of
OpenAI's description that the page does not know: those are taken in silence, so they are told here."""


def _by_type(presets: Iterable[Preset]) -> dict[str, Preset]:
    return {preset.type: preset for preset in presets}


OPENAI = Preset(type="openai", url="https://api.openai.com/v1", version="")
"""Any other server too: its address is taken as it is."""

PRESETS: Mapping[str, Preset] = _by_type(
    (
        OPENAI,
        Preset(
            type="vllm",
            url="http://localhost:8000/v1",
            health_path="/health",
            options={"sleep_level": ""},
        ),
        Preset(type="sglang", url="http://localhost:30000/v1", health_path="/health"),
        Preset(type="tgi", url="http://localhost:3000/v1", list_fallback="/info", health_path="/info"),
        Preset(
            type="localai",
            url="http://localhost:8080/v1",
            capabilities=Capabilities(
                can_load=True, can_report_loaded=True, can_report_idle=True, loads_on_demand=True
            ),
        ),
        Preset(
            type="lmstudio",
            url="http://localhost:1234/v1",
            capabilities=Capabilities(can_load=True, can_report_loaded=True, loads_on_demand=True),
            options={"ttl": ""},
        ),
        # Its `/health` calls every model, which costs money: it is never asked.
        Preset(type="litellm", url="http://localhost:4000/v1", health_path="/health/liveliness"),
        Preset(type="openrouter", url="https://openrouter.ai/api/v1"),
        Preset(type="together", url="https://api.together.xyz/v1"),
        Preset(
            type="anthropic",
            url="https://api.anthropic.com/v1",
            headers={"anthropic-version": "2023-06-01"},
            capabilities=Capabilities(completions=False, embeddings=False),
            fields=_ANTHROPIC_FIELDS,
        ),
        # Its list is of what could be deployed; what is deployed has names of the owner's own.
        Preset(type="azure", version="/openai/v1", list_path=None, health_path="/models", auth="api-key"),
        Preset(
            type="bedrock",
            capabilities=Capabilities(completions=False, embeddings=False),
            url="https://bedrock-runtime.{region}.amazonaws.com/openai/v1",
            version="/openai/v1",
            list_optional=True,
            options={"region": ""},
        ),
        Preset(
            type="vertex",
            capabilities=Capabilities(completions=False, embeddings=False),
            url="https://{location}-aiplatform.googleapis.com/v1/projects/{project}/locations/{location}"
            "/endpoints/openapi",
            version="",
            list_path=None,
            options={"project": "", "location": "global"},
        ),
    )
)
"""By the `type` of the configuration."""
