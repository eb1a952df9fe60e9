"""The `backends` section: one entry for each engine server."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from ..backends.presets import PRESETS
from .fields import (
    Count,
    DeviceId,
    HeaderName,
    HeaderValue,
    Name,
    PositiveBytes,
    Problem,
    SecondsOrForever,
    SecretText,
    Section,
    did_you_mean,
    is_unset,
    lowered,
    refuse,
)
from .options import read_options

DEFAULT_URLS = {
    "ollama": "http://localhost:11434",
    "llama.cpp": "http://localhost:8080",
    "llama-swap": "http://localhost:8080",
    **{name: preset.base_url("", {}) for name, preset in PRESETS.items()},
}
"""Where each built-in engine is looked for when its URL is not given; empty: it has to be told."""

BUILT_IN_TYPES = (*DEFAULT_URLS, "auto")


def parse_base_url(value: object) -> str:
    """Return an http(s) base URL without its trailing slash; raise `ValueError` saying what would be right."""
    expected = "expected a URL such as http://127.0.0.1:11434"
    if not isinstance(value, str):
        raise ValueError(expected)
    text = value.strip()
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"{expected}; the host or port of this one cannot be read") from None
    if parts.scheme.lower() not in ("http", "https") or "://" not in text:
        raise ValueError(f"{expected}; it starts with http:// or https://")
    if not host or any(character.isspace() or not character.isprintable() for character in text):
        raise ValueError(f"{expected}; this one has no usable host")
    if "@" in parts.netloc:
        raise ValueError(f"{expected}; credentials do not belong in it: use api_keys or headers")
    if parts.query or parts.fragment:
        raise ValueError(f"{expected}; it takes no query and no fragment")
    return text.rstrip("/")


def _gated(value: object) -> object:
    text = value.strip().lower() if isinstance(value, str) else value
    known = {"auto": "auto", "true": True, "false": False, True: True, False: False}
    if isinstance(text, str | bool) and text in known:
        return known[text]
    raise ValueError("expected auto, true or false")


def _one_or_more(value: object) -> object:
    if isinstance(value, list | tuple):
        return [item for item in value if not is_unset(item)]
    return [value]


BaseUrl: TypeAlias = Annotated[
    str, BeforeValidator(parse_base_url), WithJsonSchema({"type": "string", "format": "uri"})
]
ApiKeys: TypeAlias = Annotated[tuple[SecretText, ...], BeforeValidator(_one_or_more)]
Gated: TypeAlias = Annotated[
    Literal["auto"] | bool, PlainValidator(_gated), WithJsonSchema({"enum": ["auto", True, False]})
]


class BackendSettings(Section):
    """One engine server: what speaks there, where, with which keys and limits."""

    type: Annotated[Name, AfterValidator(str.lower)]
    """`ollama`, `llama.cpp`, `llama-swap`, `openai` (any server with its API), `vllm`, `sglang`, `tgi`, `localai`,
    `lmstudio`, `litellm`, `openrouter`, `together`, `anthropic`, `azure`, `bedrock`, `vertex`, `auto` (asked at start),
    or the type of a custom backend."""
    base_url: BaseUrl = Field(default="", validation_alias=AliasChoices("url", "base_url"))
    """No trailing slash. The engine's root for `ollama`, `llama.cpp` and `llama-swap` (a trailing `/v1` is taken off);
    the folder of the API (`.../v1`) for the others, put on if it is missing (`openai` and `vertex` take the address as
    it is). The type's usual address when not given; empty for a custom type without one."""
    api_keys: ApiKeys = Field(default=(), validation_alias=AliasChoices("api_keys", "api_key"))
    model_prefix: str = ""
    """Put before names sent upstream, never doubled; taken off when listing."""
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict)
    """Sent with every request upstream."""
    keep_alive_s: SecondsOrForever | None = Field(default=None, alias="keep_alive")
    """How long the engine keeps an idle model. Not set and -1 both mean that the gate decides; 0 unloads at once."""
    num_ctx: Count | None = None
    """Context length, in tokens, with which the engine loads its models."""
    kv_type: Annotated[Literal["f16", "q8_0", "q4_0"], BeforeValidator(lowered)] = "f16"
    """Type of the cache it keeps of prompts (`OLLAMA_KV_CACHE_TYPE`, `--cache-type-k`): no engine tells it, and what a
    model needs depends on it."""
    max_parallel: Count | None = None
    """Requests at a time, over all its models."""
    gated: Gated = "auto"
    """Whether its models need a lease on GPU memory; `auto`: those of engines that load and unload, on this
    machine, or anywhere with a budget: its own `vram`, or `vram.max_total`."""
    devices: tuple[DeviceId, ...] = ()
    """Indices or UUIDs of the GPUs it uses; none listed: all."""
    split: bool | None = None
    """Whether it spreads one model over its devices; not set: as engines of its type do."""
    vram_bytes: PositiveBytes | None = Field(default=None, alias="vram")
    """GPU memory of the machine it runs on, where that is another one: a budget of its own."""
    options: dict[str, Any] = Field(default_factory=dict, repr=False)
    """What a custom backend type takes. Of the built-in ones, `bedrock` takes `region`, `vertex` `project` and
    `location` (they make the address), `lmstudio` `ttl`, `vllm` `sleep_level`."""

    @property
    def custom(self) -> bool:
        """Whether the type is none of the built-in ones."""
        return self.type not in BUILT_IN_TYPES

    @model_validator(mode="before")
    @classmethod
    def _one_spelling(cls, data: Any) -> Any:
        if isinstance(data, dict):
            refuse(
                Problem(path=(second,), message=f"the same as {first}: write only one of them")
                for first, second in (("url", "base_url"), ("api_keys", "api_key"))
                if not is_unset(data.get(first)) and not is_unset(data.get(second))
            )
        return data

    @model_validator(mode="after")
    def _type_and_address(self) -> Self:
        problems = []
        if self.custom:
            hint = did_you_mean(self.type, BUILT_IN_TYPES, cutoff=0.8)
            if hint and "options" not in self.model_fields_set:
                message = f"unknown backend type{hint} (a custom type with a name so close needs `options: {{}}`)"
                problems.append(Problem(path=("type",), value=self.type, message=message))
        elif "options" in self.model_fields_set:
            preset = PRESETS.get(self.type)
            options, problems = read_options(self.type, self.options, preset.options if preset is not None else ())
            object.__setattr__(self, "options", options)
        if not problems:
            object.__setattr__(self, "base_url", _address(self.type, self.base_url, self.options))
        if not self.custom and not self.base_url and not problems:
            problems.append(Problem(path=("url",), message=_no_address(self.type)))
        refuse(problems)
        return self


def _address(engine: str, url: str, options: Mapping[str, Any]) -> str:
    preset = PRESETS.get(engine)
    if preset is not None:
        return preset.base_url(url, options)
    if not url:
        return DEFAULT_URLS.get(engine, "")
    # People paste the OpenAI address of a local engine; its adapter adds the version itself.
    return url.removesuffix("/v1") if engine in DEFAULT_URLS else url


def _no_address(engine: str) -> str:
    if engine == "auto":
        return "missing: type auto needs to know which address to ask"
    needed = PRESETS[engine].missing({})
    options = f", or options.{needed[0]}, which it is made of" if needed else ""
    return f"missing: type {engine} has no usual address{options}"
