"""Several observers as one: each is told what it hears of, and none spoils it for the others."""

from __future__ import annotations

import logging
from unittest.mock import Mock

import pytest

from smartrouter_asgi.events import AttemptFinished, BreakerChanged, Event, StreamFinished
from smartrouter_asgi.observers import Observers

OPEN = BreakerChanged(backend="b", operation="chat", state="open")
ENDED = StreamFinished(backend="b", operation="stream", outcome="ok")


class Hears:
    """Takes one type of event itself, and hears of no other."""

    def __init__(self) -> None:
        self.heard: list[Event] = []
        self.hears = {BreakerChanged: self.heard.append}

    def on_event(self, event: Event) -> None:
        raise AssertionError("not called for one that says what it hears")


def test_an_observer_is_told_of_what_it_hears_alone():
    one = Hears()
    observers = Observers((one,))
    for event in (OPEN, ENDED, OPEN):
        observers.on_event(event)
    assert one.heard == [OPEN, OPEN]


def test_an_observer_that_does_not_say_hears_everything():
    """A mock has every attribute there is, and says nothing by it."""
    mock = Mock()
    observers = Observers((mock,))
    for event in (OPEN, ENDED):
        observers.on_event(event)
    assert [call.args[0] for call in mock.on_event.call_args_list] == [OPEN, ENDED]


def test_one_that_raises_is_logged_once_and_keeps_nobody_else_from_being_told(caplog: pytest.LogCaptureFixture):
    bad, good = Mock(), Mock()
    bad.on_event.side_effect = ValueError("bug")
    observers = Observers((bad, good))
    attempt = AttemptFinished(backend="b", model="m", operation="chat", number=1, outcome="ok", duration_s=0.1)
    with caplog.at_level(logging.ERROR):
        for event in (OPEN, ENDED, attempt):
            observers.on_event(event)
    assert good.on_event.call_count == bad.on_event.call_count == 3
    assert len(caplog.records) == 1
