"""The example newsroom: offline with its scripted model, and against a local server with recorded streams."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pytest
from served import RECORDED, model_server, recorded

import crewbus
from crewbus import (
    Bus,
    CallFinished,
    CallStarted,
    Chunk,
    Envelope,
    RunFailed,
    RunFinished,
    RunStarted,
    StepFinished,
    StreamOptions,
)

T = TypeVar("T")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
RUNS = 200
AGENTS = ["researcher", "writer", "editor"]


def load(name: str) -> ModuleType:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


newsroom = load("newsroom")
TOPICS = [json.loads(line)["topic"] for line in (EXAMPLES / "topics.jsonl").read_text("utf-8").splitlines()]
ANSWERS = recorded()
TEXTS = [entry for entry in ANSWERS if entry["text"]]

# An answer as servers of reasoning models stream it; no recorded one has such deltas.
REASONED = [{"reasoning_content": "Hm. "}, {"reasoning": "Well. "}, {"content": "Yes"}, {"content": "."}]


@pytest.fixture
def bus() -> Iterator[Bus]:
    with Bus(entry_points=False) as bus:
        yield bus


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("server")
    deltas = [{"choices": [{"index": 0, "delta": delta}]} for delta in REASONED]
    sse = "".join(f"data: {json.dumps(part)}\n\n" for part in deltas) + "data: [DONE]\n\n"
    data = directory / "data.jsonl"
    data.write_text("".join(json.dumps(entry) + "\n" for entry in [*ANSWERS, {"id": "reasoned", "sse": sse}]))
    with model_server(directory, "--data", str(data), "--delay", "0") as url:
        yield url


@pytest.fixture
def served(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the newsroom call only the local server."""
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_BASE_URL", server)
    monkeypatch.setenv("OPENAI_API_KEY", "none is needed")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def run(main: Coroutine[Any, Any, T]) -> T:
    async def limited() -> T:
        async with asyncio.timeout(300):
            return await main

    return asyncio.run(limited())


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def frames_of(bus: Bus, function: Any, *args: Any, options: StreamOptions | None = None) -> list[Envelope]:
    async with bus.stream(function, *args, options=options) as stream:
        return [envelope async for envelope in stream]


def pieces(frames: list[Envelope], kind: str = "text") -> list[str]:
    return [frame.event.text for frame in frames if isinstance(frame.event, Chunk) and frame.event.kind == kind]


# The scripted model


def test_topics_are_fifty_different_ones() -> None:
    assert len(set(TOPICS)) == len(TOPICS) == 50


def test_the_article_is_the_editors_text_and_about_the_topic(bus: Bus) -> None:
    with bus.stream(newsroom.newsroom, "night trains") as stream:
        texts: dict[str | None, str] = {}
        for envelope in stream:
            if isinstance(envelope.event, Chunk) and envelope.event.kind == "text":
                texts[envelope.run_id] = texts.get(envelope.run_id, "") + envelope.event.text
        article = stream.result()
    assert len(texts) == len(AGENTS)
    assert list(texts.values())[-1] == article
    assert all("night trains" in text for text in texts.values())


def test_promise_1_fifty_scripted_newsrooms_at_once_never_mix(bus: Bus) -> None:
    async def alone() -> list[list[Any]]:
        return [[frame.event for frame in await frames_of(bus, newsroom.newsroom, topic)] for topic in TOPICS]

    async def together() -> list[list[Any]]:
        streams = await asyncio.gather(*(frames_of(bus, newsroom.newsroom, topic) for topic in TOPICS))
        return [[frame.event for frame in frames] for frames in streams]

    expected = run(alone())
    assert run(together()) == expected
    for topic, events in zip(TOPICS, expected, strict=True):
        assert f"What is there to say about {topic}?\n" in [event.text for event in events[:-1]]
        assert events[-1] == RunFinished()


def test_promise_1_fifty_scripted_newsrooms_in_threads_never_mix(bus: Bus) -> None:
    together = threading.Barrier(len(TOPICS), timeout=60)

    def consume(topic: str) -> tuple[str, str]:
        together.wait()
        with bus.stream(newsroom.newsroom, topic) as stream:
            text = "".join(pieces(list(stream)))
            return text, stream.result(30)

    with ThreadPoolExecutor(len(TOPICS)) as threads:
        found = list(threads.map(consume, TOPICS))
    for topic, (text, article) in zip(TOPICS, found, strict=True):
        script = [newsroom.SCRIPT[newsroom.PROMPTS[agent]].format(topic=topic) + "\n" for agent in AGENTS]
        assert text == "".join(script)
        assert article == script[-1]


def test_agents_are_nested_runs_in_the_record(bus: Bus) -> None:
    bus.enable_recording(content=True)
    with bus.stream(newsroom.newsroom, "night trains", options=StreamOptions(name="newsroom")) as stream:
        article = stream.result(30)
    record = bus.record_of(stream.run_id)
    [root] = record.roots()
    assert root.event == RunStarted("newsroom")
    starts = [child for child in record.children(root) if isinstance(child.event, RunStarted)]
    assert [(start.event.name, start.event.parent_run) for start in starts] == [
        (agent, stream.run_id) for agent in AGENTS
    ]
    assert [envelope.seq for envelope in record] == list(range(len(list(record))))

    done = {start.event.name: record.children(start) for start in starts}
    assert {agent: [getattr(child.event, "name", "") for child in children] for agent, children in done.items()} == {
        "researcher": ["search", "search", "complete", ""],
        "writer": ["complete", ""],
        "editor": ["check_style", "complete", ""],
    }
    assert all(isinstance(children[-1].event, RunFinished) for children in done.values())
    steps = [child for children in done.values() for child in children[:-1]]
    emitted = Counter(type(child.event) for step in steps for child in record.children(step))
    assert emitted == {
        newsroom.SourcesFound: 2,
        newsroom.StyleChecked: 1,
        CallStarted: 3,
        StepFinished: 6,
    }
    calls = [child for step in steps for child in record.children(step) if isinstance(child.event, CallStarted)]
    for call in calls:
        *streamed, end = record.children(call)
        assert len(streamed) > 1
        assert end.event == CallFinished("".join(pieces(streamed)))
    assert end.event.output == article
    [published] = [child.event for child in record.children(root) if type(child.event).__module__ == "newsroom"]
    assert published == newsroom.ArticlePublished("night trains", len(article.split()))


def test_tools_run_in_worker_threads_and_belong_to_their_agents_run(bus: Bus) -> None:
    seen: list[tuple[str, bool, bool]] = []

    @bus.on(newsroom.SourcesFound)
    @bus.on(newsroom.StyleChecked)
    def note(envelope: Envelope) -> None:
        scope = crewbus.current_run()
        assert scope is not None
        in_loop = threading.get_ident() == loop_thread
        seen.append((f"{scope.name}: {envelope.source}", scope.id == envelope.run_id, in_loop))

    loop_thread = threading.get_ident()
    run(frames_of(bus, newsroom.newsroom, "night trains"))
    assert seen == [
        ("researcher: search", True, False),
        ("researcher: search", True, False),
        ("editor: check_style", True, False),
    ]


def test_newsroom_works_outside_any_run(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crewbus.bus.default._default.bus", bus)
    names: list[str] = []
    bus.on(RunStarted, lambda envelope: names.append(envelope.event.name))
    assert "night trains" in run(newsroom.newsroom("night trains"))
    assert names == AGENTS


def test_a_slow_consumer_slows_the_model_down_and_misses_nothing(bus: Bus) -> None:
    bound = 2

    async def main() -> tuple[list[str], str]:
        options = StreamOptions(bound=bound)
        async with bus.stream(newsroom.researcher, "night trains", options=options) as stream:
            texts = []
            async for envelope in stream:
                for _ in range(4 * bound):  # turns in which an unhindered model would overrun twice the bound
                    await asyncio.sleep(0)
                texts += pieces([envelope])
            return texts, await stream.aresult()

    texts, notes = run(main())
    assert len(texts) > 4 * bound
    assert "".join(texts) == notes


@pytest.mark.parametrize("present", [[], ["OPENAI_BASE_URL"], ["OPENAI_API_KEY"]])
def test_without_server_and_key_the_openai_package_is_not_needed(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, present: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    for name in present:
        monkeypatch.setenv(name, "http://127.0.0.1:9/v1")
    assert run(frames_of(bus, newsroom.newsroom, "night trains"))[-1].event == RunFinished()


def test_with_server_and_key_a_missing_openai_package_is_named(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with bus.stream(newsroom.newsroom, "night trains") as stream, pytest.raises(ImportError, match="openai"):
        stream.result(30)
    assert newsroom.clients == {}


# A server


@pytest.mark.parametrize("entry", ANSWERS, ids=lambda entry: entry["id"])
@pytest.mark.usefixtures("served")
def test_each_recorded_answer_arrives_exactly(bus: Bus, entry: dict[str, Any]) -> None:
    if entry["api"] != "chat.completions":
        pytest.skip(f"recorded from the API {entry['api']!r}, which the newsroom does not speak")

    frames = run(frames_of(bus, newsroom.complete, user("?"), entry["id"]))
    assert pieces(frames) == deltas_of(entry, lambda delta: [delta.get("content")])
    assert "".join(pieces(frames)) == entry["text"]
    calls = deltas_of(
        entry, lambda delta: [call["function"].get("arguments") for call in delta.get("tool_calls") or ()]
    )
    assert pieces(frames, "tool_call") == calls
    assert bool(calls) == bool(entry["tool_call_chunks"])
    assert frames[-1].event == RunFinished()


def deltas_of(entry: dict[str, Any], texts: Any) -> list[str]:
    """What ``texts`` finds in each delta of a recorded answer, as far as it isn't empty."""
    parts = [json.loads(line[6:]) for line in entry["sse"].splitlines() if line.startswith("data: {")]
    return [text for part in parts for choice in part["choices"] for text in texts(choice["delta"]) if text]


@pytest.mark.heavy
@pytest.mark.usefixtures("served")
@pytest.mark.skipif(not TEXTS, reason=f"needs {RECORDED.name} in the folder shared beside the checkout")
def test_promise_1_of_200_runs_at_once_each_gets_exactly_its_recorded_text(bus: Bus) -> None:
    entries = [TEXTS[number % len(TEXTS)] for number in range(RUNS)]
    live: list[int] = []

    async def main() -> list[tuple[str, str]]:
        together = asyncio.Barrier(RUNS)

        async def agent(model: str) -> str:
            await together.wait()
            live.append(len(bus.runs))
            return str(await newsroom.complete(user("?"), model))

        async def consume(entry: dict[str, Any]) -> tuple[str, str]:
            async with bus.stream(agent, entry["id"]) as stream:
                return "".join(pieces([envelope async for envelope in stream])), await stream.aresult()

        return await asyncio.gather(*(consume(entry) for entry in entries))

    found = run(main())
    assert live[0] == RUNS
    for entry, (streamed, returned) in zip(entries, found, strict=True):
        assert streamed == entry["text"], entry["id"]
        assert returned == entry["text"], entry["id"]
    assert bus.runs == []


@pytest.mark.heavy
@pytest.mark.usefixtures("served")
def test_promise_1_no_foreign_chunk_in_any_of_200_newsrooms_at_once(bus: Bus) -> None:
    chunks = 8
    parents: dict[str | None, str | None] = {}
    bus.on(RunStarted, lambda envelope: parents.update({envelope.run_id: envelope.event.parent_run}))

    async def main() -> list[list[Envelope]]:
        topics = [f"RUN=t{number} CHUNKS={chunks} DELAY=0.001" for number in range(RUNS)]
        return await asyncio.gather(*(frames_of(bus, newsroom.newsroom, topic) for topic in topics))

    for number, frames in enumerate(run(main())):
        answer = ["Final Answer: ", *(f"t{number}:{index} " for index in range(chunks))]
        assert pieces(frames) == answer * len(AGENTS)
        own = frames[-1].run_id
        assert [parents[run_id] for run_id in dict.fromkeys(frame.run_id for frame in frames[:-1])] == [own] * 3
        assert frames[-1].event == RunFinished()


@pytest.mark.usefixtures("served")
def test_a_connection_that_breaks_fails_its_own_run_only(bus: Bus) -> None:
    async def main() -> list[list[Envelope] | BaseException]:
        topics = [f"RUN=t{number} CHUNKS=4 FAIL={3 if number == 5 else 99}" for number in range(10)]
        streams = (frames_of(bus, newsroom.newsroom, topic) for topic in topics)
        return await asyncio.gather(*streams, return_exceptions=True)

    failed: list[Envelope] = []
    bus.on(RunFailed, failed.append)
    ends = run(main())
    assert [number for number, end in enumerate(ends) if isinstance(end, BaseException)] == [5]
    researcher, around = failed
    assert researcher.event == around.event
    # Where the client notices it is a matter of timing: in its own code, or in that of httpx below.
    assert researcher.event.error.partition(".")[0] in ("openai", "httpx")


@pytest.mark.usefixtures("served")
def test_reasoning_is_distinguished_from_text(bus: Bus) -> None:
    frames = run(frames_of(bus, newsroom.complete, user("?"), "reasoned"))
    assert pieces(frames, "reasoning") == ["Hm. ", "Well. "]
    assert pieces(frames) == ["Yes", "."]


@pytest.mark.usefixtures("served")
def test_the_model_is_the_one_asked_for_or_that_of_the_environment(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_MODEL", "reasoned")
    tagged = user("RUN=x CHUNKS=1")
    assert pieces(run(frames_of(bus, newsroom.complete, tagged))) == ["Yes", "."]
    assert pieces(run(frames_of(bus, newsroom.complete, tagged, "another"))) == ["Final Answer: ", "x:0 "]


@pytest.mark.usefixtures("served")
def test_a_loop_has_one_client_and_closes_it(bus: Bus) -> None:
    async def main() -> Any:
        await asyncio.gather(*(frames_of(bus, newsroom.complete, user(""), "reasoned") for _ in range(5)))
        [generator] = newsroom.clients.values()
        return await anext(generator)

    assert run(main()).is_closed()
    assert newsroom.clients == {}


@pytest.mark.usefixtures("served")
def test_leaving_the_stream_ends_the_request(bus: Bus) -> None:
    async def main() -> crewbus.Run:
        async with bus.stream(newsroom.newsroom, "RUN=x CHUNKS=1000000 DELAY=0.001") as stream:
            async for envelope in stream:
                assert pieces([envelope]) == ["Final Answer: "]
                break
        return stream.run

    assert run(main()).state == "cancelled"
    assert bus.runs == []
