"""Calls into Python functions and from them into C, and the opcodes each function ran, between two marks."""

from __future__ import annotations

import sys
from collections import Counter
from types import CodeType, FrameType
from typing import Any

_PLACES = ("smartrouter_asgi", "site-packages", "benchmarks", "lib/python3")


class CallCounter:
    """Counts in the thread it is made in, from its first mark on.

    The keys: `call` for each entry of a Python function, the resumption of a coroutine included; `op` for each opcode
    it ran; `c` for each C function it called.
    """

    def __init__(self) -> None:
        self._calls: Counter[CodeType] = Counter()
        self._opcodes: Counter[CodeType] = Counter()
        self._c_calls: Counter[tuple[CodeType, str]] = Counter()

    def mark(self) -> dict[str, int]:
        """Return what was counted since the last mark."""
        sys.settrace(None)
        sys.setprofile(None)
        found = Counter({f"call {place(code)}": 0 for code in self._calls})
        for code, number in self._calls.items():
            found[f"call {place(code)}"] += number
        for code, number in self._opcodes.items():
            found[f"op {place(code)}"] += number
        for (code, name), number in self._c_calls.items():
            found[f"c {place(code)} -> {name}"] += number
        for counter in (self._calls, self._opcodes, self._c_calls):
            counter.clear()
        sys.settrace(self._entered)
        sys.setprofile(self._profile)
        return dict(found)

    def _entered(self, frame: FrameType, event: str, arg: Any) -> Any:
        self._calls[frame.f_code] += 1
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return self._within

    def _within(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "opcode":
            self._opcodes[frame.f_code] += 1
        return self._within

    def _profile(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_call":
            self._c_calls[frame.f_code, getattr(arg, "__qualname__", str(arg))] += 1


def place(code: CodeType) -> str:
    """Name a function: its module's path within its package, its line, its name."""
    path = code.co_filename
    for known in _PLACES:
        if known in path:
            path = path.rpartition(known + "/")[2] if known != "smartrouter_asgi" else known + path.rpartition(known)[2]
            break
    return f"{path}:{code.co_firstlineno} {code.co_qualname}"
