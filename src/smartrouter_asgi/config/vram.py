"""The `vram` section: the budget of GPU memory and how requests wait for it."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema

from .fields import (
    Count,
    DeviceId,
    Name,
    Percent,
    PositiveBytes,
    PositiveSeconds,
    Seconds,
    Section,
    UnloadStrategy,
    lowered,
)
from .units import GIB

CACHE_FOLDER = "smartrouter-asgi"


def cache_folder(environ: Mapping[str, str], *, platform: str = sys.platform) -> Path | None:
    """Return where this user's programs keep what they can do without; None for a user without a home. No disk."""
    named = environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(named):  # a relative one is to be ignored, says the XDG specification
        return Path(named)
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home / "Library" / "Caches" if platform == "darwin" else home / ".cache"


def _file_or_false(value: object) -> object:
    if value is False:
        return value
    if not isinstance(value, str | Path) or not str(value).strip() or "\0" in str(value):
        raise ValueError("expected the path of a file, or false")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError("expected the path of a file; this one starts with a home that is not known") from None


FileOrFalse: TypeAlias = Annotated[
    Path | Literal[False],
    PlainValidator(_file_or_false),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"const": False}]}),
]


class DeviceSettings(Section):
    """The limit of one GPU."""

    max_bytes: PositiveBytes | None = Field(default=None, alias="max")


class VRAMSettings(Section):
    """How much GPU memory there is to share, who gives way, and how long a request waits."""

    max_total_bytes: PositiveBytes | None = Field(default=None, alias="max_total")
    """Over all devices; not set: 90 % of what is detected, and without any detected local models are not gated."""
    devices: dict[DeviceId, DeviceSettings] = Field(default_factory=dict)
    """By index or UUID."""
    unknown: Annotated[Literal["open", "closed"], BeforeValidator(lowered)] = "open"
    """Whether requests pass while no reading can be had."""
    auto_unload: bool = True
    unload_strategy: UnloadStrategy = "lru"
    unload_threshold_pct: Percent = 85.0
    """Use above it is warned about and shown as a gauge; it decides nothing."""
    pinned: tuple[Name, ...] = ()
    """Never unloaded to make room."""
    preload: tuple[Name, ...] = ()
    """Loaded at start."""
    default_estimate_bytes: PositiveBytes = Field(default=8 * GIB, alias="default_estimate")
    """The footprint of a model of which nothing is known."""
    footprints: FileOrFalse | None = None
    """File in which measured footprints survive a restart; false: none. Not set: in the user's cache folder."""
    fair_after_s: Seconds = Field(default=15.0, alias="fair_after")
    """The oldest waiter of another model this old: the resident one takes no new requests."""
    spill_after_s: Seconds = Field(default=10.0, alias="spill_after")
    """A projected wait beyond this: the next candidate, if there is one."""
    max_wait_s: PositiveSeconds = Field(default=30.0, alias="max_wait")
    """Then 503 `vram_queue_timeout`."""
    max_queue: Count = 64
    """Requests waiting at a time; one more gets 503 `queue_full`."""
    release_grace_s: Seconds = Field(default=5.0, alias="release_grace")
    """How long the lease of a client that left is held while the engine has not shown idle."""
    monitor_enabled: bool = True
    """Whether this machine's GPUs are read, now and again; if not, only what is declared is shared out."""
    monitor_interval_s: PositiveSeconds = Field(default=2.0, alias="monitor_interval")
    amd_unified_memory_bytes: PositiveBytes | None = Field(default=None, alias="amd_unified_memory")
    """GPU memory of an AMD APU; not set: detected."""
    apple_unified_memory_bytes: PositiveBytes | None = Field(default=None, alias="apple_unified_memory")
    """GPU memory of Apple silicon; not set: detected."""

    @property
    def footprints_file(self) -> Path | None:
        """Where measured footprints are kept; None: in memory only."""
        if self.footprints is None:
            folder = cache_folder(os.environ)
            return folder / CACHE_FOLDER / "footprints.json" if folder is not None else None
        return self.footprints or None
