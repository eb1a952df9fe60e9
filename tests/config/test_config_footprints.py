"""`vram.footprints` in the file: where measured footprints are kept. Nothing here touches the disk."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from smartrouter_asgi import Settings
from smartrouter_asgi.config import settings_schema
from smartrouter_asgi.config.vram import VRAMSettings, cache_folder

FILE = "vram: {footprints: %s}"


def test_by_default_they_are_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert Settings().vram.footprints_file == tmp_path / "cache" / "smartrouter-asgi" / "footprints.json"
    assert not (tmp_path / "cache").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="HOME is POSIX")
@pytest.mark.parametrize(
    ("environ", "platform", "folder"),
    [
        ({"XDG_CACHE_HOME": "/var/cache/me"}, "linux", "/var/cache/me"),
        ({"XDG_CACHE_HOME": "/var/cache/me"}, "darwin", "/var/cache/me"),
        ({}, "linux", "/home/me/.cache"),
        ({"XDG_CACHE_HOME": ""}, "linux", "/home/me/.cache"),
        ({"XDG_CACHE_HOME": "cache"}, "linux", "/home/me/.cache"),
        ({}, "darwin", "/home/me/Library/Caches"),
    ],
)
def test_the_cache_folder_is_where_the_system_has_it(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], platform: str, folder: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_folder(environ, platform=platform) == Path(folder)


def test_a_user_without_a_home_has_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container; then what was measured is kept in memory."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder({}) is None
    assert VRAMSettings().footprints_file is None


@pytest.mark.skipif(sys.platform == "win32", reason="HOME is POSIX")
@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("/var/lib/me/sizes.json", "/var/lib/me/sizes.json"),
        ("sizes.json", "sizes.json"),
        ('"~/sizes.json"', "/home/me/sizes.json"),
    ],
)
def test_a_path_is_taken_as_it_is(
    load: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, text: str, file: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert load(FILE % text).vram.footprints_file == Path(file)


def test_false_means_no_file(load: Callable[..., Settings]) -> None:
    assert load(FILE % "false").vram.footprints_file is None


@pytest.mark.parametrize("text", ['""', "null"])
def test_an_empty_value_is_the_default(load: Callable[..., Settings], text: str) -> None:
    assert load(FILE % text).vram.footprints_file == Settings().vram.footprints_file


@pytest.mark.parametrize("text", ["true", "7", "[a]", "{a: b}", '"  "', '"a\\0b"'])
def test_anything_else_is_refused(refusal: Callable[..., list[str]], text: str) -> None:
    (line,) = refusal(FILE % text)
    assert line.startswith("router.yaml: vram.footprints: ")
    assert line.endswith("expected the path of a file, or false")


def test_a_home_that_is_not_known_is_refused(refusal: Callable[..., list[str]]) -> None:
    (line,) = refusal(FILE % '"~nobody-of-this-name/x"')
    assert line.endswith("this one starts with a home that is not known")


def test_the_schema_knows_both() -> None:
    vram = settings_schema()["$defs"]["VRAMSettings"]["properties"]
    assert {"const": False} in vram["footprints"]["anyOf"]
