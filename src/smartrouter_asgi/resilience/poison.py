"""Requests that fail again and again while others are served: they speak against themselves, not against the backend.

1. The first `allowed` failures of a request count, as any do: nobody can tell yet.
2. Further failures of the same request do not, once another one has succeeded since its first: the backend is well.
3. A request that succeeds is forgotten, and so is one that has not failed for `forget_after_s`.

What is the same request its fingerprint tells. Kept per breaker, at most `MAX_KEPT` of them; pure, time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass

ALLOWED = 2
MAX_KEPT = 64
FORGET_AFTER_S = 300.0


@dataclass(slots=True, eq=False)
class _Record:
    failed: int
    since: int
    """How many successes of others there had been when it failed first."""
    last: float


class PoisonBook:
    """The requests that have failed lately at one backend and operation."""

    __slots__ = ("_records", "_successes")

    def __init__(self) -> None:
        self._records: dict[int, _Record] = {}
        self._successes = 0

    def __len__(self) -> int:
        return len(self._records)

    def failed(self, fingerprint: int, now: float) -> bool:
        """Take note of a failure; tell whether it speaks against the backend."""
        record = self._records.pop(fingerprint, None)
        if record is None or now - record.last > FORGET_AFTER_S:
            record = _Record(failed=0, since=self._successes, last=now)
        self._records[fingerprint] = record  # the newest is the last
        if len(self._records) > MAX_KEPT:
            del self._records[next(iter(self._records))]
        record.failed += 1
        record.last = now
        return record.failed <= ALLOWED or self._successes == record.since

    def succeeded(self, fingerprint: int) -> None:
        """Take note of a success; only worth asking while something has failed lately."""
        self._successes += 1
        self._records.pop(fingerprint, None)
