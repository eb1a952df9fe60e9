"""Laws of the keys for paths of a foreign app."""

from __future__ import annotations

from smartrouter_asgi.resilience.keys import PathKeys


def test_each_path_has_its_own_key_while_there_is_a_place_and_the_rest_share_one() -> None:
    keys = PathKeys(max_keys=2)
    assert [keys.key(path) for path in ("/a", "/b", "/c", "/a", "/b", "/d")] == [
        "/a",
        "/b",
        "other",
        "/a",
        "/b",
        "other",
    ]


def test_a_hundred_paths_have_a_place_unless_said_otherwise() -> None:
    keys = PathKeys()
    paths = [f"/{number}" for number in range(101)]
    assert [keys.key(path) for path in paths] == [*paths[:100], "other"]


def test_a_path_that_was_served_once_is_not_forgotten() -> None:
    keys = PathKeys(max_keys=1)
    keys.keep("/b")
    assert keys.key("/a") == "/a"
    keys.keep("/a")
    assert not keys.forget("/a")
    assert keys.key("/b") == "other"


def test_a_path_that_is_forgotten_gives_its_place_to_another_once() -> None:
    keys = PathKeys(max_keys=1)
    keys.key("/a")
    assert keys.key("/b") == "other"
    assert not keys.forget("/b"), "it had none"
    assert keys.key("/b") == "other"
    assert keys.forget("/a")
    assert not keys.forget("/a")
    assert keys.key("/b") == "/b"
    assert keys.key("/a") == "other"
