"""Concurrent calls of all styles reach their own callbacks; litellm's callbacks work as before."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import litellm
import pytest
from helpers import TIMEOUT, in_threads
from litellm.integrations.custom_logger import CustomLogger
from litellm.litellm_core_utils import litellm_logging
from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER
from styles import STYLES, Listener, asked, call_async, call_async_stream, run_async

import crewbus_litellm

THREADS, CALLS = 8, 25
LISTS = [name for name in vars(litellm) if name.endswith("_callback") or name == "callbacks"]
"""litellm's global lists of callbacks."""


def served_text(call: str) -> str:
    """What the server streams for ``call``."""
    return "Final Answer: " + "".join(f"{call}:{i} " for i in range(3))


def test_200_concurrent_calls_each_reach_only_their_own_callback(bus, url):
    """8 threads of 25 calls in four styles; each call has a callback of one class."""
    styles = list(STYLES.items())

    def work(thread):
        for i in range(CALLS):
            call = f"t{thread}c{i}"
            style, function = styles[(thread + i) % len(styles)]
            listener = Listener()
            with bus.callbacks(listener):
                function(**asked(url, f"RUN={call} CHUNKS=3"))
            yield call, style, listener

    before = {name: (getattr(litellm, name), list(getattr(litellm, name))) for name in LISTS}
    heard = [one for thread in in_threads(THREADS, lambda thread: list(work(thread))) for one in thread]
    at_home = sum(listener.end.output.strip() == served_text(call).strip() for call, _, listener in heard)
    assert (len(heard), at_home) == (THREADS * CALLS, THREADS * CALLS)
    for call, style, listener in heard:
        assert listener.names[0] == "CallStarted"
        assert len([name for name in listener.names if name.startswith("Call")]) == 2
        assert listener.text == (served_text(call) if "stream" in style else "")
    for name, (known, held) in before.items():
        assert getattr(litellm, name) is known
        assert getattr(litellm, name) == held


def test_tasks_on_one_loop_have_separate_callbacks(bus, url):
    async def one(call, function):
        listener = Listener()
        with bus.callbacks(listener):
            await function(**asked(url, f"RUN={call} CHUNKS=3"))
        return call, listener

    async def main():
        styles = [call_async, call_async_stream]
        return await asyncio.gather(*(one(f"task{i}", styles[i % 2]) for i in range(40)))

    for call, listener in run_async(main):
        assert listener.end.output.strip() == served_text(call).strip()
        assert set(listener.names) - {"Chunk"} == {"CallStarted", "CallFinished"}


def test_interleaved_streams_in_one_thread_are_separate_calls(bus, url):
    listeners = [Listener() for _ in range(5)]
    streams = []
    for i, listener in enumerate(listeners):
        with bus.callbacks(listener):
            streams.append(litellm.completion(stream=True, **asked(url, f"RUN=s{i} CHUNKS=3")))
    live = [iter(stream) for stream in streams]
    while live:
        live = [stream for stream in live if next(stream, None) is not None]
    for i, listener in enumerate(listeners):
        assert listener.text == served_text(f"s{i}")


class Counter(CustomLogger):
    """A user's own global logger."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.lock = threading.Lock()

    def count(self, name: str) -> None:
        with self.lock:
            self.counts[name] = self.counts.get(name, 0) + 1

    def log_pre_api_call(self, model, messages, kwargs):
        self.count("pre")

    def log_success_event(self, kwargs, response_obj, start_time, end_time):
        self.count("success")

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        self.count("async success")

    def log_failure_event(self, kwargs, response_obj, start_time, end_time):
        self.count("failure")


@pytest.fixture
def counting(own_lists, monkeypatch):
    """A logger and a plain function of the user's, as litellm wants them.

    litellm calls plain functions by a logger that it makes for the first callback of a process if that is one, and
    otherwise at some later call: it has one here, whatever came before.
    """
    monkeypatch.setattr(litellm_logging, "customLogger", CustomLogger())
    counter = Counter()
    litellm.callbacks = [counter]
    litellm.success_callback = [lambda kwargs, response, start, end: counter.count("function")]
    return counter


@pytest.mark.parametrize("style", STYLES)
def test_global_litellm_callbacks_are_called_as_often_as_unpatched(bus, url, counting, style):
    crewbus_litellm.uninstall()
    stock = counts_of(counting, lambda: STYLES[style](**asked(url)))
    crewbus_litellm.install(bus)
    with bus.callbacks(Listener()):
        ours = counts_of(counting, lambda: STYLES[style](**asked(url)))
    if style == "sync stream":  # stock litellm calls a plain function once or several times then, as threads race
        assert stock.pop("function") >= 1 <= ours.pop("function")
    assert ours == stock
    assert stock


def counts_of(counter: Counter, call: Callable[[], Any]) -> dict[str, int]:
    """What is counted for a call, and not for those before it."""
    settle(counter)
    counter.counts.clear()
    call()
    settle(counter)
    return dict(counter.counts)


def settle(counter: Counter) -> None:
    """Let litellm's logging tasks and threads come to rest: nothing says when they have, so look a while."""
    asyncio.run(GLOBAL_LOGGING_WORKER.flush())
    until = time.monotonic() + TIMEOUT
    seen = [dict(counter.counts)]
    while len(seen) < 30 or seen[-30] != seen[-1]:
        assert time.monotonic() < until, seen[-1]
        time.sleep(0.01)
        seen.append(dict(counter.counts))
