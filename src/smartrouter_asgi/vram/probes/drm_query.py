"""The memory regions of an Intel device, asked of its driver through the render node.

Sources: `include/uapi/drm/xe_drm.h` (`DRM_XE_DEVICE_QUERY_MEM_REGIONS`) and `i915_drm.h`
(`DRM_I915_QUERY_MEMORY_REGIONS`). Totals are for everybody who may open the node; what is used only for holders of
CAP_PERFMON: others read 0 used (xe) or all of it unallocated (i915).
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

Ioctl: TypeAlias = Callable[[int, int, bytearray], object]
"""`fcntl.ioctl` with a buffer that the kernel writes to."""

_XE_DEVICE_QUERY = 0xC0286440
_XE_QUERY = struct.Struct("=QIIQ16x")  # extensions, query, size, data
_XE_MEM_REGIONS = 1
_XE_HEAD = struct.Struct("=I4x")
_XE_REGION = struct.Struct("=HH4xQQ64x")  # class, instance, total, used
_I915_QUERY = 0xC0106479
_I915_ITEMS = struct.Struct("=IIQ")  # number, flags, items
_I915_ITEM = struct.Struct("=QiIQ")  # query, length, flags, data
_I915_MEMORY_REGIONS = 4
_I915_HEAD = struct.Struct("=I12x")
_I915_REGION = struct.Struct("=HH4xQQ64x")  # class, instance, probed, unallocated
_DEVICE_MEMORY = 1
_SANE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalMemory:
    """The memory on the device, all tiles together; 0 in total: integrated graphics."""

    total_bytes: int
    used_bytes: int | None
    """None: not for us to know."""


def query_local_memory(node: Path, driver: str, *, ioctl: Ioctl | None = None) -> LocalMemory | None:
    """Ask a render node's driver (`xe`, `i915`); None where it cannot be opened or does not answer."""
    try:
        if ioctl is None:
            from fcntl import ioctl as system_ioctl  # Unix only

            ioctl = system_ioctl
        fd = os.open(node, os.O_RDWR | os.O_CLOEXEC)
        try:
            return (_ask_xe if driver == "xe" else _ask_i915)(fd, ioctl)
        finally:
            os.close(fd)
    except (ImportError, OSError, struct.error):
        return None


def _ask_xe(fd: int, ioctl: Ioctl) -> LocalMemory | None:
    query = bytearray(_XE_QUERY.pack(0, _XE_MEM_REGIONS, 0, 0))
    ioctl(fd, _XE_DEVICE_QUERY, query)  # size 0: the driver fills in what it needs
    size = _XE_QUERY.unpack(query)[2]
    if not _XE_HEAD.size <= size <= _SANE_BYTES:
        return None
    answer = ctypes.create_string_buffer(size)
    query[:] = _XE_QUERY.pack(0, _XE_MEM_REGIONS, size, ctypes.addressof(answer))
    ioctl(fd, _XE_DEVICE_QUERY, query)
    regions = _local_regions(answer.raw, _XE_HEAD, _XE_REGION)
    return _sum([(total, used) for total, used in regions])


def _ask_i915(fd: int, ioctl: Ioctl) -> LocalMemory | None:
    item = ctypes.create_string_buffer(_I915_ITEM.pack(_I915_MEMORY_REGIONS, 0, 0, 0), _I915_ITEM.size)
    query = bytearray(_I915_ITEMS.pack(1, 0, ctypes.addressof(item)))
    ioctl(fd, _I915_QUERY, query)  # length 0: the driver fills in what it needs, or a negative error
    length = _I915_ITEM.unpack(item.raw)[1]
    if not _I915_HEAD.size <= length <= _SANE_BYTES:
        return None
    answer = ctypes.create_string_buffer(length)
    item.raw = _I915_ITEM.pack(_I915_MEMORY_REGIONS, length, 0, ctypes.addressof(answer))
    ioctl(fd, _I915_QUERY, query)
    if _I915_ITEM.unpack(item.raw)[1] < 0:
        return None
    regions = _local_regions(answer.raw, _I915_HEAD, _I915_REGION)
    return _sum([(total, total - unallocated) for total, unallocated in regions])


def _local_regions(answer: bytes, head: struct.Struct, region: struct.Struct) -> list[tuple[int, int]]:
    (count,) = head.unpack_from(answer)
    found = (region.unpack_from(answer, head.size + place * region.size) for place in range(count))
    return [(first, second) for kind, _, first, second in found if kind == _DEVICE_MEMORY]


def _sum(regions: list[tuple[int, int]]) -> LocalMemory:
    """Nothing at all used is what a driver says that does not tell: its own buffers lie there."""
    used_bytes = sum(used for _, used in regions)
    return LocalMemory(
        total_bytes=sum(total for total, _ in regions), used_bytes=used_bytes if used_bytes > 0 else None
    )
