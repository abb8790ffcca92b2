"""The stream reaper: its thread lives while streams are open, and starts again in a forked child."""

from __future__ import annotations

import logging
import os
import threading

import pytest
from helpers import TIMEOUT

from crewbus_litellm import stream_reaper
from crewbus_litellm.stream_reaper import StreamReaper


@pytest.fixture
def short_idle(monkeypatch):
    monkeypatch.setattr(stream_reaper, "IDLE_SECONDS", 0.01)


def threads():
    return {thread for thread in threading.enumerate() if thread.name == "crewbus-litellm"}


def test_the_thread_ends_without_open_streams_and_starts_again(short_idle):
    before, reaper = threads(), StreamReaper()
    for _ in range(2):
        reaper.stream_opened()
        reaper.stream_opened()
        (thread,) = threads() - before
        reaper.stream_ended()
        reaped = threading.Event()
        reaper.reap(reaped.set)
        assert reaped.wait(TIMEOUT)
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def test_the_thread_stays_while_a_stream_is_open(short_idle):
    before, reaper = threads(), StreamReaper()
    reaper.stream_opened()
    (thread,) = threads() - before
    thread.join(0.1)
    assert thread.is_alive()
    reaper.stream_ended()
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def test_an_error_is_logged_and_the_next_stream_is_reaped(short_idle, caplog):
    caplog.set_level(logging.ERROR, "crewbus")
    reaper, reaped = StreamReaper(), threading.Event()
    for end_call in (fails, reaped.set):
        reaper.stream_opened()
        reaper.reap(end_call)
    assert reaped.wait(TIMEOUT)
    assert "not recorded" in caplog.text


def fails():
    raise KeyboardInterrupt("not recorded")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_forked_child_starts_its_own_thread():
    reaper = stream_reaper.reaper
    reaper.stream_opened()
    child = os.fork()
    if not child:
        try:
            reaper.stream_opened()
            reaped = threading.Event()
            reaper.reap(reaped.set)
            os._exit(0 if reaped.wait(TIMEOUT) else 1)
        finally:
            os._exit(2)
    reaper.stream_ended()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
