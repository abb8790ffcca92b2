"""Retries and fallbacks are attempts of one call."""

from __future__ import annotations

import asyncio
import logging

import litellm
import pytest
from scripted import fails, says, streams
from styles import Listener, asked, run_async, sync, text_of

import crewbus

NO_SERVER = "http://127.0.0.1:9/v1"
REFUSED = fails(400)
"""A failure that litellm retries; the provider's SDK would retry a 500 by itself."""


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.CRITICAL)


@pytest.fixture
def listener(bus):
    listener = Listener()
    with bus.callbacks(listener):
        yield listener


def attempts(listener):
    return [event.number for event in listener.events if isinstance(event, crewbus.AttemptStarted)]


def calls(listener):
    return [name for name in listener.names if name in {"CallStarted", "CallFinished", "CallFailed"}]


def both(function, asynchronous):
    """``function`` of litellm's or of a Router's, or its asynchronous twin."""
    if not asynchronous:
        return function.completion
    return lambda **options: run_async(function.acompletion, **options)


each_way = pytest.mark.parametrize("asynchronous", [False, True])


# Retries


@each_way
def test_retries_are_attempts_of_one_call(listener, server, asynchronous):
    pytest.importorskip("tenacity", reason="litellm retries with tenacity")
    server.tell(REFUSED, REFUSED, says("At last."))
    both(litellm, asynchronous)(**asked(server.url, num_retries=2))
    assert len(server.requests) == 3
    assert calls(listener) == ["CallStarted", "CallFinished"]
    assert attempts(listener) == [2, 3]
    assert listener.end.output == "At last."


@each_way
def test_a_call_whose_retries_fail_fails_once(listener, server, asynchronous):
    pytest.importorskip("tenacity", reason="litellm retries with tenacity")
    server.tell(REFUSED)
    with pytest.raises(litellm.BadRequestError) as raised:
        both(litellm, asynchronous)(**asked(server.url, num_retries=2))
    assert calls(listener) == ["CallStarted", "CallFailed"]
    assert attempts(listener) == [2, 3]
    assert listener.end.message == str(raised.value)
    assert [event.reason for event in listener.events if isinstance(event, crewbus.Retracted)]


@each_way
def test_the_chunks_of_a_retry_have_its_attempt_number(listener, server, asynchronous):
    pytest.importorskip("tenacity", reason="litellm retries with tenacity")
    server.tell(REFUSED, streams({"content": "At "}, {"content": "last."}))

    async def consume(**options):
        return [part async for part in await litellm.acompletion(**options)]

    options = asked(server.url, num_retries=1, stream=True)
    parts = run_async(consume, **options) if asynchronous else list(litellm.completion(**options))
    assert listener.text == "".join(map(text_of, parts)) == "At last."
    chunks = [envelope for envelope in listener.envelopes if isinstance(envelope.event, crewbus.Chunk)]
    assert {envelope.attempt for envelope in chunks} == {2}
    assert (calls(listener), attempts(listener)) == (["CallStarted", "CallFinished"], [2])


@each_way
def test_litellms_retrying_wrappers_make_one_call(listener, server, asynchronous):
    pytest.importorskip("tenacity", reason="litellm retries with tenacity")
    server.tell(REFUSED, says("At last."))
    if asynchronous:
        run_async(litellm.acompletion_with_retries, original_function=litellm.acompletion, **asked(server.url))
    else:
        litellm.completion_with_retries(**asked(server.url))
    assert (calls(listener), attempts(listener)) == (["CallStarted", "CallFinished"], [2])


def test_a_call_made_inside_a_retried_provider_is_a_separate_call(listener, url):
    pytest.importorskip("tenacity", reason="litellm retries with tenacity")

    class Proxy(litellm.CustomLLM):
        def completion(self, *args, **kwargs):
            return litellm.completion(**asked(url))

    litellm.custom_provider_map = [{"provider": "proxy", "custom_handler": Proxy()}]
    try:
        litellm.completion_with_retries(model="proxy/x", messages=[{"role": "user", "content": "?"}])
    finally:
        litellm.custom_provider_map = []
    assert calls(listener) == ["CallStarted", "CallStarted", "CallFinished", "CallFinished"]


def test_two_calls_in_one_scope_number_their_attempts_separately(listener, server):
    pytest.importorskip("tenacity", reason="litellm retries with tenacity")
    for _ in range(2):
        server.tell(REFUSED, says("At last."))
        sync(**asked(server.url, num_retries=1))
    assert (calls(listener), attempts(listener)) == (["CallStarted", "CallFinished"] * 2, [2, 2])


# Fallbacks


@each_way
def test_fallbacks_are_attempts_of_one_call(listener, server, asynchronous):
    server.tell(says("From another."))
    fallbacks = [{"model": "openai/b", "api_base": NO_SERVER}, {"model": "openai/c", "api_base": server.url}]
    both(litellm, asynchronous)(**asked(NO_SERVER, fallbacks=fallbacks))
    assert (calls(listener), attempts(listener)) == (["CallStarted", "CallFinished"], [2, 3])
    assert listener.end.output == "From another."


def test_fallbacks_in_a_thread_without_the_context_are_attempts(listener, server):
    """`litellm.completion` on a running loop goes there."""
    server.tell(says("From another."))

    async def main():
        return litellm.completion(**asked(NO_SERVER, fallbacks=[{"model": "openai/b", "api_base": server.url}]))

    asyncio.run(main())
    assert (calls(listener), attempts(listener)) == (["CallStarted", "CallFinished"], [2])


@each_way
def test_a_call_whose_fallbacks_fail_fails_once(listener, asynchronous):
    with pytest.raises(Exception, match="All fallback attempts failed"):
        both(litellm, asynchronous)(**asked(NO_SERVER, fallbacks=["openai/b"]))
    assert (calls(listener), attempts(listener)) == (["CallStarted", "CallFailed"], [2])


# The Router


def router(server, url=NO_SERVER, **options):
    """A Router whose group "a" asks ``url`` and falls back to the group "b", the scripted server."""
    groups = {"a": url, "b": server.url}
    deployments = [
        {"model_name": name, "litellm_params": {"model": f"openai/{name}", "api_base": address, "api_key": "none"}}
        for name, address in groups.items()
    ]
    for deployment in deployments:
        deployment["litellm_params"]["max_retries"] = 0
    return litellm.Router(model_list=deployments, fallbacks=[{"a": ["b"]}], num_retries=0, **options)


def question(**options):
    return {"model": "a", "messages": [{"role": "user", "content": "?"}], **options}


@each_way
def test_a_router_call_is_one_call(listener, server, asynchronous):
    server.tell(says("From another."))
    both(router(server), asynchronous)(**question())
    assert (calls(listener), attempts(listener)) == (["CallStarted", "CallFinished"], [2])
    assert (listener.events[0].name, listener.end.output) == ("a", "From another.")


def test_the_router_on_a_running_loop(listener, server):
    server.tell(says("From another."))
    asking = router(server)

    async def main():
        asking.completion(**question())

    asyncio.run(main())
    assert (calls(listener), attempts(listener)) == (["CallStarted", "CallFinished"], [2])


@each_way
def test_a_router_stream_is_one_call(listener, server, asynchronous):
    server.tell(streams({"content": "Ti"}, {"content": "des."}, usage=True))
    asking = router(server)

    async def consume():
        return [part async for part in await asking.acompletion(**question(stream=True))]

    parts = run_async(consume) if asynchronous else list(asking.completion(**question(stream=True)))
    assert listener.text == "".join(map(text_of, parts)) == "Tides."
    assert (calls(listener), attempts(listener)) == (["CallStarted", "CallFinished"], [2])
    assert listener.end.output == "Tides."


@each_way
def test_a_router_falls_back_in_the_middle_of_a_stream(listener, server, asynchronous):
    server.tell(streams(cut=True), streams({"content": "Tides."}))
    asking = router(server, server.url)

    async def consume():
        return [part async for part in await asking.acompletion(**question(stream=True))]

    parts = run_async(consume) if asynchronous else list(asking.completion(**question(stream=True)))
    assert len(server.requests) == 2
    assert listener.text == "".join(map(text_of, parts)) == "Tides."
    assert (calls(listener), attempts(listener)) == (["CallStarted", "CallFinished"], [2])


def test_a_plain_call_has_no_attempts(listener, server):
    server.tell(says("Tides."))
    sync(**asked(server.url))
    assert listener.names == ["CallStarted", "CallFinished"]
