"""Text completions, responses, messages, embeddings and batches are calls as completions are."""

from __future__ import annotations

import asyncio
import gc
import json

import litellm
import pytest
from lifecycle_helpers import until
from other_apis import (
    APIS,
    CALL_ITEM,
    EMBEDDING,
    TOOL,
    WORDS,
    call,
    delta,
    messages_events,
    options,
    responses_events,
)
from scripted import fails, says, sent_events, streams
from styles import Listener, asked

import crewbus
import crewbus_litellm
from crewbus_litellm.transcript import Messages

each_api = pytest.mark.parametrize("name", APIS)
each_form = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


def made(bus, function):
    """What a callback hears of a call."""
    listener = Listener()
    with bus.callbacks(listener):
        function()
    return listener


@each_api
@each_form
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_call_is_a_crewbus_call(bus, server, name, asynchronous, stream):
    api = APIS[name]
    url = server.tell(api.streamed if stream else api.whole)
    heard = made(bus, lambda: call(api, asynchronous, **options(api, url, **({"stream": True} if stream else {}))))
    assert heard.names == ["CallStarted", *["Chunk"] * len(WORDS) * stream, "CallFinished"]
    assert heard.events[0].name == api.asked["model"]
    assert heard.end.output == "".join(WORDS)
    assert heard.text == "".join(WORDS) * stream
    if name != "text_completion" or not stream:  # whose stream has no usage
        assert (heard.end.usage["input_tokens"], heard.end.usage["output_tokens"]) == (7, 5)


@each_api
@each_form
def test_a_run_streams_the_chunks_once(bus, server, name, asynchronous):
    api = APIS[name]
    given = options(api, server.tell(api.streamed), stream=True)
    with bus.stream(call, api, asynchronous, **given) as stream:
        assert [frame.event.text for frame in stream if isinstance(frame.event, crewbus.Chunk)] == WORDS


@each_api
@each_form
def test_the_results_are_those_of_unpatched_litellm(bus, server, name, asynchronous):
    api = APIS[name]

    def results():
        whole = call(api, asynchronous, **options(api, server.tell(api.whole)))
        return type(whole), [
            type(part) for part in call(api, asynchronous, **options(api, server.tell(api.streamed), stream=True))
        ]

    ours = results()
    crewbus_litellm.uninstall()
    assert ours == results()


@each_api
@each_form
def test_a_failing_call_fails_with_the_error_that_is_raised(bus, server, name, asynchronous):
    api, listener = APIS[name], Listener()
    with bus.callbacks(listener), pytest.raises(Exception, match="401") as raised:
        call(api, asynchronous, **options(api, server.tell(fails(401))))
    assert listener.names == ["CallStarted", "CallFailed"]
    assert listener.end.message == str(raised.value)


@each_form
def test_an_embedding_is_a_call_without_its_vectors(bus, server, asynchronous):
    given = {"model": "openai/m", "input": ["?"], "api_base": server.tell(EMBEDDING), "api_key": "none"}
    ask = (lambda: asyncio.run(litellm.aembedding(**given))) if asynchronous else (lambda: litellm.embedding(**given))
    heard = made(bus, ask)
    assert heard.names == ["CallStarted", "CallFinished"]
    assert (heard.end.output, heard.end.usage["input_tokens"]) == (None, 7)


@each_form
def test_a_retried_request_is_another_attempt(bus, server, asynchronous):
    api = APIS["responses"]
    url = server.tell(fails(500), api.whole)
    heard = made(bus, lambda: call(api, asynchronous, **options(api, url, num_retries=2)))
    names = [name for name in heard.names if name != "Retracted"]
    assert names == ["CallStarted", "AttemptStarted", "AttemptEnded", "CallFinished"]


# Reasoning and tools


def test_reasoning_and_tool_calls_of_responses(bus, server):
    deltas = [delta("reasoning_summary_text", "Hm."), delta("function_call_arguments", TOOL["arguments"])]
    api, url = APIS["responses"], server.tell(responses_events(*deltas, output=[CALL_ITEM]))
    heard = made(bus, lambda: call(api, False, **options(api, url, stream=True)))
    assert [heard.spelled(kind) for kind in ("reasoning", "tool_call")] == ["Hm.", TOOL["arguments"]]
    assert heard.end.output == {"content": None, "tool_calls": [{"id": "c1", "type": "function", "function": TOOL}]}
    assert heard.end.usage["cached_input_tokens"] == 3


BLOCKS = [
    {"type": "thinking", "thinking": "", "signature": ""},
    {"type": "text", "text": ""},
    {"type": "tool_use", "id": "c1", "name": "find", "input": {}},
]
DELTAS = [
    (0, {"type": "thinking_delta", "thinking": "Hm, é."}),
    (1, {"type": "text_delta", "text": "I look."}),
    (2, {"type": "input_json_delta", "partial_json": TOOL["arguments"]}),
]
SAID = {"content": "I look.", "tool_calls": [{"id": "c1", "type": "function", "function": TOOL}]}


@each_form
def test_reasoning_and_tool_calls_of_messages(bus, server, asynchronous):
    tool = {"index": 0, "id": "c1", "type": "function", "function": TOOL}
    answer = streams({"reasoning_content": "Hm, é."}, {"content": "I look."}, {"tool_calls": [tool]})
    api, url = APIS["messages"], server.tell(answer)
    heard = made(bus, lambda: call(api, asynchronous, **options(api, url, stream=True)))
    assert [heard.spelled(kind) for kind in ("reasoning", "text", "tool_call")] == [
        "Hm, é.",
        "I look.",
        TOOL["arguments"],
    ]
    assert heard.end.output == SAID


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_messages_may_be_cut_anywhere_or_be_dictionaries(size):
    events = messages_events(*DELTAS, blocks=BLOCKS)
    encoded = sent_events(*events)[2]
    for parts in ([encoded[at : at + size] for at in range(0, len(encoded), size)], events):
        transcript = Messages()
        pieces = [piece for part in parts for piece in transcript.add(part)]
        assert pieces == [("reasoning", "Hm, é."), ("text", "I look."), ("tool_call", TOOL["arguments"])]
        assert transcript.complete
        assert transcript.answer().output == SAID
        assert transcript.answer().usage["output_tokens"] == 5


# Streams that are left


@each_api
@each_form
def test_a_stream_that_is_abandoned_is_cancelled(bus, server, name, asynchronous):
    api = APIS[name]
    given = options(api, server.tell(api.streamed), stream=True)

    async def first_of_async():
        stream = await api.asynchronous(**given)
        while not heard.text:
            await anext(stream)
        if hasattr(stream, "aclose"):
            await stream.aclose()

    def first_of():
        stream = api.sync(**given)
        while not heard.text:
            next(stream)

    heard = Listener()
    with bus.callbacks(heard):
        asyncio.run(first_of_async()) if asynchronous else first_of()

    def ended():
        gc.collect()
        return heard.names[-1].startswith("Call")

    until(ended)
    assert heard.names[-1] == "CallCancelled"


# Batches


def batches(url):
    message, given = (
        asked(url)["messages"],
        {key: value for key, value in asked(url).items() if key not in ("model", "messages")},
    )
    models = ["openai/gpt-4o-mini", "openai/gpt-4o"]
    return {
        "batch_completion": lambda: litellm.batch_completion(models[0], [message, message], **given),
        "batch_completion_models": lambda: litellm.batch_completion_models(models=models, messages=message, **given),
        "batch_completion_models_all_responses": lambda: litellm.batch_completion_models_all_responses(
            models=models, messages=message, **given
        ),
    }


@pytest.mark.parametrize("name", batches(""))
def test_the_calls_of_a_batch_belong_to_the_run_that_makes_it(bus, server, name):
    listener = Listener()
    with bus.run() as run, bus.callbacks(listener):
        batches(server.tell(says("Tides.")))[name]()
    assert sorted(listener.names) == ["CallFinished"] * 2 + ["CallStarted"] * 2
    assert {envelope.run_id for envelope in listener.envelopes} == {run.id}


def test_the_chunks_of_a_batch_reach_the_stream_of_its_run(bus, url):
    def work():
        message, given = asked(url)["messages"], {**asked(url), "stream": True}
        given.pop("messages")
        return [list(answer) for answer in litellm.batch_completion(messages=[message] * 2, **given)]

    with bus.stream(work) as stream:
        chunks = [frame.event.text for frame in stream if isinstance(frame.event, crewbus.Chunk)]
    assert len(chunks) == 2 * 4


# The Router


@each_form
def test_a_routers_embedding_is_one_call_named_after_its_group(bus, server, asynchronous):
    known = {"model": "openai/m", "api_base": server.tell(EMBEDDING), "api_key": "none"}
    router = litellm.Router(model_list=[{"model_name": "group", "litellm_params": known}])
    ask = (
        (lambda: asyncio.run(router.aembedding("group", ["?"])))
        if asynchronous
        else (lambda: router.embedding("group", ["?"]))
    )
    heard = made(bus, ask)
    assert (heard.names, heard.events[0].name) == (["CallStarted", "CallFinished"], "group")


def test_a_routers_text_completion_is_one_call_named_after_its_group(bus, server):
    known = {"model": "openai/m", "api_base": server.tell(APIS["text_completion"].whole), "api_key": "none"}
    router = litellm.Router(model_list=[{"model_name": "group", "litellm_params": known}])
    heard = made(bus, lambda: asyncio.run(router.atext_completion("group", "?")))
    assert (heard.names, heard.events[0].name) == (["CallStarted", "CallFinished"], "group")
    assert heard.end.output == json.loads(APIS["text_completion"].whole[2])["choices"][0]["text"]
