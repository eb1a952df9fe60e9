"""The servers that are measured beside each other, each with one worker on a core of its own."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from .figures import commit
from .peers import litellm, litellm_binary, nginx, nginx_binary
from .processes import Child, cores, first_answer, module

VARIANTS = {
    "direct": "straight to the engine",
    "nginx": "nginx as reverse proxy, one worker, unbuffered",
    "hello": "uvicorn, an app that answers by itself",
    "proxy": "uvicorn, the smallest proxy over httpx",
    "openai_endpoint": "uvicorn, AsyncOpenAI inside a Starlette endpoint",
    "litellm": "the LiteLLM proxy, one worker, settings from its guide to production",
    "router": "the router, all defaults",
    "router_direct": "the router, transport: direct",
    "router_httpx": "the router, transport: httpx",
    "router_log": "the router, all defaults, with one log line per request",
}
ONLY_WITH_PEERS = {"proxy", "openai_endpoint", "litellm"}
MAY_FAIL = {"nginx", *ONLY_WITH_PEERS}
"""What is not ours may give no valid window somewhere: it is left out there, and the result says so."""
QUICK = {"direct", "hello", "router"}
DESCRIPTORS = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """What runs: the engine, the load generator, the servers under test by name."""

    engine: Child
    load: Child
    servers: dict[str, Child]
    revision: str
    """The commit as it was when they started."""
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def named(self) -> dict[str, str]:
        """Say what each of them is."""
        return {name: VARIANTS[name] for name in self.servers}


def chosen(names: Sequence[str], *, peers: bool, quick: bool) -> tuple[list[str], dict[str, str]]:
    """Return which variants are measured, and why the others are not."""
    skipped: dict[str, str] = {}
    for name in names:
        if quick and name not in QUICK and not (peers and name in MAY_FAIL):
            skipped[name] = "left out of quick runs"
        elif name in ONLY_WITH_PEERS and not peers:
            skipped[name] = "only in runs with peers"
        elif name == "nginx" and nginx_binary() is None:
            skipped[name] = "no nginx on this machine"
        elif name == "litellm" and litellm_binary() is None:
            skipped[name] = "not installed: `make bench-peers` does it"
    return [name for name in names if name not in skipped], skipped


@contextlib.contextmanager
def started(name: str, engine: Child) -> Iterator[Child]:
    """Run one variant over an engine; it has answered once."""
    tested, _ = cores()
    if name == "direct":
        yield engine
    elif name == "nginx":
        with nginx(engine.port, core=tested) as child:
            yield child
    elif name == "litellm":
        with litellm(engine.port, core=tested) as child:
            yield child
    else:
        with module("serve", name, str(engine.port), core=tested) as child:
            first_answer(child.port)
            yield child


@contextlib.contextmanager
def engine_and_load() -> Iterator[tuple[Child, Child]]:
    """Run the engine and the load generator, on the core that is not measured."""
    allow_many_connections()
    _, others = cores()
    with module("engine", core=others) as engine, module("load", core=others, serves=False) as load:
        yield engine, load


@contextlib.contextmanager
def rig(names: Sequence[str], *, peers: bool, quick: bool) -> Iterator[Rig]:
    """Run the engine, the load generator and every variant that can be measured."""
    measured, skipped = chosen(names, peers=peers, quick=quick)
    with contextlib.ExitStack() as stack:
        engine, load = stack.enter_context(engine_and_load())
        revision = commit()
        servers = {name: stack.enter_context(started(name, engine)) for name in measured}
        yield Rig(engine=engine, load=load, servers=servers, revision=revision, skipped=skipped)


def allow_many_connections() -> None:
    """Let this process and its children hold thousands of sockets, as far as the system lets them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
