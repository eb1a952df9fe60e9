"""Laws of what is remembered of footprints: it survives restarts, and a file that is wrong costs one warning."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from smartrouter_asgi.deployment import FootprintKey, ModelInfo
from smartrouter_asgi.vram.footprints import FORMAT, Footprints, footprint_key

GIB = 1024**3
DIGEST = "46e0c10c039e019119339687c3c1757cc81b9da49709a3b3924863ba87ca666e"
KEY = FootprintKey(engine="ollama", digest=DIGEST, num_ctx=8192, parallel=2, kv_type="f16")


def key(number: int) -> FootprintKey:
    return dataclasses.replace(KEY, num_ctx=number)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "smartrouter-asgi" / "footprints.json"


def filled(path: Path | None, *numbers: int, **settings: Any) -> Footprints:
    footprints = Footprints(path, **settings)
    for number in numbers:
        footprints.put(key(number), number * GIB)
    return footprints


def known(path: Path, *numbers: int) -> list[int]:
    """Which of these a process that starts now knows."""
    footprints = Footprints(path)
    return [number for number in numbers if footprints.get(key(number)) == number * GIB]


# -- a memory


def test_the_last_measure_counts(path: Path):
    footprints = filled(path, 1)
    footprints.put(key(1), 7)
    assert footprints.get(key(1)) == 7
    assert footprints.get(key(2)) is None


@pytest.mark.parametrize("field", ["engine", "digest", "num_ctx", "parallel", "kv_type"])
def test_each_part_of_a_key_tells_loads_apart(field: str):
    """A model takes other memory with another context, other slots, another type of cache, in another engine."""
    other: Any = "other" if isinstance(getattr(KEY, field), str) else 3
    footprints = Footprints(None)
    footprints.put(KEY, GIB)
    assert footprints.get(dataclasses.replace(KEY)) == GIB
    assert footprints.get(dataclasses.replace(KEY, **{field: other})) is None


@pytest.mark.parametrize("nothing", [0, -1, 2**50])
def test_what_is_no_size_is_not_remembered(path: Path, nothing: int):
    """An engine that runs a model on the CPU tells 0."""
    footprints = Footprints(path)
    footprints.put(KEY, nothing)
    assert footprints.get(KEY) is None
    assert not footprints.dirty


def test_beyond_its_bound_the_oldest_measure_goes(path: Path):
    """In memory and in the file; one that was measured again is new."""
    footprints = filled(path, 1, 2, 3, max_entries=3)
    footprints.put(key(1), 5)
    footprints.put(key(1), 1 * GIB)
    footprints.put(key(4), 4 * GIB)
    assert [footprints.get(key(number)) is not None for number in (1, 2, 3, 4)] == [True, False, True, True]
    footprints.save()
    assert known(path, 1, 2, 3, 4) == [1, 3, 4]
    filled(path, 5, max_entries=3).save()
    assert known(path, 1, 3, 4, 5) == [1, 4, 5]


# -- a file


def test_what_was_measured_last_is_forgotten_last(path: Path):
    """Whichever process measured it before."""
    filled(path, 1, 2, 3).save()
    footprints = Footprints(path, max_entries=3)
    footprints.put(key(1), 5)
    footprints.put(key(4), 4 * GIB)
    footprints.save()
    again = Footprints(path)
    assert [again.get(key(number)) for number in (1, 2, 3, 4)] == [5, None, 3 * GIB, 4 * GIB]


def test_a_restart_forgets_nothing(path: Path):
    filled(path, 1, 2).save()
    assert known(path, 1, 2, 3) == [1, 2]


def test_nothing_touches_the_disk_but_save(path: Path):
    filled(path, 1, 2)
    Footprints(path).save()
    assert not path.parent.parent.exists()


def test_it_is_dirty_while_the_file_lacks_something(path: Path):
    footprints = Footprints(path)
    assert not footprints.dirty
    footprints.put(KEY, GIB)
    assert footprints.dirty
    footprints.save()
    assert not footprints.dirty
    footprints.put(KEY, GIB)
    assert not footprints.dirty, "it knew that"


def test_without_a_path_it_is_never_dirty():
    footprints = filled(None, 1)
    footprints.save()
    assert not footprints.dirty
    assert footprints.get(key(1)) == GIB


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX")
def test_only_its_owner_may_read_it(path: Path):
    umask = os.umask(0)
    try:
        filled(path, 1).save()
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_it_holds_what_identifies_loads_and_nothing_else(path: Path):
    filled(path, 1).save()
    assert json.loads(path.read_text()) == {
        "format": FORMAT,
        "version": 1,
        "footprints": [
            {"engine": "ollama", "digest": DIGEST, "num_ctx": 1, "parallel": 2, "kv_type": "f16", "bytes": GIB}
        ],
    }


def test_what_other_processes_wrote_meanwhile_stays(path: Path):
    """Workers share the file; of one load the last to save is right."""
    first, second = filled(path, 1, 2), filled(path, 2, 3)
    second.put(key(2), 5)
    second.save()
    first.save()
    assert known(path, 1, 2, 3) == [1, 2, 3]


def test_what_was_only_read_is_not_written_back(path: Path):
    """Another process has measured it anew since."""
    filled(path, 1).save()
    old = filled(path, 2)
    newer = Footprints(path)
    newer.put(key(1), 5)
    newer.save()
    old.save()
    assert Footprints(path).get(key(1)) == 5


def test_a_crash_while_writing_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch):
    """The new one is complete before it takes the old one's name; no half of it stays behind."""
    filled(path, 1).save()

    def broken(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dump", broken)
    filled(path, 2).save()
    assert known(path, 1, 2) == [1]
    assert os.listdir(path.parent) == [path.name]


def test_a_measure_during_a_save_is_not_lost(path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is dirty again at once."""
    footprints = filled(path, 1)
    replacing, go_on = threading.Event(), threading.Event()
    replace = os.replace

    def slow(*args: Any) -> None:
        replacing.set()
        assert go_on.wait(10)
        replace(*args)

    monkeypatch.setattr(os, "replace", slow)
    saver = threading.Thread(target=footprints.save)
    saver.start()
    assert replacing.wait(10)
    footprints.put(key(2), 2 * GIB)
    assert footprints.dirty
    go_on.set()
    saver.join(10)
    assert footprints.dirty
    footprints.save()
    assert known(path, 1, 2) == [1, 2]


# -- a file that is wrong

FOREIGN = [
    b"{",
    b"\xff\xfe",
    b"null",
    b"[]",
    b"backends:\n  local: {type: ollama}\n",
    json.dumps({"format": FORMAT, "version": 2, "footprints": {}}).encode(),
    json.dumps({"format": "somebody else's", "version": 1, "footprints": []}).encode(),
    b"[" * 100_000,
    b" " * (4 * 1024**2 + 1),
]


@pytest.mark.parametrize("content", FOREIGN, ids=range(len(FOREIGN)))
def test_a_file_of_somebody_else_is_left_alone(path: Path, content: bytes, caplog: pytest.LogCaptureFixture):
    """One warning, that names it; everything goes on in memory."""
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    footprints = filled(path, 1)
    footprints.save()
    footprints.put(key(2), 2 * GIB)
    footprints.save()
    assert path.read_bytes() == content
    assert footprints.get(key(2)) == 2 * GIB
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(path) in caplog.text


def test_an_empty_file_is_written_over(path: Path, caplog: pytest.LogCaptureFixture):
    """What a power failure leaves of one."""
    path.parent.mkdir(parents=True)
    path.touch()
    filled(path, 1).save()
    assert known(path, 1) == [1]
    assert not caplog.records


GOOD = {"engine": "ollama", "digest": DIGEST, "num_ctx": 1, "parallel": 2, "kv_type": "f16", "bytes": GIB}


@pytest.mark.parametrize(
    "bad",
    [
        None,
        7,
        "text",
        [],
        {},
        *({**GOOD, name: value} for name in GOOD for value in (None, "", "a b", True, -1, 0, 1.5, 2**60, [1])),
        {**GOOD, "engine": "http://user:secret@host"},
        {**GOOD, "digest": "llama3:8b"},
        {**GOOD, "digest": DIGEST + "\n"},
    ],
)
def test_entries_that_make_no_sense_are_left_out(path: Path, bad: Any):
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"format": FORMAT, "version": 1, "footprints": [bad, GOOD]}))
    footprints = filled(path, 2)
    assert footprints.get(key(1)) == GIB
    footprints.save()
    assert known(path, 1, 2) == [1, 2]
    assert len(json.loads(path.read_text())["footprints"]) == 2


@pytest.mark.parametrize("rows", [None, {}, 7])
def test_a_file_without_entries_has_none(path: Path, rows: Any):
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"format": FORMAT, "version": 1, "footprints": rows}))
    filled(path, 1).save()
    assert known(path, 1) == [1]


def directory(path: Path) -> None:
    path.mkdir(parents=True)


def pipe(path: Path) -> None:
    path.parent.mkdir(parents=True)
    os.mkfifo(path)


def beside_a_file(path: Path) -> None:
    path.parent.parent.mkdir(parents=True)
    path.parent.touch()


@pytest.mark.skipif(os.name != "posix", reason="pipes are POSIX")
@pytest.mark.parametrize("make", [directory, pipe, beside_a_file])
def test_what_cannot_be_a_file_is_told_once(path: Path, make: Any, caplog: pytest.LogCaptureFixture):
    """Nobody waits for the other end of a pipe."""
    make(path)
    footprints = filled(path, 1)
    footprints.save()
    footprints.save()
    footprints.put(key(2), 2 * GIB)
    footprints.save()
    assert footprints.get(key(1)) == GIB
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_disk_that_was_full_gets_everything_later(path: Path, monkeypatch: pytest.MonkeyPatch):
    footprints = filled(path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        footprints.save()
    footprints.put(key(2), 2 * GIB)
    footprints.save()
    assert known(path, 1, 2) == [1, 2]


# -- what identifies a load


@pytest.mark.parametrize("told", [DIGEST, f"sha256:{DIGEST}", DIGEST.upper()])
def test_a_digest_is_one_however_it_is_written(told: str):
    info = ModelInfo(id="m", digest=told)
    assert footprint_key(info, engine="ollama", num_ctx=8192, parallel=2) == KEY


@pytest.mark.parametrize("told", [None, "", "sha256:", "llama3:8b", "http://host/blob", "a" * 200])
def test_without_a_digest_nothing_identifies_a_load(told: str | None):
    assert footprint_key(ModelInfo(id="m", digest=told), engine="ollama", num_ctx=8192, parallel=2) is None


def test_without_a_context_nothing_identifies_a_load():
    assert footprint_key(ModelInfo(id="m", digest=DIGEST), engine="ollama", num_ctx=None, parallel=2) is None
