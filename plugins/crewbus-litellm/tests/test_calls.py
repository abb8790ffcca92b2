"""One call: its callbacks receive its events, and the caller gets the same as from unpatched litellm."""

from __future__ import annotations

import asyncio

import litellm
import pytest
from helpers import TIMEOUT
from scripted import USAGE, fails, says, streams
from styles import STYLES, Listener, asked, run_async, sync

import crewbus
import crewbus_litellm

TOOLS = [{"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"q": 1}'}}]


@pytest.mark.parametrize("style", STYLES)
def test_a_call_is_a_crewbus_call_with_the_callbacks_in_scope(bus, url, style):
    listener = Listener()
    with bus.callbacks(listener):
        text = STYLES[style](**asked(url))
    chunks = 4 if "stream" in style else 0
    assert listener.names == ["CallStarted", *["Chunk"] * chunks, "CallFinished"]
    assert listener.events[0].name == "openai/gpt-4o-mini"
    assert listener.text == (text if chunks else "")
    assert text.strip() == "Final Answer: a:0 a:1 a:2"
    assert listener.end.output == text
    assert {envelope.source for envelope in listener.envelopes} == {"litellm"}


@pytest.mark.parametrize("style", STYLES)
def test_the_callbacks_of_an_enclosing_call_receive_it(bus, url, style):
    listener = Listener()
    with bus.call("agent", callbacks=[listener]):
        STYLES[style](**asked(url))
    assert [event.name for event in listener.events if isinstance(event, crewbus.CallStarted)] == [
        "agent",
        "openai/gpt-4o-mini",
    ]
    assert listener.names.count("CallFinished") == 2


@pytest.mark.parametrize("style", STYLES)
def test_a_run_streams_the_chunks_of_its_call_once(bus, url, style):
    with bus.stream(STYLES[style], **asked(url)) as stream:
        frames = [envelope.event for envelope in stream]
        assert stream.text() == (stream.result() if "stream" in style else "")
    assert [type(frame).__name__ for frame in frames[-1:]] == ["RunFinished"]


def test_usage_and_cost_are_those_of_the_response(bus, server):
    listener = Listener()
    with bus.callbacks(listener):
        response = litellm.completion(**asked(server.tell(says("Tides."))))
    assert {name: getattr(response.usage, name) for name in USAGE} == USAGE
    counted = USAGE | {"input_tokens": 7, "output_tokens": 5}
    assert listener.end == crewbus.CallFinished("Tides.", counted, response._hidden_params["response_cost"])
    assert listener.end.cost > 0


@pytest.mark.parametrize("style", ["sync stream", "async stream"])
def test_a_stream_has_the_usage_that_the_provider_reports(bus, server, style):
    listener = Listener()
    url = server.tell(streams({"content": "Ti"}, {"content": "des."}, usage=True))
    with bus.callbacks(listener):
        STYLES[style](**asked(url, stream_options={"include_usage": True}))
    assert listener.end.usage.items() >= USAGE.items()
    assert listener.end.cost > 0
    assert all(type(count) is int for count in listener.end.usage.values())


def test_nested_usage_counts_are_flattened():
    from crewbus_litellm.answer import answer_of

    usage = litellm.Usage(
        prompt_tokens=7, completion_tokens=5, total_tokens=12, prompt_tokens_details={"cached_tokens": 3}
    )
    answer = answer_of(litellm.ModelResponse(usage=usage))
    assert answer.usage.items() >= {"total_tokens": 12, "prompt_tokens_details.cached_tokens": 3}.items()
    assert answer.usage.items() >= {"input_tokens": 7, "output_tokens": 5, "cached_input_tokens": 3}.items()


@pytest.mark.parametrize("style", ["sync", "async"])
def test_an_answer_that_calls_tools_is_a_message(bus, server, style):
    listener = Listener()
    with bus.callbacks(listener):
        STYLES[style](**asked(server.tell(says(None, tool_calls=TOOLS))))
    assert listener.end.output == {"content": None, "tool_calls": TOOLS}


def test_several_choices_are_a_list(bus, server):
    listener = Listener()
    with bus.callbacks(listener):
        litellm.completion(**asked(server.url, n=2, mock_response="same"))
    assert listener.end.output == ["same", "same"]


@pytest.mark.parametrize("style", STYLES)
def test_a_failing_call_ends_with_the_error_that_is_raised(bus, server, style):
    server.tell(fails(401))
    crewbus_litellm.uninstall()
    with pytest.raises(litellm.AuthenticationError) as stock:
        STYLES[style](**asked(server.url))
    crewbus_litellm.install(bus)
    listener = Listener()
    with bus.callbacks(listener), pytest.raises(litellm.AuthenticationError) as ours:
        STYLES[style](**asked(server.url))
    assert listener.names == ["CallStarted", "CallFailed"]
    assert listener.end.error == "litellm.exceptions.AuthenticationError"
    assert listener.end.message == str(ours.value) == str(stock.value)
    assert type(ours.value.__context__) is type(stock.value.__context__)


def test_the_response_is_that_of_unpatched_litellm(bus, server):
    server.tell(says("Tides."))
    ours = litellm.completion(**asked(server.url))
    crewbus_litellm.uninstall()
    stock = litellm.completion(**asked(server.url))
    assert type(ours) is type(stock)
    assert ours.model_dump() == stock.model_dump()
    assert ours._hidden_params.keys() == stock._hidden_params.keys()


@pytest.mark.parametrize("style", STYLES)
def test_the_request_is_that_of_unpatched_litellm(bus, server, style):
    answer = streams({"content": "Tides."}) if "stream" in style else says("Tides.")
    server.tell(answer)
    STYLES[style](**asked(server.url))
    crewbus_litellm.uninstall()
    STYLES[style](**asked(server.url))
    ours, stock = server.requests
    assert ours == stock


def test_invalid_arguments_raise_the_same_error_as_unpatched(bus):
    with pytest.raises(TypeError) as ours:
        litellm.completion()
    crewbus_litellm.uninstall()
    with pytest.raises(TypeError) as stock:
        litellm.completion()
    assert str(ours.value) == str(stock.value)


def test_a_positional_model_names_the_call(bus, url):
    listener = Listener()
    options = asked(url)
    with bus.callbacks(listener):
        litellm.completion(options.pop("model"), options.pop("messages"), **options)
    assert listener.events[0].name == "openai/gpt-4o-mini"


def test_a_call_made_inside_a_custom_provider_is_a_separate_call(bus, url):
    class Proxy(litellm.CustomLLM):
        def completion(self, *args, **kwargs):
            return litellm.completion(**asked(url))

    listener = Listener()
    litellm.custom_provider_map = [{"provider": "proxy", "custom_handler": Proxy()}]
    try:
        with bus.callbacks(listener):
            sync(model="proxy/x", messages=[{"role": "user", "content": "?"}])
    finally:
        litellm.custom_provider_map = []
    assert listener.names == ["CallStarted", "CallStarted", "CallFinished", "CallFinished"]
    assert [event.name for event in listener.events[:2]] == ["proxy/x", "openai/gpt-4o-mini"]


def test_a_mocked_call_is_a_call(bus):
    listener = Listener()
    with bus.callbacks(listener):
        sync(**asked("http://127.0.0.1:9", mock_response="mocked"))
    assert (listener.names, listener.end.output) == (["CallStarted", "CallFinished"], "mocked")


def test_a_task_that_is_cancelled_cancels_its_call(bus, server):
    listener = Listener()
    server.tell(says("never heard"))

    async def main():
        with bus.callbacks(listener):
            task = asyncio.create_task(litellm.acompletion(**asked(server.url)))
        await asyncio.wait_for(arrival(server), TIMEOUT)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    server.free.clear()
    try:
        run_async(main)
    finally:
        server.free.set()
    assert listener.names == ["CallStarted", "CallCancelled"]


async def arrival(server):
    while not server.requests:  # noqa: ASYNC110 - another thread's
        await asyncio.sleep(0.001)
