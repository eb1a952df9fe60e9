"""Windows of load, one after the other; one with a failed request is void and measured again, at most twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from .figures import figure

REPEATS = 2
"""How often a void window is measured again."""
VOID_SHARE = 0.05
VOID_ALLOWED = 3
"""More void windows than this and that share of all: the run fails."""
ANSWER_S = 60.0
"""How much longer than its window the load generator may take."""

Window = dict[str, Any]


class VoidError(RuntimeError):
    """No valid window could be measured."""


class Load(Protocol):
    """What makes the load: takes a job, tells what came of it."""

    def tell(self, value: object) -> None: ...
    def hear(self, timeout_s: float) -> dict[str, Any]: ...


@dataclass(slots=True)
class Windows:
    """Has windows measured and keeps account of them."""

    load: Load
    engine_pid: int = 0
    """The engine, for jobs that do not name it: its time is no stranger's."""
    valid: list[Window] = field(default_factory=list)
    void: int = 0
    reasons: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def measure(self, label: str, job: dict[str, Any]) -> Window:
        """Return a window in which no request failed.

        Raises `VoidError` when there is none in three, or when too many of the whole run were void.
        """
        if self.engine_pid:
            job = {"engine_pid": self.engine_pid, **job}
        for _ in range(1 + REPEATS):
            self.load.tell(job)
            found = self.load.hear(float(job.get("seconds", 1.0)) + ANSWER_S)
            why = _void(found, job)
            if why is None:
                self.valid.append(found)
                return found
            self._note(f"{label}: {why}")
        raise VoidError(f"{label}: no valid window in {1 + REPEATS}, the last one: {why}")

    def measure_peer(self, label: str, job: dict[str, Any]) -> Window | None:
        """The same for what is not ours: left out from now on where it gives no valid window."""
        if label in self.left_out:
            return None
        before = self.void
        try:
            return self.measure(label, job)
        except VoidError as error:
            self.void = before  # they are accounted for by name
            del self.reasons[before:]
            self.left_out[label] = str(error)
            return None

    def account(self) -> dict[str, Any]:
        """Say how many windows were void, and why."""
        return {"windows": self.void, "of": len(self.valid) + self.void, "reasons": self.reasons[:5]}

    def noise(self) -> dict[str, Any]:
        """Say how many cores were kept busy in the windows by what does not belong to the benchmark."""
        seen = [
            (w["machine_busy_s"] - w["cpu_s"] - w["load_cpu_s"] - w["engine_cpu_s"]) / w["seconds"] for w in self.valid
        ]
        return figure([max(0.0, value) for value in seen] or [0.0], "cores")

    def _note(self, why: str) -> None:
        self.void += 1
        self.reasons.append(why[:300])
        if self.void > VOID_ALLOWED + VOID_SHARE * len(self.valid):
            raise VoidError(f"{self.void} of {len(self.valid) + self.void} windows were void: {self.reasons[-3:]}")


def _void(found: Window, job: dict[str, Any]) -> str | None:
    """Return why a window does not count."""
    if found["errors"]:
        return f"a failed request: {found['errors'][0]}"
    if not job.get("leave") and not found["requests"] and not found["chunks"]:
        return "nothing was answered"
    return None
