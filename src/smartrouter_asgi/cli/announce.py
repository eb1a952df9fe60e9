"""The lines that `serve` prints once it listens: what it found, the memory it shares out, and a request to try."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING

from ..routing.resolver import resolve
from .memory import memory_report
from .output import columns, counted
from .survey import BackendReport, Survey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..app import SmartRouter
    from ..deployment import ModelInfo
    from .lookaround import Found
    from .output import Screen

_NOT_FOR_CHAT = re.compile(
    r"embed|bge-|minilm|rerank|whisper|tts|transcribe|dall-e|image|sora|moderation|realtime|davinci|babbage",
    re.IGNORECASE,
)

_STATE_WORDS = {"up": "up", "down": "down", "silent": "waiting"}
_STATE_STYLES = {"up": "green", "down": "yellow", "silent": "yellow"}


def announce_engines(screen: Screen, found: Sequence[Found], ports: Sequence[int], kept: str) -> None:
    """Say what looking around has found; `kept` is the address that stays when that was nothing."""
    engines = [f"{engine.type} on port {engine.port}" for engine in found if engine.type is not None]
    if engines:
        screen.line(f"no configuration: looked around on this machine and found {', '.join(engines)}")
    else:
        screen.line(f"no configuration, and no engine answers on ports {', '.join(map(str, ports))} of this machine")
        screen.line(f"guessing Ollama at {kept}: it is used as soon as it is there", "yellow")
    for stranger in found:
        if stranger.type is None:
            screen.line(f"port {stranger.port} is taken by something that is no engine known here: left alone")


def announce_backends(screen: Screen, survey: Survey, *, simulated: bool = False) -> None:
    """Say for each backend whether it is up, what it is and what it has."""
    rows = columns(
        (_STATE_WORDS[report.state], report.name, _described(report, simulated=simulated)) for report in survey.backends
    )
    for row, report in zip(rows, survey.backends, strict=True):
        screen.line(f"  {row}", _STATE_STYLES[report.state])


def announce_memory(screen: Screen, router: SmartRouter, *, simulated: bool = False) -> None:
    """Say how much GPU memory is shared out, or why it is not."""
    screen.line(f"  GPU memory{' (simulated)' if simulated else ''}: {memory_report(router).text}")


def announce_warnings(screen: Screen, warnings: Sequence[str]) -> None:
    """Print what was accepted but is perhaps not meant."""
    for warning in warnings:
        screen.line(f"  warning: {warning}", "yellow")


def announce_url(screen: Screen, shown: str, url: str, requests: Sequence[tuple[str, str]]) -> None:
    """Print where the gateway listens (`shown`), and requests to its `url`: pairs of a remark and a model."""
    screen.line(f"listening on {shown}/v1", "bold green")
    for remark, model in requests:
        screen.line(f"  {remark}:")
        screen.line(f"    {curl(url, model)}", "bold")
    if not requests:
        screen.line("  no model answers yet: `smartrouter-asgi check` says what is missing", "yellow")
    screen.line(f"  for OpenAI clients:  export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY=unused")


def curl(url: str, model: str) -> str:
    """Return a shell command that streams an answer."""
    body = json.dumps(
        {"model": model, "stream": True, "messages": [{"role": "user", "content": "Say hello in five words."}]},
        separators=(",", ":"),
    )
    return f"curl -N {url}/v1/chat/completions -H 'content-type: application/json' -d {shlex.quote(body)}"


def first_chat_model(survey: Survey) -> str | None:
    """Return the first name that a chat may use now: it resolves, a backend with it is up, it is not for embeddings."""
    for name in survey.catalog.names:
        group = survey.catalog.find(name)
        plan = resolve(name, survey.catalog, random=lambda: 0.5)
        if group is None or plan is None or not any(d.backend in survey.up for d in plan.candidates):
            continue
        if is_for_chat(name, group.info):
            return name
    return None


def is_for_chat(name: str, info: ModelInfo | None) -> bool:
    """Tell whether a model is one to chat with: by what its engine says of it, else by its name."""
    told = info.capabilities if info is not None else ()
    return "completion" in told or (not told and not _NOT_FOR_CHAT.search(name))


def _described(report: BackendReport, *, simulated: bool) -> str:
    kind = "simulated engine, no model behind it" if simulated else report.type
    what = f"{kind} at {report.url}" if report.url else kind
    if report.state != "up":
        return f"{what}: {'; '.join(filter(None, (report.reason, report.advice)))}"
    if report.models is None:
        return f"{what}: answers, but has not listed its models" + (f" ({report.reason})" if report.reason else "")
    loaded = f", {len(report.loaded)} in memory" if report.loaded is not None else ""
    return f"{what}: {counted(len(report.models), 'model')}{loaded}"
