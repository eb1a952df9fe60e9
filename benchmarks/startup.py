"""How long does a start take? `python -m benchmarks.startup [--quick] [--rounds N] [--peers] [--out FOLDER]`.

From the command to the first byte of the first answer, and the import alone: the run of a fresh interpreter minus a
bare one's. Bytecode is cached.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from . import memory_report
from .figures import ROOT, assemble, commit, compile_package, figure
from .peers import litellm_binary, peer_versions
from .processes import Child, cores, module, pinned
from .progress import Progress
from .question import Options, Question, ask
from .served import served
from .variants import started

CODE = {
    "python": "pass",
    "import_package": "import smartrouter_asgi",
    "import_router": "from smartrouter_asgi import SmartRouter, Settings",
}
Start = Callable[[Child], AbstractContextManager[Child]]


def measure(options: Options) -> dict[str, Any]:
    """Measure and return the result."""
    rounds, revision = options.rounds_or(5), commit()
    tested, others = cores()
    compile_package()
    starts: dict[str, Start] = {
        "hello": lambda engine: started("hello", engine),
        "router": lambda engine: started("router", engine),
        "serve": served,
    }
    if options.peers and not options.quick and litellm_binary():
        starts["litellm"] = lambda engine: started("litellm", engine)
    answered: dict[str, list[float]] = {name: [] for name in starts}
    ran: dict[str, list[float]] = {name: [] for name in CODE}
    progress = Progress(QUESTION.name, rounds * (len(starts) + len(CODE)))
    with module("engine", core=others) as engine:
        for number in range(rounds):
            for name, start in starts.items():
                if name == "litellm" and number >= 2:
                    continue  # it takes as long as all others together
                progress.step(f"round {number + 1} of {rounds}, {name}")
                began = time.perf_counter()
                with start(engine):
                    answered[name].append((time.perf_counter() - began) * 1e3)
            for name, code in CODE.items():
                progress.step(f"round {number + 1} of {rounds}, {name}")
                ran[name].append(_run_ms(code, tested))
    progress.end()
    figures = [{"what": f"first_answer_{name}", **figure(values, "ms")} for name, values in answered.items()]
    bare = min(ran["python"])
    for name, values in ran.items():
        own = values if name == "python" else [max(0.0, value - bare) for value in values]
        figures.append({"what": name, **figure(own, "ms")})
    method = {"rounds": rounds, "quick": options.quick, "pinned": tested is not None}
    return assemble(QUESTION.name, revision, method, peer_versions(starts), figures=figures)


def _run_ms(code: str, core: set[int] | None) -> float:
    began = time.perf_counter()
    with pinned(core):
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
    return (time.perf_counter() - began) * 1e3


QUESTION = Question(
    name="startup",
    asks="how long a start takes",
    takes_s=20,
    measure=measure,
    render=memory_report.startup,
    peers=True,
)

if __name__ == "__main__":
    ask(QUESTION)
