"""Where a model goes and who leaves for it: what the rivals share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .machine import Engine, Machine, State


def device_with_room(machine: Machine, need_bytes: int) -> int | None:
    """Return the device with the most free memory, if it has enough."""
    device = max(range(len(machine.devices)), key=lambda index: (machine.free_bytes(index), -index))
    return device if machine.free_bytes(device) >= need_bytes else None


def is_under_way(machine: Machine, need_bytes: int) -> bool:
    """Whether the unloads under way will make room on one device."""
    return any(
        need_bytes
        <= machine.free_bytes(device)
        + sum(
            engine.model.size_bytes
            for engine in machine.engines.values()
            if engine.device == device and engine.state is State.UNLOADING
        )
        for device in range(len(machine.devices))
    )


def is_loading(machine: Machine) -> bool:
    """Whether some model is being loaded."""
    return any(engine.state is State.LOADING for engine in machine.engines.values())


def idle_victims(machine: Machine, need_bytes: int, *, rank: Callable[[Engine], float]) -> list[str] | None:
    """Return idle models, lowest rank first, that make room on one device; of several devices the lowest ranked."""
    best: tuple[float, list[str]] | None = None
    for device in range(len(machine.devices)):
        idle = [engine for engine in machine.engines.values() if engine.device == device and engine.is_idle]
        taken = shortest(sorted(idle, key=rank), need_bytes - machine.free_bytes(device))
        if taken and (best is None or rank(taken[-1]) < best[0]):
            best = rank(taken[-1]), [engine.model.name for engine in taken]
    return None if best is None else best[1]


def shortest(ordered: Sequence[Engine], missing_bytes: int) -> list[Engine]:
    """Take from the front until it is enough; nothing when all are too little."""
    taken: list[Engine] = []
    for engine in ordered:
        if missing_bytes <= 0:
            break
        taken.append(engine)
        missing_bytes -= engine.model.size_bytes
    return taken if missing_bytes <= 0 else []
