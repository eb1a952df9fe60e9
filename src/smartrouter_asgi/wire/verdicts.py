"""What becomes of each field of a chat-completions request, for each family of engines: data, and how to look it up.

A field passes (its bytes reach the engine unchanged), is translated, is refused (400, `param` names it) or is ignored
(accepted, and listed in `x-smartrouter-ignored`, for it has no effect on the answer); where that depends on the value,
each case says so. The tables decide nothing: the backends do, and `tests/test_verdicts.py` holds the one against the
other. The fields are those of OpenAI's OpenAPI description of August 2026 (`CreateChatCompletionRequest`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType


class Verdict(Enum):
    """What becomes of a field."""

    PASSES = "passes"
    TRANSLATED = "translated"
    REFUSED = "refused"
    IGNORED = "ignored"
    DEPENDS = "depends"
    """On the value, or on other fields: its cases say how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One value of a field and what becomes of it. Values are JSON, as they stand in a body."""

    verdict: Verdict
    value: str
    when: str = ""
    """The rule that this value stands for, in words; empty where every value fares alike."""
    becomes: str = "{}"
    """Members of the engine's request that a translated value is found in; null: the member is not sent."""
    beside: Mapping[str, str] = field(default_factory=dict)
    """Other fields that belong to the rule."""
    ignores: tuple[str, ...] = ()
    """Parts of the value that are listed as ignored although the field itself is not."""
    thinks: bool | None = None
    """Whether the engine lists the model as one that thinks; None: it lists no capabilities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The verdict on one field, in all its cases (at least one)."""

    cases: tuple[Case, ...]
    note: str = ""
    """What a user should know, in Markdown."""

    @property
    def verdict(self) -> Verdict:
        """The verdict on every value, or `DEPENDS`."""
        found = {case.verdict for case in self.cases}
        return found.pop() if len(found) == 1 else Verdict.DEPENDS


_USER = '{"role":"user","content":"Hi"}'
_TOOL = '{"type":"function","function":{"name":"weather","parameters":{"type":"object"}}}'
_OTHER = '{"type":"function","function":{"name":"time"}}'
_TOOLS = f"[{_TOOL},{_OTHER}]"
_WITH_TOOLS: Mapping[str, str] = MappingProxyType({"tools": _TOOLS})
_STRICT = '{"type":"function","function":{"name":"time","strict":true}}'
_CUSTOM = '{"type":"custom","custom":{"name":"sql"}}'
_NAMED = '{"type":"function","function":{"name":"weather"}}'
_SPOKEN = '{"type":"input_audio","input_audio":{"data":"AA==","format":"wav"}}'
_FILE = '{"type":"file","file":{"file_id":"f"}}'
_BY_NAME = '[{"role":"user","name":"a","content":"Hi"}]'
_SCHEMA = '{"type":"object","properties":{"a":{"type":"integer"}}}'
_PNG = "iVBORw0KGgo="


def _part(part: str) -> str:
    return f'[{{"role":"user","content":[{part}]}}]'


def _image(url: str) -> str:
    return _part(f'{{"type":"image_url","image_url":{{"url":"{url}"}}}}')


VALUES: Mapping[str, str] = MappingProxyType(
    {
        "model": '"asked"',
        "messages": f"[{_USER}]",
        "audio": '{"voice":"alloy","format":"wav"}',
        "frequency_penalty": "-1.5",
        "function_call": '"auto"',
        "functions": '[{"name":"weather"}]',
        "logit_bias": '{"50256":-100}',
        "logprobs": "true",
        "max_completion_tokens": "60",
        "max_tokens": "50",
        "metadata": '{"team":"a"}',
        "modalities": '["text","audio"]',
        "moderation": '{"model":"omni-moderation-latest"}',
        "n": "2",
        "parallel_tool_calls": "false",
        "prediction": '{"type":"content","content":"Hi"}',
        "presence_penalty": "0.25",
        "prompt_cache_key": '"k"',
        "prompt_cache_options": '{"mode":"explicit"}',
        "prompt_cache_retention": '"24h"',
        "reasoning_effort": '"low"',
        "response_format": '{"type":"json_object"}',
        "safety_identifier": '"someone"',
        "seed": "7",
        "service_tier": '"flex"',
        "stop": '["END","###"]',
        "store": "true",
        "stream": "true",
        "stream_options": '{"include_usage":true}',
        "temperature": "0.5",
        "tool_choice": '"auto"',
        "tools": _TOOLS,
        "top_logprobs": "3",
        "top_p": "0.75",
        "user": '"someone"',
        "verbosity": '"low"',
        "web_search_options": '{"search_context_size":"low"}',
    }
)
"""Every field, with a value that a client might send."""

_BESIDE: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "tool_choice": _WITH_TOOLS,
        "parallel_tool_calls": _WITH_TOOLS,
        "top_logprobs": {"logprobs": "true"},
        "stream_options": {"stream": "true"},
        "functions": {"function_call": '"auto"'},
        "function_call": {"functions": '[{"name":"weather"}]'},
        "audio": {"modalities": '["text","audio"]'},
    }
)
"""Fields that another one needs to make sense."""


def _rule(verdict: Verdict, name: str, note: str = "", becomes: str = "{}") -> Rule:
    case = Case(verdict=verdict, value=VALUES[name], becomes=becomes, beside=_BESIDE.get(name, {}))
    return Rule(cases=(case,), note=note)


def _passes(name: str, note: str = "") -> Rule:
    return _rule(Verdict.PASSES, name, note)


def _refused(name: str, note: str) -> Rule:
    return Rule(cases=(Case(verdict=Verdict.REFUSED, value=VALUES[name]),), note=note)


def _ignored(name: str, note: str = "serves accounts, caches or speed, not the answer") -> Rule:
    return _rule(Verdict.IGNORED, name, note)


def _option(name: str, option: str = "") -> Rule:
    note = f"`options.{option}`" if option else "the same name in `options`"
    option = option or name
    return _rule(Verdict.TRANSLATED, name, note, f'{{"options":{{"{option}":{VALUES[name]}}}}}')


def _only(name: str, plain: str, when: str, note: str = "") -> Rule:
    """Return the rule of a field of which only one value can be honoured: the one that has no effect."""
    return Rule(
        cases=(
            Case(verdict=Verdict.IGNORED, value=plain, when=when),
            Case(verdict=Verdict.REFUSED, value=VALUES[name], when="any other"),
        ),
        note=note,
    )


PASS_THROUGH: Mapping[str, Rule] = MappingProxyType(
    {
        **{name: _passes(name) for name in VALUES},
        "model": _rule(Verdict.TRANSLATED, "model", "the engine's own name for the model", '{"model":"upstream"}'),
    }
)
"""Engines that speak OpenAI's API: what they make of a field is theirs to say."""

OLLAMA: Mapping[str, Rule] = MappingProxyType(
    {
        "model": PASS_THROUGH["model"],
        "messages": Rule(
            note="http(s) images are not fetched: send data URIs",
            cases=(
                Case(
                    verdict=Verdict.TRANSLATED,
                    when="roles, text, data-URI images, tool calls and results, `reasoning_content`",
                    value=_image(f"data:image/png;base64,{_PNG}"),
                    becomes=f'{{"messages":[{{"role":"user","content":"","images":["{_PNG}"]}}]}}',
                ),
                Case(
                    verdict=Verdict.TRANSLATED,
                    value='[{"role":"developer","name":"a","content":[{"type":"text","text":"Be brief."}]}]',
                    becomes='{"messages":[{"role":"system","content":"Be brief."}]}',
                    ignores=("messages.name",),
                ),
                Case(verdict=Verdict.REFUSED, when="image URLs", value=_image("https://example.com/a.png")),
                Case(verdict=Verdict.REFUSED, when="audio", value=_part(_SPOKEN)),
                Case(verdict=Verdict.REFUSED, when="files", value=_part(_FILE)),
                Case(
                    verdict=Verdict.REFUSED,
                    when="`function_call`",
                    value='[{"role":"assistant","function_call":{"name":"f","arguments":"{}"}}]',
                ),
            ),
        ),
        "audio": _refused("audio", "no audio output"),
        "frequency_penalty": _option("frequency_penalty"),
        "function_call": _refused("function_call", "use `tool_choice`"),
        "functions": _refused("functions", "use `tools`"),
        "logit_bias": _only("logit_bias", "{}", "`{}`", "no token biases"),
        "logprobs": _passes("logprobs"),
        "max_completion_tokens": _option("max_completion_tokens", "num_predict"),
        "max_tokens": Rule(
            note="`options.num_predict`",
            cases=(
                Case(verdict=Verdict.TRANSLATED, when="alone", value="50", becomes='{"options":{"num_predict":50}}'),
                Case(
                    verdict=Verdict.IGNORED,
                    when="beside `max_completion_tokens`",
                    value="50",
                    beside={"max_completion_tokens": "60"},
                ),
            ),
        ),
        "metadata": _ignored("metadata"),
        "modalities": _only("modalities", '["text"]', '`["text"]`', "text only"),
        "moderation": _refused("moderation", "it moderates nothing"),
        "n": _only("n", "1", "`1`", "one answer"),
        "parallel_tool_calls": Rule(
            note="a model calls as many tools as it likes",
            cases=(
                Case(verdict=Verdict.IGNORED, when="`true`", value="true", beside=_WITH_TOOLS),
                Case(verdict=Verdict.IGNORED, when="`false` without tools", value="false"),
                Case(verdict=Verdict.REFUSED, when="`false` with tools", value="false", beside=_WITH_TOOLS),
            ),
        ),
        "prediction": _ignored("prediction"),
        "presence_penalty": _option("presence_penalty"),
        "prompt_cache_key": _ignored("prompt_cache_key"),
        "prompt_cache_options": _ignored("prompt_cache_options"),
        "prompt_cache_retention": _ignored("prompt_cache_retention"),
        "reasoning_effort": Rule(
            note="`think`",
            cases=(
                Case(
                    verdict=Verdict.TRANSLATED,
                    when="the model thinks",
                    value='"low"',
                    thinks=True,
                    becomes='{"think":"low"}',
                ),
                Case(verdict=Verdict.TRANSLATED, value='"none"', becomes='{"think":false}'),
                Case(verdict=Verdict.TRANSLATED, value='"xhigh"', becomes='{"think":"max"}'),
                Case(verdict=Verdict.IGNORED, when="it does not", value='"low"', thinks=False),
            ),
        ),
        "response_format": Rule(
            note="`format`",
            cases=(
                Case(verdict=Verdict.TRANSLATED, value='{"type":"text"}', becomes='{"format":null}'),
                Case(verdict=Verdict.TRANSLATED, value='{"type":"json_object"}', becomes='{"format":"json"}'),
                Case(
                    verdict=Verdict.TRANSLATED,
                    value=f'{{"type":"json_schema","json_schema":{{"name":"a","strict":true,"schema":{_SCHEMA}}}}}',
                    becomes=f'{{"format":{_SCHEMA}}}',
                    ignores=("response_format.json_schema.name", "response_format.json_schema.strict"),
                ),
            ),
        ),
        "safety_identifier": _ignored("safety_identifier"),
        "seed": _option("seed"),
        "service_tier": _ignored("service_tier"),
        "stop": Rule(
            note="`options.stop`",
            cases=(
                Case(verdict=Verdict.TRANSLATED, value='"END"', becomes='{"options":{"stop":["END"]}}'),
                Case(verdict=Verdict.TRANSLATED, value='["END","###"]', becomes='{"options":{"stop":["END","###"]}}'),
            ),
        ),
        "store": _ignored("store"),
        "stream": _passes("stream", "its lines become events"),
        "stream_options": Rule(
            note="`include_usage` adds the chunk with the token counts",
            cases=(
                Case(
                    verdict=Verdict.TRANSLATED,
                    when="with `stream`",
                    value='{"include_usage":true,"include_obfuscation":false}',
                    beside={"stream": "true"},
                    ignores=("stream_options.include_obfuscation",),
                ),
                Case(verdict=Verdict.IGNORED, when="without", value='{"include_usage":true}'),
            ),
        ),
        "temperature": _option("temperature"),
        "tool_choice": Rule(
            note="`none`: no tools are sent; `required`: the answer must call one; a named one: only that is sent, and"
            " must be called",
            cases=(
                Case(verdict=Verdict.TRANSLATED, value='"auto"', becomes=f'{{"tools":{_TOOLS}}}', beside=_WITH_TOOLS),
                Case(verdict=Verdict.TRANSLATED, value='"none"', becomes='{"tools":null}', beside=_WITH_TOOLS),
                Case(
                    verdict=Verdict.TRANSLATED, value='"required"', becomes=f'{{"tools":{_TOOLS}}}', beside=_WITH_TOOLS
                ),
                Case(verdict=Verdict.TRANSLATED, value=_NAMED, becomes=f'{{"tools":[{_TOOL}]}}', beside=_WITH_TOOLS),
            ),
        ),
        "tools": Rule(
            note="`strict` is listed as ignored",
            cases=(
                Case(
                    verdict=Verdict.TRANSLATED,
                    when="functions",
                    value=f"[{_STRICT}]",
                    becomes=f'{{"tools":[{_OTHER}]}}',
                    ignores=("tools.function.strict",),
                ),
                Case(verdict=Verdict.REFUSED, when="custom tools", value=f"[{_CUSTOM}]"),
            ),
        ),
        "top_logprobs": _passes("top_logprobs"),
        "top_p": _option("top_p"),
        "user": _ignored("user"),
        "verbosity": _only("verbosity", '"medium"', '`"medium"`', "ask for it in a message"),
        "web_search_options": _refused("web_search_options", "it searches nothing"),
    }
)
"""Ollama's native API."""


ANTHROPIC: Mapping[str, Rule] = MappingProxyType(
    {
        **{
            name: _ignored(name)
            for name in (
                "metadata",
                "prediction",
                "prompt_cache_key",
                "prompt_cache_options",
                "prompt_cache_retention",
                "safety_identifier",
                "service_tier",
                "store",
                "user",
            )
        },
        **{
            name: _refused(name, "no effect there")
            for name in ("audio", "moderation", "reasoning_effort", "seed", "web_search_options")
        },
        "verbosity": _only("verbosity", '"medium"', '`"medium"`'),
        "frequency_penalty": _only("frequency_penalty", "0", "`0`"),
        "logit_bias": _only("logit_bias", "{}", "`{}`"),
        "logprobs": _only("logprobs", "false", "`false`"),
        "messages": Rule(
            cases=(
                Case(verdict=Verdict.PASSES, when="text, images, tools", value=_image("https://example.com/a.png")),
                Case(verdict=Verdict.PASSES, value=_BY_NAME, ignores=("messages.name",)),
                Case(verdict=Verdict.REFUSED, when="audio", value=_part(_SPOKEN)),
                Case(verdict=Verdict.REFUSED, when="files", value=_part(_FILE)),
            )
        ),
        "modalities": _only("modalities", '["text"]', '`["text"]`'),
        "n": _only("n", "1", "`1`"),
        "presence_penalty": _only("presence_penalty", "0", "`0`"),
        "response_format": _only("response_format", '{"type":"text"}', "`text`"),
        "stop": Rule(
            cases=(
                Case(verdict=Verdict.PASSES, when="text", value=VALUES["stop"]),
                Case(verdict=Verdict.REFUSED, when="blanks alone", value='[" "]'),
            )
        ),
        "temperature": Rule(
            cases=(
                Case(verdict=Verdict.PASSES, when="up to 1", value=VALUES["temperature"]),
                Case(verdict=Verdict.REFUSED, when="above, where it is capped", value="1.5"),
            )
        ),
        "tools": Rule(
            note="`strict` is listed as ignored",
            cases=(Case(verdict=Verdict.PASSES, value=f"[{_STRICT}]", ignores=("tools.function.strict",)),),
        ),
        "top_logprobs": _only("top_logprobs", "0", "`0`"),
    }
)
"""What Anthropic's endpoint for OpenAI's clients takes and does nothing with; the rest passes."""


LACKING: Mapping[str, tuple[str, Case]] = MappingProxyType(
    {
        "tools": ("tools", Case(verdict=Verdict.REFUSED, when="`tools`", value=_TOOLS)),
        "vision": (
            "messages",
            Case(verdict=Verdict.REFUSED, when="images", value=_image(f"data:image/png;base64,{_PNG}")),
        ),
        "json_schema": (
            "response_format",
            Case(
                verdict=Verdict.REFUSED,
                when="`json_schema`",
                value=f'{{"type":"json_schema","json_schema":{{"name":"a","schema":{_SCHEMA}}}}}',
            ),
        ),
    }
)
"""What a model that is known to lack a capability refuses, whichever its engine: the field and a value of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A backend type as the README shows it."""

    summary: str
    """What it does, in Markdown."""
    differs: Mapping[str, Rule] = field(default_factory=dict)
    """Rules of its own, before those of its family."""
    family: str = "pass-through"


FAMILIES: Mapping[str, Mapping[str, Rule]] = MappingProxyType({"ollama": OLLAMA, "pass-through": PASS_THROUGH})
"""The rules for every field, by family of engines."""

ENGINES: Mapping[str, Engine] = MappingProxyType(
    {
        "ollama": Engine(
            family="ollama",
            summary="native API: chat, completions, embeddings, tools, thinking, images, JSON schema; loads and"
            " unloads, so it can be gated",
        ),
        "llama.cpp": Engine(
            summary="llama-server, of one model or a router over many, which loads and unloads; its loading 503 is"
            " retried, its context overflow becomes `context_length_exceeded`"
        ),
        "llama-swap": Engine(summary="llama-swap; lists what runs, loads and unloads"),
        "openai": Engine(summary="OpenAI, and any other server with its API"),
        "vllm": Engine(summary="vLLM; where it was started to, it sleeps and wakes as unload and load"),
        "sglang": Engine(summary="SGLang"),
        "tgi": Engine(summary="Text Generation Inference"),
        "localai": Engine(summary="LocalAI; loads and unloads"),
        "lmstudio": Engine(summary="LM Studio; loads and unloads"),
        "litellm": Engine(summary="a LiteLLM proxy; its `/health`, which calls every model, is never asked"),
        "openrouter": Engine(summary="OpenRouter"),
        "together": Engine(summary="Together AI"),
        "anthropic": Engine(
            summary="Anthropic's endpoint for OpenAI's clients: chat; what it ignores is refused or listed",
            differs=ANTHROPIC,
        ),
        "azure": Engine(summary="Azure OpenAI's v1 path; a model is named as its deployment there"),
        "bedrock": Engine(summary="Amazon Bedrock's path for OpenAI's clients"),
        "vertex": Engine(summary="Vertex AI's path for OpenAI's clients"),
    }
)
"""What each backend type speaks. A type that is not here passes everything through, as `openai` does."""

_UNNAMED = Engine(summary="any server with OpenAI's API")


def rule_of(backend_type: str, name: str) -> Rule | None:
    """Return the rule for a field of a chat-completions request at a backend type.

    None for a field outside OpenAI's description: `ollama` takes those that it has itself and refuses all others, the
    other types pass them on.
    """
    engine = ENGINES.get(backend_type, _UNNAMED)
    return engine.differs.get(name) or FAMILIES[engine.family].get(name)


def verdict_of(backend_type: str, name: str) -> Verdict | None:
    """Return the verdict on a field at a backend type; None as in `rule_of`."""
    rule = rule_of(backend_type, name)
    return None if rule is None else rule.verdict
