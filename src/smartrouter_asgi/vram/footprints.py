"""What models were measured to need, remembered by what identifies a load, across restarts in a small file.

The file holds digests, sizes and load settings; no names, addresses or prompts. It is a convenience: whatever is wrong
with it costs one warning, and everything goes on in memory.
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import tempfile
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import msgspec

from ..deployment import FootprintKey

if TYPE_CHECKING:
    from pathlib import Path

    from ..deployment import ModelInfo

logger = logging.getLogger("smartrouter_asgi.vram")

FORMAT = "smartrouter-asgi footprints"
VERSION = 1
MAX_FILE_BYTES = 4 * 1024**2
MAX_FOOTPRINT_BYTES = 2**50

_DIGEST = re.compile(r"[0-9a-f]{8,128}")

_Word: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.\-]{1,64}\Z")]
_Number: TypeAlias = Annotated[int, msgspec.Meta(gt=0, lt=MAX_FOOTPRINT_BYTES)]


class _Row(msgspec.Struct, kw_only=True):
    """One entry of the file."""

    engine: _Word
    digest: Annotated[str, msgspec.Meta(pattern=rf"^{_DIGEST.pattern}\Z")]
    num_ctx: _Number
    parallel: _Number
    kv_type: _Word
    bytes: _Number


def footprint_key(
    info: ModelInfo, *, engine: str, num_ctx: int | None, parallel: int, kv_type: str = "f16"
) -> FootprintKey | None:
    """Return what identifies a load of a listed model; None where its engine tells no digest or no context is known."""
    digest = (info.digest or "").lower().removeprefix("sha256:")
    if num_ctx is None or not _DIGEST.fullmatch(digest):
        return None
    return FootprintKey(engine=engine, digest=digest, num_ctx=num_ctx, parallel=parallel, kv_type=kv_type)


class Footprints:
    """Measured sizes by load, the oldest forgotten beyond `max_entries`.

    The file is read once, here; None: memory only. `put` never writes: whoever owns the process calls `save` when
    `dirty`, in a thread. A file that is not one of these is neither believed nor replaced.
    """

    def __init__(self, path: Path | None, *, max_entries: int = 1000) -> None:
        self._path = path
        self._max_entries = max_entries
        self._warned = False
        self._lock = threading.Lock()
        self._saving = threading.Lock()
        self._measured: dict[FootprintKey, int] = {}
        self._sizes = self._trimmed(self._read() or {})
        self.dirty = False
        """Whether something was learnt that is not in the file."""

    def get(self, key: FootprintKey) -> int | None:
        """Return the bytes that a load was last measured to need."""
        return self._sizes.get(key)

    def put(self, key: FootprintKey, size_bytes: int) -> None:
        """Remember what a load was measured to need; nothing at all is no measure."""
        if not 0 < size_bytes < MAX_FOOTPRINT_BYTES or self._sizes.get(key) == size_bytes:
            return
        with self._lock:
            for sizes in (self._sizes, self._measured):
                sizes.pop(key, None)  # the newest is the last
                sizes[key] = size_bytes
                if len(sizes) > self._max_entries:
                    del sizes[next(iter(sizes))]
            self.dirty = self._path is not None

    def save(self) -> None:
        """Write what is not in the file yet, beside what others have written there meanwhile; never raises.

        Blocks on the disk. What could not be written is tried again at the next `save` after a `put`.
        """
        with self._saving:
            with self._lock:
                measured, self.dirty = dict(self._measured), False
            if self._path is None or not measured:
                return
            known = self._read()
            if known is None:
                return
            for key in measured:
                known.pop(key, None)
            try:
                self._write(self._path, self._trimmed(known | measured))
            except OSError as exc:
                self._warn(f"cannot be written ({exc.strerror or exc})")

    def _trimmed(self, sizes: dict[FootprintKey, int]) -> dict[FootprintKey, int]:
        return dict(list(sizes.items())[-self._max_entries :])

    def _read(self) -> dict[FootprintKey, int] | None:
        """Read the file; None when it is there and is none of ours, or cannot be read."""
        if self._path is None:
            return {}
        try:
            with open(self._path, "rb", opener=_open_quickly) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise ValueError("no regular file")
                data = file.read(MAX_FILE_BYTES + 1)
            return _decode(data) if data else {}
        except FileNotFoundError:
            return {}
        except OSError as exc:
            self._warn(f"cannot be read ({exc.strerror or exc})")
        except (ValueError, RecursionError):
            self._warn("is no file of measured footprints that this version reads; it is left alone")
        return None

    def _write(self, path: Path, sizes: dict[FootprintKey, int]) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")  # readable by its owner only
        try:
            with open(handle, "w", encoding="utf-8") as file:
                json.dump(_document(sizes), file, indent=1)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("%s %s; measured footprints are kept in memory only", self._path, what)


def _open_quickly(path: str, flags: int) -> int:
    """Open without waiting for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _document(sizes: dict[FootprintKey, int]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "footprints": [{**asdict(key), "bytes": size_bytes} for key, size_bytes in sizes.items()],
    }


def _decode(data: bytes) -> dict[FootprintKey, int]:
    """Read a document; entries that make no sense are left out. Raises `ValueError` when it is none of ours."""
    document = json.loads(data) if len(data) <= MAX_FILE_BYTES else None
    if not isinstance(document, dict) or (document.get("format"), document.get("version")) != (FORMAT, VERSION):
        raise ValueError("another format")
    rows = document.get("footprints")
    read = map(_entry, rows if isinstance(rows, list) else ())
    return dict(entry for entry in read if entry is not None)


def _entry(row: Any) -> tuple[FootprintKey, int] | None:
    try:
        read = msgspec.convert(row, _Row)
    except msgspec.ValidationError:
        return None
    key = FootprintKey(
        engine=read.engine, digest=read.digest, num_ctx=read.num_ctx, parallel=read.parallel, kv_type=read.kv_type
    )
    return key, read.bytes
