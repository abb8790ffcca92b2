"""crewAI's documented frames of flows, models and conversations, with and without the plugin."""

from __future__ import annotations

import asyncio

import pytest
from behaviour import CHUNKS, answer, crew, crewai, listening, llm, pieces

pytest_plugins = ["behaviour_fixtures"]
pytestmark = [pytest.mark.usefixtures("either_way"), pytest.mark.filterwarnings("ignore::DeprecationWarning:crewai")]


def report_flow(**options):
    """A flow of two methods, the second of which has a crew stream."""

    class Report(crewai().Flow):
        @crewai().start()
        def begin(self):
            return self.state.get("tag", "a")

        @crewai().listen(begin)
        def write(self, tag):
            made = crew(tag)
            made.agents[0].llm.stream = True
            return made.kickoff().raw

    return Report(**options)


def texts(frames):
    return [frame.content for frame in frames if frame.type == "llm_stream_chunk"]


def test_a_flow_that_streams_gives_frames_and_then_the_result():
    stream = report_flow(stream=True).kickoff()
    with stream:
        with pytest.raises(RuntimeError, match="has not completed"):
            stream.result  # noqa: B018
        frames = list(stream)
    assert stream.result == answer("a")
    assert stream.is_completed
    assert stream.is_exhausted
    assert not stream.is_cancelled
    assert stream.frames == frames
    types = [frame.type for frame in frames if frame.type not in {"default_env", "flow_created"}]
    assert (types[0], types[-1]) == ("flow_started", "flow_finished")
    assert types.count("method_execution_finished") == 2
    assert texts(frames) == pieces("a")


def test_frames_are_in_order_and_say_what_they_are_about():
    stream = report_flow().stream_events(inputs={"tag": "b"})
    frames = list(stream)
    numbers = [frame.seq for frame in frames]
    assert numbers == sorted(numbers)
    assert len({frame.id for frame in frames}) == len(frames)
    by_type = {frame.type: frame for frame in frames}
    started, chunk = by_type["method_execution_started"], by_type["llm_stream_chunk"]
    assert (started.channel, started.namespace) == ("flow", ["flow", "Report", "write"])
    assert (chunk.channel, chunk.content, chunk.event["chunk"]) == ("llm", pieces("b")[-1], pieces("b")[-1])
    assert chunk.namespace[0] == "llm"
    assert "writer of b" in chunk.namespace
    assert by_type["flow_finished"].data["result"] == answer("b")
    assert {frame.parent_id for frame in frames} - {None} <= {frame.id for frame in frames}


def test_a_stream_is_filtered_by_channel():
    assert texts(report_flow(stream=True).kickoff().llm) == pieces("a")
    assert {frame.channel for frame in report_flow(stream=True).kickoff().flow} == {"flow"}
    stream = report_flow(stream=True).kickoff()
    both = list(stream.interleave(["flow", "llm"]))
    assert {frame.channel for frame in both} == {"flow", "llm"}
    assert [frame.seq for frame in both] == sorted(frame.seq for frame in both)
    assert list(stream.interleave(["flow", "llm"])) == both  # what was collected is given again
    assert list(stream.tools) == list(stream.messages) == []
    assert len(list(stream)) > len(both)


@pytest.mark.parametrize("method", ["astream", "kickoff_async"])
def test_a_flow_streams_on_a_loop(method):
    async def main():
        if method == "astream":
            stream = report_flow().astream()
        else:
            stream = await report_flow(stream=True).kickoff_async()
        async with stream:
            frames = [frame async for frame in stream]
        return frames, stream

    frames, stream = asyncio.run(main())
    assert texts(frames) == pieces("a")
    assert stream.result == answer("a")
    assert stream.frames == frames


def test_a_failing_method_ends_the_frames_and_is_the_result():
    class Failing(crewai().Flow):
        @crewai().start()
        def begin(self):
            raise ValueError("of the test")

    stream = Failing(stream=True).kickoff()
    with pytest.raises(ValueError, match="of the test"):
        list(stream)
    with pytest.raises(ValueError, match="of the test"):
        stream.result  # noqa: B018
    types = [frame.type for frame in stream.frames]
    assert "method_execution_failed" in types


def test_a_stream_of_frames_that_is_left_is_cancelled():
    with report_flow(stream=True).kickoff() as stream:
        next(iter(stream))
    assert stream.is_cancelled
    assert stream.is_completed


def test_a_custom_event_is_a_frame_in_order():
    class Weighed(crewai().BaseEvent):
        type: str = "weighed"
        grams: int

    class Weighing(crewai().Flow):
        @crewai().start()
        def weigh(self):
            crewai().crewai_event_bus.emit(self, Weighed(grams=7))

    frames = list(Weighing(stream=True).kickoff())
    types = [frame.type for frame in frames]
    (frame,) = [frame for frame in frames if frame.type == "weighed"]
    assert (frame.channel, frame.data["grams"]) == ("custom", 7)
    assert types.index("method_execution_started") < types.index("weighed") < types.index("method_execution_finished")


def test_concurrent_flows_stream_their_own_frames():
    async def frames(tag):
        return [frame async for frame in report_flow().astream(inputs={"tag": tag})]

    async def main():
        return await asyncio.gather(*map(frames, "abcd"))

    assert [texts(frames) for frames in asyncio.run(main())] == [pieces(tag) for tag in "abcd"]


# A model


def test_a_model_streams_its_frames_for_once():
    asked = llm(stream=False)
    stream = asked.stream_events("RUN=a")
    with stream:
        frames = list(stream)
    assert texts(frames) == pieces("a")
    assert (frames[0].type, frames[-1].type) == ("llm_call_started", "llm_call_completed")
    assert {frame.channel for frame in frames} == {"llm"}
    assert stream.result == "".join(pieces("a"))
    assert asked.stream is False


def test_a_streaming_model_returns_the_whole_text_and_its_usage():
    with listening(crewai().LLMCallCompletedEvent) as heard:
        assert llm(stream=True).call("RUN=a") == "".join(pieces("a"))
    (completed,) = heard
    assert completed.response == "".join(pieces("a"))
    assert completed.usage["completion_tokens"] == CHUNKS + 2


# Conversations


def chat(model):
    @crewai().ConversationConfig(llm=model, system_prompt="Answer.")
    class Chat(crewai().Flow[crewai().ConversationState]):
        pass

    return Chat()


def test_a_conversation_streams_turn_by_turn():
    talk = chat(llm())
    for tag in ("a", "b"):
        stream = talk.stream_turn(f"RUN={tag}", session_id="s1")
        frames = list(stream)
        assert texts(frames) == pieces(tag)
        assert stream.result == "".join(pieces(tag))
        (said,) = [frame for frame in frames if frame.channel == "messages" and frame.data.get("role") == "assistant"]
        assert said.data["session_id"] == "s1"
    assert [message.role for message in talk.state.messages] == 2 * ["user", "assistant"]


def test_a_turn_is_handled_without_a_stream_too():
    talk = chat(llm())
    assert talk.handle_turn("RUN=a", session_id="s1") == "".join(pieces("a")).strip()
    assert talk.state.messages[-1].content == "".join(pieces("a")).strip()
