"""Calls: of models, tools and retrievers, with their chunks, usage, attributes and failures."""

from __future__ import annotations

import asyncio

import pytest
from hearing import Listener
from helpers import TIMEOUT
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.language_models.llms import LLM
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import tool
from models import Scripted

import crewbus
from crewbus_langchain.answers import answer_of
from crewbus_langchain.plain import as_plain


def chunks(listener):
    return [(chunk.kind, chunk.text) for chunk in listener.of(crewbus.Chunk)]


async def collected(stream):
    return [part async for part in stream]


STREAMS = {
    "stream": lambda model, given: list(model.stream(given)),
    "astream": lambda model, given: asyncio.run(collected(model.astream(given))),
    "astream_events": lambda model, given: asyncio.run(collected(model.astream_events(given))),
    "stream_events v3": lambda model, given: list(model.stream_events(given, version="v3")),
}


@pytest.mark.parametrize("style", STREAMS)
def test_a_streamed_answer_is_chunks_and_the_whole_with_its_usage(heard, style):
    STREAMS[style](Scripted(), "?")
    assert heard.names == ["CallStarted", "Chunk", "Chunk", "CallFinished"]
    assert chunks(heard) == [("text", "The "), ("text", "moon.")]
    assert heard.end.output == "The moon."
    assert heard.end.usage == {
        "input_tokens": 7,
        "output_tokens": 5,
        "total_tokens": 12,
        "input_token_details.cache_read": 3,
        "output_token_details.reasoning": 2,
        "cached_input_tokens": 3,
        "reasoning_tokens": 2,
    }


def test_an_answer_that_is_not_streamed_has_no_chunks(heard):
    Scripted().invoke([SystemMessage("Be brief."), HumanMessage("?")])
    started, end = heard.events
    assert (started.name, started.kind) == ("Scripted", "model")
    assert started.input == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "?"}]
    assert started.attributes == {"provider": "scripted"}
    assert end.output == "The moon."
    assert end.attributes == {
        "provider": "scripted",
        "response_model": "scripted-1",
        "finish_reasons": ["stop"],
        "response_id": "answer-1",
    }
    assert heard.envelopes[0].source == "langchain"


def test_reasoning_and_tool_calls_are_chunks_of_kinds_of_their_own(heard):
    def piece(index, **given):
        return AIMessageChunk(content="", tool_call_chunks=[{"index": index, "id": None, "name": None, **given}])

    model = Scripted(
        parts=[
            AIMessageChunk(content="", additional_kwargs={"reasoning_content": "Hm."}),
            AIMessageChunk(content=[{"type": "reasoning", "reasoning": "So.", "index": 0}]),
            piece(1, id="1", name="tide", args='{"at":'),
            piece(1, args=' "Brest"}'),
        ]
    )
    list(model.stream("?"))
    assert chunks(heard) == [
        ("reasoning", "Hm."),
        ("reasoning", "So."),
        ("tool_call", '{"at":'),
        ("tool_call", ' "Brest"}'),
    ]
    assert heard.end.output["tool_calls"] == [{"id": "1", "name": "tide", "arguments": {"at": "Brest"}}]


@pytest.mark.parametrize("style", ["stream", "astream", "stream_events v3"])
def test_a_model_that_fails_midway_fails_its_call(heard, style):
    with pytest.raises(ValueError, match="cut"):
        STREAMS[style](Scripted(parts=["The ", ValueError("cut")]), "?")
    assert heard.names == ["CallStarted", "Chunk", "CallFailed"]
    assert (heard.end.error, heard.end.message) == ("builtins.ValueError", "cut")


def test_a_stream_that_is_closed_early_is_cancelled(heard):
    stream = Scripted().stream("?")
    next(stream)
    stream.close()
    assert heard.names == ["CallStarted", "Chunk", "CallCancelled"]


def test_models_that_complete_text_are_called_too(heard):
    class Completing(LLM):
        @property
        def _llm_type(self):
            return "completing"

        def _call(self, prompt, stop=None, run_manager=None, **_):
            raise NotImplementedError

        def _stream(self, prompt, stop=None, run_manager=None, **_):
            for text in "ok":  # such models report their tokens themselves
                run_manager.on_llm_new_token(text)
                yield GenerationChunk(text=text)

    list(Completing().stream("?"))
    assert chunks(heard) == [("text", "o"), ("text", "k")]
    assert heard.events[0].input == "?"
    assert heard.end.output == "ok"


def test_other_handlers_are_told_of_async_models_that_complete_text(heard):
    class Completing(LLM):
        @property
        def _llm_type(self):
            return "completing"

        def _call(self, prompt, stop=None, run_manager=None, **_):
            return prompt + "!"

    class Other(BaseCallbackHandler):
        def __init__(self):
            self.told = []

        def on_llm_start(self, serialized, prompts, **_):
            self.told.append(prompts)

        def on_llm_end(self, response, **_):
            self.told.append(response.generations[0][0].text)

    other = Other()
    assert asyncio.run(Completing().agenerate(["a", "b"], callbacks=[other])).generations[1][0].text == "b!"
    assert sorted(map(str, other.told)) == ["['a']", "['b']", "a!", "b!"]
    assert [start.input for start in heard.of(crewbus.CallStarted)] == ["a", "b"]
    assert [end.output for end in heard.of(crewbus.CallFinished)] == ["a!", "b!"]


def test_each_prompt_of_several_is_a_call(heard):
    Scripted().generate([[HumanMessage("a")], [HumanMessage("b")]])
    assert [started.input[0]["content"] for started in heard.of(crewbus.CallStarted)] == ["a", "b"]
    assert len(heard.of(crewbus.CallFinished)) == 2


def test_usage_that_is_reported_beside_the_answer_is_found():
    result = LLMResult(
        generations=[[Generation(text="x")]],
        llm_output={"token_usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}},
    )
    assert answer_of(result).usage == {
        "prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "input_tokens": 3, "output_tokens": 4,
    }  # fmt: skip


def test_tools_and_retrievers_are_calls(heard):
    @tool
    def broken(at: str) -> str:
        """Break."""
        raise ValueError("no tide at " + at)

    class Shelf(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            return [Document(page_content="The moon.", metadata={"page": 3})]

    with pytest.raises(ValueError, match="no tide"):
        broken.invoke({"type": "tool_call", "id": "call-1", "name": "broken", "args": {"at": "Brest"}})
    Shelf().invoke("tides")
    first, failed, second, found = heard.events
    assert (first.name, first.kind, first.input) == ("broken", "tool", {"at": "Brest"})
    assert first.attributes == {"tool_call_id": "call-1"}
    assert failed.message == "no tide at Brest"
    assert (second.name, second.kind, second.input) == ("Shelf", "retrieval", "tides")
    assert found.output == [{"content": "The moon.", "metadata": {"page": 3}}]


def test_callbacks_around_a_call_get_its_events_and_no_others(bus):
    one, other = Listener(), Listener()
    with bus.callbacks(one):
        list(Scripted(parts=["1"]).stream("?"))
    with bus.callbacks(other):
        list(Scripted(parts=["2"]).stream("?"))
    assert (one.text, other.text) == ("1", "2")
    assert one.names == other.names == ["CallStarted", "Chunk", "CallFinished"]


class Counter(BaseCallbackHandler):
    """A handler of the application's own."""

    def __init__(self):
        self.tokens = []

    def on_llm_new_token(self, token, **_):
        self.tokens.append(token)


def test_handlers_of_the_applications_own_work_as_before(heard):
    counter = Counter()
    list(Scripted().stream("?", {"callbacks": [counter]}))
    assert "".join(counter.tokens) == heard.text == "The moon."


def test_a_failing_report_is_logged_and_the_call_goes_on(bus, caplog):
    class Refusing:
        @crewbus.hookimpl
        def crewbus_redact(self, bus, run, event):
            if isinstance(event, crewbus.Chunk):
                raise ValueError("not this one")
            return event

    bus.plugins.register(Refusing(), "refusing")
    listener = Listener()
    with bus.callbacks(listener):
        assert "".join(part.text for part in Scripted().stream("?")) == "The moon."
    assert listener.names == ["CallStarted", "CallFinished"]
    assert "crewbus-langchain: reporting a chunk failed; langchain-core continues" in caplog.text


def test_an_async_answer_of_thousands_of_parts_waits_for_its_consumer(bus):
    """A consumer that takes one at a time, with a buffer of eight, which fails at twice that many."""

    async def main():
        options = crewbus.StreamOptions(bound=8)
        async with bus.stream(collected, Scripted(parts=["x"] * 3000).astream("?"), options=options) as stream:
            return "".join([one.event.text async for one in stream if isinstance(one.event, crewbus.Chunk)])

    assert asyncio.run(asyncio.wait_for(main(), TIMEOUT)) == "x" * 3000


# Plain values


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ({"a": (1, 2.5, None, True)}, {"a": [1, 2.5, None, True]}),
        (float("nan"), "nan"),
        (b"\xff", "b'\\xff'"),
        ("\ud800", "\\ud800"),
        ({1: "x"}, {"1": "x"}),
        (AIMessage("hi"), {"role": "assistant", "content": "hi"}),
        (ToolMessage("4", tool_call_id="1"), {"role": "tool", "content": "4", "tool_call_id": "1"}),
    ],
)
def test_values_become_plain(value, plain):
    assert as_plain(value) == plain


def test_cycles_huge_integers_and_deep_values_become_texts():
    cycle: list[object] = []
    cycle.append(cycle)
    assert as_plain(cycle) == ["[[...]]"]
    assert as_plain(1 << 20_000).startswith("0x1")
    deep: object = "x"
    for _ in range(60):
        deep = [deep]
    assert "[" in str(as_plain(deep))
