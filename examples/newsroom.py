"""A newsroom: a researcher, a writer and an editor turn a topic into an article, and stream as they work.

    crewbus run examples/newsroom.py:newsroom --arg topic="tidal power"
    crewbus run examples/newsroom.py:newsroom --input examples/topics.jsonl --concurrency 50

Each agent is a run of its own inside the newsroom's run, makes a call of a model that streams, and has its tools
run in worker threads. With no key the model is the scripted one below. With OPENAI_BASE_URL and OPENAI_API_KEY set
it is OPENAI_MODEL on that server, any that speaks OpenAI's protocol: ``pip install crewbus[openai]``.

Each call of a model or a tool is a step: if runs are recorded (``pip install crewbus-sqlite``), a newsroom that was
killed continues with ``crewbus resume RUN``, and no model is called a second time for a recorded answer.
"""

import asyncio
import os
import random
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import crewbus

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Message = dict[str, Any]
Piece = tuple[str, str]
"""The kind of a streamed piece ("text", "reasoning" or "tool_call"), and its text."""


@crewbus.event(name="newsroom.SourcesFound")
class SourcesFound:
    """The search tool found what a desk has on a topic."""

    desk: str
    sources: list[str]


@crewbus.event(name="newsroom.StyleChecked")
class StyleChecked:
    """The style tool read a draft."""

    words: int
    long_sentences: int


@crewbus.event(name="newsroom.ArticlePublished")
class ArticlePublished:
    """The newsroom is done with a topic."""

    topic: str
    words: int


# The newsroom and its agents


async def newsroom(topic: str, model: str | None = None) -> str:
    """An article on ``topic``."""
    notes = await researcher(topic, model)
    draft = await writer(topic, notes, model)
    article = await editor(topic, draft, model)
    crewbus.emit(ArticlePublished(topic, len(article.split())))
    return article


async def researcher(topic: str, model: str | None = None) -> str:
    """Notes on ``topic``, from what two desks have on it."""
    async with crewbus.run("researcher"):
        # asyncio.to_thread takes the context along: what a tool emits belongs to this run.
        found = await asyncio.gather(*(asyncio.to_thread(search, desk, topic) for desk in ("science", "economy")))
        sources = "\n".join(source for sources in found for source in sources)
        return await complete(prompt("researcher", topic, sources), model)


async def writer(topic: str, notes: str, model: str | None = None) -> str:
    """A draft on ``topic`` from the researcher's notes."""
    async with crewbus.run("writer"):
        return await complete(prompt("writer", topic, notes), model)


async def editor(topic: str, draft: str, model: str | None = None) -> str:
    """The article that a draft becomes, once its style was checked."""
    async with crewbus.run("editor"):
        too_long = await asyncio.to_thread(check_style, draft)
        remarks = "\n".join(f"Too long: {sentence}" for sentence in too_long)
        return await complete(prompt("editor", topic, f"{draft}\n{remarks}"), model)


# Tools: plain functions that may block


@crewbus.step
def search(desk: str, topic: str) -> list[str]:
    """What the archive of a desk has on ``topic``."""
    numbers = random.Random(f"{desk} {topic}").sample(range(1000, 9999), 2)
    sources = [f"{desk} desk, file {number}: {topic}" for number in numbers]
    crewbus.emit(SourcesFound(desk, sources), source="search")
    return sources


@crewbus.step
def check_style(draft: str) -> list[str]:
    """The sentences of ``draft`` that are too long."""
    sentences = re.split(r"(?<=[.!?])\s+", draft)
    too_long = [sentence for sentence in sentences if len(sentence.split()) > 20]
    crewbus.emit(StyleChecked(len(draft.split()), len(too_long)), source="check_style")
    return too_long


# The model

PROMPTS: Final = {
    "researcher": "You are the researcher of a newsroom. Turn the sources into short notes.",
    "writer": "You are the writer of a newsroom. Turn the notes into a draft of three sentences.",
    "editor": "You are the editor of a newsroom. Mend the draft, heed the remarks, and give the article only.",
}


def prompt(role: str, topic: str, material: str) -> list[Message]:
    """What an agent asks the model."""
    return [{"role": "system", "content": PROMPTS[role]}, {"role": "user", "content": f"{topic}\n\n{material}"}]


@crewbus.step
async def complete(messages: list[Message], model: str | None = None) -> str:
    """The model's answer; its pieces go to the streams of the run in scope, and to callbacks, as they arrive."""
    text = []
    served = model_on_server(model)
    pieces = ask_server(messages, served) if served else ask_script(messages)
    async with crewbus.call(served or "script") as call, aclosing(pieces):
        async for kind, piece in pieces:
            crewbus.chunk(piece, kind)
            await crewbus.drain()  # where a slow consumer slows us down
            if kind == "text":
                text.append(piece)
        answer = "".join(text)
        call.finish(output=answer)
        return answer


def model_on_server(model: str | None) -> str | None:
    """The model to ask on the server that the environment names; None where it names none."""
    if os.environ.get("OPENAI_BASE_URL") and os.environ.get("OPENAI_API_KEY"):
        return model or os.environ.get("OPENAI_MODEL") or "gpt-4o-mini"
    return None


async def ask_server(messages: list[Message], model: str) -> AsyncGenerator[Piece, None]:
    """The pieces of a server's answer."""
    client = await anext(clients.setdefault(asyncio.get_running_loop(), serve_client()))
    asked: Any = messages
    async with await client.chat.completions.create(model=model, messages=asked, stream=True) as answer:
        async for part in answer:
            for delta in (choice.delta for choice in part.choices):
                # Not in OpenAI's own protocol; servers of reasoning models use the one name or the other.
                if reasoning := getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None):
                    yield "reasoning", reasoning
                if delta.content:
                    yield "text", delta.content
                for call in delta.tool_calls or ():
                    if call.function is not None and call.function.arguments:
                        yield "tool_call", call.function.arguments


clients: dict[asyncio.AbstractEventLoop, AsyncGenerator["AsyncOpenAI", None]] = {}


async def serve_client() -> AsyncGenerator["AsyncOpenAI", None]:
    """The one client of an event loop, as often as asked; closed when the loop finalises its generators."""
    try:
        from openai import AsyncOpenAI

        async with AsyncOpenAI(max_retries=0, timeout=60) as client:
            while True:
                yield client
    finally:
        del clients[asyncio.get_running_loop()]


SCRIPT: Final = {
    PROMPTS["researcher"]: """- Both desks have files on {topic}.
- Spending on {topic} has doubled in ten years.
- Nobody agrees on who should pay for {topic}.""",
    PROMPTS["writer"]: """For years only experts talked about {topic}.
Now spending on {topic} has doubled, and every council has an opinion on it, although nobody has said yet who
should pay for {topic}, or for how long, or what happens when the money ends.""",
    PROMPTS["editor"]: """The talk about {topic} has left the laboratories. Spending on {topic} has doubled.
Who should pay for {topic} is the question that every council now avoids.""",
}


async def ask_script(messages: list[Message]) -> AsyncGenerator[Piece, None]:
    """The pieces of the scripted model's answer: always the same to the same role and topic."""
    role, topic = messages[0]["content"], messages[-1]["content"].partition("\n")[0]
    yield "reasoning", f"What is there to say about {topic}?\n"
    for word in re.findall(r"\S+\s*", SCRIPT[role].format(topic=topic) + "\n"):
        await asyncio.sleep(0)  # as a server would, it lets others have their turn
        yield "text", word
