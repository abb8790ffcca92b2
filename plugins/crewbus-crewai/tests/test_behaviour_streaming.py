"""crewAI's documented streams of crews, with and without the plugin."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from behaviour import CHUNKS, answer, crew, crewai, llm, pieces
from helpers import TIMEOUT

pytest_plugins = ["behaviour_fixtures"]
pytestmark = [pytest.mark.usefixtures("either_way"), pytest.mark.filterwarnings("ignore::DeprecationWarning:crewai")]

ASYNC = ["kickoff_async", "akickoff"]
"""The methods that are awaited: with a thread, and without."""


def contents(chunks):
    return [chunk.content for chunk in chunks]


async def collected(streaming):
    return [chunk async for chunk in streaming]


# One crew


def test_a_stream_has_the_chunks_and_then_the_result():
    streaming = crew("a", stream=True).kickoff()
    assert type(streaming) is crewai().CrewStreamingOutput
    assert not streaming.is_completed
    with pytest.raises(RuntimeError, match="has not completed"):
        streaming.result  # noqa: B018
    chunks = list(streaming)
    assert contents(chunks) == pieces("a")
    assert streaming.is_completed
    assert streaming.chunks == chunks
    assert streaming.get_full_text() == "".join(map(str, chunks)) == "".join(pieces("a"))
    assert streaming.result.raw == answer("a")


def test_a_chunk_says_of_what_kind_it_is_and_who_made_it():
    made = crew("a", stream=True)
    for chunk in made.kickoff():
        assert chunk.chunk_type is crewai().StreamChunkType.TEXT
        assert chunk.tool_call is None
        assert (chunk.agent_role, chunk.agent_id) == ("writer of a", str(made.agents[0].id))


def test_a_stream_of_several_tasks_has_them_one_after_the_other():
    streaming = crew("a", "b", stream=True).kickoff()
    assert contents(streaming) == pieces("a") + pieces("b")
    assert [output.raw for output in streaming.result.tasks_output] == [answer("a"), answer("b")]


def test_inputs_go_into_a_stream():
    assert contents(crew("{tag}", stream=True).kickoff(inputs={"tag": "tides"})) == pieces("tides")


def test_a_crew_streams_again_and_again():
    made = crew("a", stream=True)
    assert [contents(made.kickoff()) for _ in range(3)] == 3 * [pieces("a")]
    assert made.stream


@pytest.mark.parametrize("method", ASYNC)
def test_a_stream_is_iterated_on_a_loop(method):
    async def main():
        streaming = await getattr(crew("a", "b", stream=True), method)()
        return contents(await collected(streaming)), streaming.result.raw

    assert asyncio.run(main()) == (pieces("a") + pieces("b"), answer("b"))


def test_what_a_tool_call_streams_says_which_tool():
    heard = []
    token = crewai().add_stream_sink(lambda source, event: heard.append(event))
    try:
        tools = [{"type": "function", "function": {"name": "search", "description": "", "parameters": {}}}]
        llm(model="openai/stream-09", stream=True).call("What is it?", tools=tools)
    finally:
        crewai().reset_stream_sinks(token)
    calls = [event.tool_call for event in heard if isinstance(event, crewai().LLMStreamChunkEvent)]
    assert len(calls) == 7
    assert all(call is not None for call in calls)
    assert calls[0].function.name
    assert calls[-1].function.arguments


# Failures and leaving


def test_a_failure_ends_the_stream_and_is_the_result():
    streaming = crew("a", prompt="FAIL=2", stream=True).kickoff()
    seen = []
    with pytest.raises(Exception, match="peer closed connection") as failure:
        seen.extend(chunk.content for chunk in streaming)
    assert streaming.is_completed
    with pytest.raises(type(failure.value)):
        streaming.result  # noqa: B018
    assert contents(streaming.chunks) == seen


@pytest.mark.parametrize("method", ASYNC)
def test_a_failure_ends_the_stream_on_a_loop(method):
    async def main():
        streaming = await getattr(crew("a", prompt="FAIL=2", stream=True), method)()
        with pytest.raises(Exception, match="peer closed connection"):
            await collected(streaming)
        return streaming

    assert asyncio.run(main()).is_completed


def test_a_stream_that_is_closed_before_it_is_iterated_does_nothing():
    made = crew("a", stream=True)
    streaming = made.kickoff()
    streaming.close()
    streaming.close()
    assert streaming.is_cancelled
    assert streaming.is_completed
    assert list(streaming) == []
    assert contents(made.kickoff()) == pieces("a")


@pytest.mark.parametrize("method", ASYNC)
def test_a_stream_that_is_left_is_cancelled(method):
    async def main():
        # The thread of kickoff_async runs to its end, so that is near.
        made = crew("a", prompt="CHUNKS=20 DELAY=0.01", stream=True)
        async with await getattr(made, method)() as streaming:
            async for chunk in streaming:
                first = chunk.content
                break
        return first, streaming

    first, streaming = asyncio.run(main())
    assert first == pieces("a")[0]
    assert streaming.is_cancelled
    assert streaming.is_completed


# Several


def test_concurrent_crews_stream_their_own_chunks():
    tags = [f"crew-{number}" for number in range(4)]

    def stream(tag):
        return contents(crew(tag, stream=True).kickoff())

    with ThreadPoolExecutor(len(tags)) as threads:
        assert list(threads.map(stream, tags, timeout=TIMEOUT)) == [pieces(tag) for tag in tags]


def test_concurrent_crews_on_a_loop_stream_their_own_chunks():
    tags = [f"crew-{number}" for number in range(4)]

    async def stream(tag):
        return contents(await collected(await crew(tag, stream=True).akickoff()))

    async def main():
        return await asyncio.gather(*map(stream, tags))

    assert asyncio.run(main()) == [pieces(tag) for tag in tags]


def test_kickoff_for_each_gives_a_stream_for_each():
    streams = crew("{tag}", stream=True).kickoff_for_each([{"tag": "a"}, {"tag": "b"}])
    assert [contents(one) for one in streams] == [pieces("a"), pieces("b")]
    assert [one.result.raw for one in streams] == [answer("a"), answer("b")]


@pytest.mark.parametrize("method", ["kickoff_for_each_async", "akickoff_for_each"])
def test_the_async_ones_give_one_stream_of_all(method):
    async def main():
        streaming = await getattr(crew("{tag}", stream=True), method)([{"tag": "a"}, {"tag": "b"}])
        return contents(await collected(streaming)), streaming

    seen, streaming = asyncio.run(main())
    for tag in ("a", "b"):
        mine = [content for content in seen if content.startswith(tag)]
        assert list(dict.fromkeys(mine)) == pieces(tag)[1:]  # crewAI 1.15.30 hands out each of them twice
    assert sorted(output.raw for output in streaming.results) == [answer("a"), answer("b")]


@pytest.mark.parametrize("method", ["kickoff_for_each_async", "akickoff_for_each"])
def test_without_stream_there_are_outputs(method):
    async def main():
        return await getattr(crew("{tag}"), method)([{"tag": "a"}, {"tag": "b"}])

    assert [output.raw for output in asyncio.run(main())] == [answer("a"), answer("b")]


def test_usage_is_counted():
    made = crew("a", "b")
    usage = made.kickoff().token_usage
    assert usage.successful_requests == 2
    assert usage.completion_tokens == 2 * (CHUNKS + 2)
