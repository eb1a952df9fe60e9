"""Calls into Python functions and from them into C, and the opcodes each function ran, between two marks."""

from __future__ import annotations

import sys
from collections import Counter
from types import CodeType, FrameType
from typing import Any

_PLACES = ("smartrouter_asgi", "site-packages", "benchmarks", f"lib/python{sys.version_info[0]}.{sys.version_info[1]}")


class CallCounter:
    """Counts in the thread it is made in, from its first mark on.

    The keys: `call` for each entry of a Python function, the resumption of a coroutine included; `op` for each opcode
    it ran; `c` for each C function it called.
    """

    def __init__(self) -> None:
        self._calls: Counter[CodeType] = Counter()
        self._opcodes: Counter[CodeType] = Counter()
        self._c_calls: Counter[tuple[CodeType, str]] = Counter()
        self._places: dict[CodeType, str] = {}

    def mark(self) -> dict[str, int]:
        """Return what was counted since the last mark."""
        sys.settrace(None)
        sys.setprofile(None)
        found: Counter[str] = Counter()
        for code, number in self._calls.items():
            found[f"call {self._place(code)}"] += number
        for code, number in self._opcodes.items():
            found[f"op {self._place(code)}"] += number
        for (code, name), number in self._c_calls.items():
            found[f"c {self._place(code)} -> {name}"] += number
        for counter in (self._calls, self._opcodes, self._c_calls):
            counter.clear()
        sys._getframe().f_trace_opcodes = True  # Python 3.12 traces opcodes where one frame wanted them before
        sys.settrace(self._entered)
        sys.setprofile(self._profile)
        return dict(found)

    def _place(self, code: CodeType) -> str:
        return self._places.get(code) or place(code)

    def _entered(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if code not in self._calls and code not in self._places:
            self._places[code] = place(code, frame)
        self._calls[code] += 1
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return self._within

    def _within(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "opcode":
            self._opcodes[frame.f_code] += 1
        return self._within

    def _profile(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_call":
            self._c_calls[frame.f_code, getattr(arg, "__qualname__", str(arg))] += 1


def place(code: CodeType, frame: FrameType | None = None) -> str:
    """Name a function: its module's path within its package, its line, its name; a made one by the class it is of."""
    path, name = code.co_filename, code.co_qualname
    if path == "<string>" and frame is not None and "self" in frame.f_locals:
        made_for = type(frame.f_locals["self"])
        path, name = made_for.__module__.replace(".", "/"), f"{made_for.__qualname__}.{code.co_name} (made)"
    for known in _PLACES:
        if f"{known}/" in path:
            rest = path.rpartition(f"{known}/")[2]
            path = rest if known.endswith("packages") else f"{known.rpartition('/')[2]}/{rest}"
            break
    return f"{path}:{code.co_firstlineno} {name}"
