"""Streams: the object that the caller gets, where and how it is consumed, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import weakref
from contextlib import suppress

import litellm
import pytest
from helpers import TIMEOUT, in_thread
from lifecycle_helpers import until
from litellm.integrations.custom_logger import CustomLogger
from scripted import streams
from served import RECORDED, recorded
from styles import STYLES, Listener, asked, run_async, text_of

import crewbus
import crewbus_litellm
from crewbus_litellm.answer import answer_streamed
from crewbus_litellm.stream import watch
from crewbus_litellm.transcript import Completion

CHATS = [answer for answer in recorded() if answer["api"] == "chat.completions"]
SOME = [chat for chat in CHATS if chat["tool_call_chunks"]] + [chat for chat in CHATS if chat["text_chunks"]][:6]

needs_recorded = pytest.mark.skipif(not CHATS, reason=f"needs {RECORDED.name} in the folder shared beside the checkout")


@pytest.fixture
def listener(bus):
    """A callback for all calls of a test."""
    listener = Listener()
    with bus.callbacks(listener):
        yield listener


def ended(listener):
    """The terminal event, which another thread may be telling yet."""
    # litellm's logging threads hold a stream a little longer than the user
    collect_until(lambda: any(isinstance(event, crewbus.CallEnded) for event in listener.events))
    return listener.end


def collect_until(condition):
    """Collect garbage until ``condition`` holds."""

    def holds():
        gc.collect()
        return condition()

    until(holds)


def kept():
    """What we keep for streams that are under way."""
    return [thing for thing in gc.get_objects() if type(thing).__name__ in {"Watch", "Observation", "Call"}]


# What is emitted


@needs_recorded
@pytest.mark.parametrize("style", ["sync stream", "async stream"])
@pytest.mark.parametrize("chat", SOME, ids=[chat["id"] for chat in SOME])
def test_recorded_streams_are_reported_as_served(listener, url, chat, style):
    text = STYLES[style](**asked(url, model=f"openai/{chat['id']}", stream_options={"include_usage": True}))
    events = [json.loads(line[6:]) for line in chat["sse"].split("\n\n") if line.startswith("data: {")]
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    calls = [call for delta in deltas for call in delta.get("tool_calls") or ()]
    assert listener.text == text == chat["text"]
    assert listener.spelled("tool_call") == "".join(call["function"].get("arguments", "") for call in calls)
    if calls:
        (received,) = listener.end.output["tool_calls"]
        assert received["function"]["arguments"] == listener.spelled("tool_call")
        assert (received["id"], received["function"]["name"]) == (calls[0]["id"], calls[0]["function"]["name"])
    else:
        assert listener.end.output == chat["text"]
    (usage,) = [event["usage"] for event in events if event.get("usage")] or [None]
    if usage is not None:
        assert listener.end.usage["total_tokens"] == usage["total_tokens"]
        assert listener.end.cost > 0  # by the model that answered, whatever the one asked is called


@pytest.mark.parametrize("style", ["sync stream", "async stream"])
def test_reasoning_is_a_kind_of_its_own(listener, server, style):
    server.tell(streams({"reasoning_content": "Hm, "}, {"reasoning_content": "the moon."}, {"content": "The moon."}))
    assert STYLES[style](**asked(server.url)) == "The moon."
    assert [(chunk.kind, chunk.text) for chunk in listener.events[1:-1]] == [
        ("reasoning", "Hm, "),
        ("reasoning", "the moon."),
        ("text", "The moon."),
    ]
    assert listener.end.output == "The moon."


def test_parallel_tool_calls_are_assembled_separately(listener, server):
    def first(index, name):
        function = {"name": name, "arguments": ""}
        return {"tool_calls": [{"index": index, "id": f"id-{name}", "type": "function", "function": function}]}

    def piece(index, arguments):
        return {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}

    server.tell(streams(first(0, "a"), piece(0, "{"), first(1, "b"), piece(1, "["), piece(0, "}"), piece(1, "]")))
    parts = list(litellm.completion(stream=True, **asked(server.url)))
    assert listener.end.output["tool_calls"] == [
        {"id": "id-a", "type": "function", "function": {"name": "a", "arguments": "{}"}},
        {"id": "id-b", "type": "function", "function": {"name": "b", "arguments": "[]"}},
    ]
    assert answer_streamed(parts).output["tool_calls"] == listener.end.output["tool_calls"]


def test_only_the_first_of_several_choices_is_streamed(bus, monkeypatch):
    """The texts of others would run into it."""
    listener = Listener()
    with bus.callbacks(listener):
        list(litellm.completion(stream=True, **asked("http://127.0.0.1:9", n=2, mock_response="Tides.")))
    assert listener.text == "Tides."


class Logger(CustomLogger):
    """What litellm's own logging says a stream took."""

    def __init__(self):
        super().__init__()
        self.usages = []
        self.received = threading.Event()

    def log_success_event(self, kwargs, response_obj, start_time, end_time):
        self.usages.append(response_obj.usage)
        self.received.set()


def test_without_reported_usage_litellms_count_is_used(listener, url, own_lists):
    logger = Logger()
    litellm.callbacks = [logger]
    list(litellm.completion(stream=True, **asked(url)))
    assert logger.received.wait(TIMEOUT)
    usage = logger.usages[-1]
    if usage.total_tokens:
        assert listener.end.usage["total_tokens"] == usage.total_tokens
        assert listener.end.cost > 0
    else:  # as some versions have it
        assert (listener.end.usage, listener.end.cost) == (None, None)


# What the user holds


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_stream_is_an_instance_of_litellms_wrapper(bus, url, asynchronous):
    async def main():
        stream = await litellm.acompletion(stream=True, **asked(url))
        async for _ in stream:
            pass
        return stream

    def get():
        if asynchronous:
            return run_async(main)
        stream = litellm.completion(stream=True, **asked(url))
        list(stream)
        return stream

    ours = get()
    crewbus_litellm.uninstall()
    stock = get()
    assert isinstance(ours, litellm.CustomStreamWrapper)
    assert type(ours).__name__ == type(stock).__name__
    assert type(ours).__module__ == type(stock).__module__
    assert iter(ours) is ours
    assert aiter(ours) is ours
    assert ours._hidden_params.keys() == stock._hidden_params.keys()
    assert {name for name in dir(stock) if not name.startswith("_")} == {
        name for name in dir(ours) if not name.startswith("_")
    }
    assert set(vars(ours)) - {"_crewbus_watcher"} == set(vars(stock))


def test_the_stream_parts_are_those_of_unpatched_litellm(bus, server):
    server.tell(streams({"content": "Ti"}, {"content": "des"}, usage=True))

    def parts():
        stream = litellm.completion(stream=True, **asked(server.url))
        return [part.model_dump(exclude={"created"}) for part in stream]

    ours = parts()
    crewbus_litellm.uninstall()
    assert ours == parts()


# Where it is consumed


@pytest.mark.parametrize("elsewhere", [list, lambda stream: in_thread(list, stream).result(TIMEOUT)])
def test_a_stream_consumed_outside_the_with_belongs_to_its_call(bus, url, elsewhere):
    inside, outside = Listener(), Listener()
    with bus.callbacks(inside):
        stream = litellm.completion(stream=True, **asked(url))
    with bus.callbacks(outside):
        parts = elsewhere(stream)
    assert inside.text == "".join(map(text_of, parts))
    assert inside.names[-1] == "CallFinished"
    assert outside.envelopes == []


def test_a_stream_consumed_in_a_thread_without_context_belongs_to_its_run(bus, url):
    with bus.run() as run:
        watching = bus.subscribe(run.id)
        stream = litellm.completion(stream=True, **asked(url))
        parts = in_thread(list, stream).result(TIMEOUT)
        run.finish()
        assert watching.text() == "".join(map(text_of, parts))


def test_an_asynchronous_stream_consumed_in_another_task(listener, url):
    async def main():
        stream = await litellm.acompletion(stream=True, **asked(url))

        async def consume():
            return "".join([text_of(part) async for part in stream])

        return await asyncio.create_task(consume())

    text = asyncio.run(main())
    assert (listener.text, listener.names[-1]) == (text, "CallFinished")


def test_a_stream_consumed_after_uninstalling_is_reported_to_its_end(listener, url):
    stream = litellm.completion(stream=True, **asked(url))
    crewbus_litellm.uninstall()
    text = "".join(map(text_of, stream))
    assert (listener.text, listener.names[-1]) == (text, "CallFinished")


def test_iterating_after_the_end_reports_nothing_more(listener, url):
    stream = litellm.completion(stream=True, **asked(url))
    received = len(list(stream)), len(listener.events)
    assert next(stream, None) is None
    assert len(listener.events) == received[1]


# How it ends


@pytest.mark.parametrize("style", ["sync stream", "async stream"])
def test_an_interrupted_stream_fails_as_in_unpatched_litellm(listener, url, bus, style):
    with pytest.raises(litellm.exceptions.MidStreamFallbackError) as ours:
        STYLES[style](**asked(url, "RUN=a CHUNKS=9 FAIL=4"))
    assert listener.text == "Final Answer: a:0 a:1 a:2 "
    assert listener.names[-1] == "CallFailed"
    assert listener.end.error == f"{type(ours.value).__module__}.{type(ours.value).__qualname__}"
    crewbus_litellm.uninstall()
    with pytest.raises(litellm.exceptions.MidStreamFallbackError) as stock:
        STYLES[style](**asked(url, "RUN=a CHUNKS=9 FAIL=4"))
    assert str(stock.value) == str(ours.value) == listener.end.message


def test_an_abandoned_stream_is_cancelled_and_leaks_nothing(listener, url):
    stream = litellm.completion(stream=True, **asked(url))
    next(stream)
    gone = weakref.ref(stream)
    del stream
    assert ended(listener) == crewbus.CallCancelled("the stream was abandoned")
    assert gone() is None
    assert listener.text == "Final Answer: "


def test_a_stream_that_is_never_iterated_is_cancelled(listener, url):
    litellm.completion(stream=True, **asked(url))
    assert ended(listener) == crewbus.CallCancelled("the stream was abandoned")


def test_a_stream_left_after_its_last_part_is_finished(listener, url):
    stream = litellm.completion(stream=True, **asked(url))
    while next(stream).choices[0].finish_reason is None:
        pass
    del stream
    assert ended(listener).output == "Final Answer: a:0 a:1 a:2 "


def test_the_thread_that_ends_abandoned_streams_is_not_the_one_that_collects(bus, url):
    threads = []
    with bus.callbacks(lambda envelope: threads.append((type(envelope.event), threading.current_thread()))):
        litellm.completion(stream=True, **asked(url))
    collect_until(lambda: threads[-1][0] is crewbus.CallCancelled)
    assert threads[-1][1] is not threading.current_thread()


def test_an_abandoned_stream_whose_callback_collects_and_holds_a_lock(bus, url):
    """What a finaliser would do: call a callback inside the very lock that it needs."""
    lock, done = threading.Lock(), threading.Event()

    def callback(envelope):
        with lock:
            if isinstance(envelope.event, crewbus.CallCancelled):
                done.set()

    with bus.callbacks(callback):
        litellm.completion(stream=True, **asked(url))

        def collect_inside():
            with lock:
                gc.collect()
            return done.is_set()

        until(collect_inside)


def test_an_asynchronous_stream_that_is_closed_is_cancelled(listener, url):
    async def main():
        stream = await litellm.acompletion(stream=True, **asked(url))
        await anext(stream)
        await stream.aclose()

    asyncio.run(main())
    assert listener.end == crewbus.CallCancelled("the stream was closed")


class ClosesFirst:
    """A stream that closes itself before it says what is wrong, as litellm may."""

    async def __anext__(self):
        await self.aclose()
        raise OSError("torn")

    async def aclose(self):
        pass


class Outcome:
    """In place of an observation."""

    def __init__(self):
        self.ends = []

    def fail(self, error):
        self.ends.append(error)


def test_a_stream_that_closes_itself_before_it_fails_has_failed():
    stream, received = ClosesFirst(), Outcome()
    watch(stream, received, Completion())
    with pytest.raises(OSError, match="torn") as raised:
        asyncio.run(stream.__anext__())
    assert received.ends == [raised.value]


def test_a_task_cancelled_while_it_waits_for_a_part_cancels_the_call(listener, url):
    async def main():
        stream = await litellm.acompletion(stream=True, **asked(url, "RUN=a CHUNKS=3 DELAY=9"))
        await anext(stream)
        task = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert listener.names == ["CallStarted", "Chunk", "CallCancelled"]


def test_a_cancelled_run_ends_the_iteration(bus, url):
    listener = Listener()
    with bus.callbacks(listener), suppress(crewbus.Cancelled), bus.run() as run:
        for part in litellm.completion(stream=True, **asked(url)):
            if "a:0" in text_of(part):
                run.cancel("enough")
    assert listener.text == "Final Answer: a:0 "
    assert listener.names[-1] == "CallCancelled"
    assert "enough" in listener.end.reason


def test_a_class_defined_for_one_stream_is_not_kept_alive(bus):
    class OneStream(ClosesFirst):
        pass

    stream, gone = OneStream(), weakref.ref(OneStream)
    watch(stream, Outcome(), Completion())
    assert isinstance(stream, OneStream)
    del stream, OneStream
    collect_until(lambda: gone() is None)  # the reaper has to release it


def test_many_abandoned_streams_leave_nothing_behind(bus, url):
    next(litellm.completion(stream=True, **asked(url)))  # litellm keeps the context of its first call
    gc.collect()
    before = len(kept())
    for _ in range(20):
        next(litellm.completion(stream=True, **asked(url)))
    collect_until(lambda: len(kept()) <= before)
