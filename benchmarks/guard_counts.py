"""Instructions of a process between two marks, counted by callgrind, and which C functions they belong to."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

from .processes import Child

ENVIRONMENT = ("PATH=/usr/bin:/bin", "PYTHONHASHSEED=0", "LC_ALL=C.UTF-8")
"""All of it, but for PYTHONPATH: what a process inherits lies on its stack and moves its addresses."""

START_S, ANSWER_S = 120.0, 120.0


def missing() -> str | None:
    """Say what is missing to count instructions; None when nothing is."""
    return None if shutil.which("valgrind") else "valgrind is not installed"


class Counted:
    """A child process under callgrind, or under the counter of Python's calls with `folder` None."""

    def __init__(self, *arguments: str, folder: Path | None) -> None:
        self._folder = folder
        self._marks = 0
        python = (sys.executable, "-m", "benchmarks.guard_child", "calls" if folder is None else "callgrind")
        path = (f"PYTHONPATH={os.environ['PYTHONPATH']}",) if "PYTHONPATH" in os.environ else ()
        self.child = Child("env", "-i", *ENVIRONMENT, *path, *self._valgrind(), *python, *arguments, core=None)

    def _valgrind(self) -> tuple[str, ...]:
        if self._folder is None:
            return ()
        self._folder.mkdir(parents=True)
        fixed = ("setarch", "-R") if shutil.which("setarch") else ()
        out, log = f"--callgrind-out-file={self._folder}/out", f"--log-file={self._folder}/log"
        return (*fixed, "valgrind", "--tool=callgrind", out, log, "--dump-before=getloadavg", "--compress-strings=yes")

    def window(self, job: object, marks: int) -> Counter[str]:
        """Tell the child a job that has it mark `marks` times; return what was counted before the last of them."""
        self.child.tell(job)
        said = self.child.hear(ANSWER_S)
        self._marks += marks
        if self._folder is None:
            found = said["marked"]
            assert isinstance(found, dict)
            return Counter(found)
        return read_dump(Path(f"{self._folder}/out.{self._marks}"))


_NAMED = re.compile(r"(ob|fn|cob|cfn|fl|fi|fe|cfi|cfl)=(?:\((\d+)\))?(?: ?(.*))?")


def read_dump(path: Path) -> Counter[str]:
    """Return the instructions of each C function by itself, as `object function`. Their sum is the whole."""
    costs: Counter[str] = Counter()
    names: dict[tuple[str, str], str] = {}
    where = {"ob": "", "fn": ""}
    callee = False
    for line in path.read_text(errors="replace").splitlines():
        first = line[:1]
        if first and first in "+-*0123456789":
            if not callee:
                costs[f"{where['ob']} {where['fn']}"] += int(line.split()[1])
            callee = False
        elif line.startswith("calls="):
            callee = True
        elif named := _NAMED.match(line):
            kind, number, name = named.groups()
            family = kind[-2:] if kind in ("cob", "cfn") else kind
            if family not in where:
                continue
            if name:
                names[family, number] = name.rpartition("/")[2] if family == "ob" else name
            if kind in where:
                where[kind] = names.get((family, number), name or "")
    return costs
