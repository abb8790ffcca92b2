"""The undertaker: there while streams are under way, gone soon after, and there again in a forked child."""

from __future__ import annotations

import logging
import os
import threading

import pytest
from helpers import TIMEOUT

from crewbus_litellm import _undertaker
from crewbus_litellm._undertaker import Undertaker


@pytest.fixture
def brief(monkeypatch):
    monkeypatch.setattr(_undertaker, "LINGER", 0.01)


def threads():
    return {thread for thread in threading.enumerate() if thread.name == "crewbus-litellm"}


def test_its_thread_ends_when_nothing_is_under_way_and_comes_back(brief):
    before, undertaker = threads(), Undertaker()
    for _ in range(2):
        undertaker.expect()
        undertaker.expect()
        (thread,) = threads() - before
        undertaker.dismiss()
        buried = threading.Event()
        undertaker.bury(buried.set)
        assert buried.wait(TIMEOUT)
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def test_its_thread_stays_while_a_stream_is_under_way(brief):
    before, undertaker = threads(), Undertaker()
    undertaker.expect()
    (thread,) = threads() - before
    thread.join(0.1)
    assert thread.is_alive()
    undertaker.dismiss()
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def test_a_burial_that_fails_is_logged_and_the_next_one_is_held(brief, caplog):
    caplog.set_level(logging.ERROR, "crewbus")
    undertaker, buried = Undertaker(), threading.Event()
    for burial in (fails, buried.set):
        undertaker.expect()
        undertaker.bury(burial)
    assert buried.wait(TIMEOUT)
    assert "not recorded" in caplog.text


def fails():
    raise KeyboardInterrupt("not recorded")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_forked_child_has_one_of_its_own():
    undertaker = _undertaker.undertaker
    undertaker.expect()
    child = os.fork()
    if not child:
        try:
            undertaker.expect()
            buried = threading.Event()
            undertaker.bury(buried.set)
            os._exit(0 if buried.wait(TIMEOUT) else 1)
        finally:
            os._exit(2)
    undertaker.dismiss()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
