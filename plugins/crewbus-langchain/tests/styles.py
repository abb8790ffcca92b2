"""Eight styles of calling a chat model through langchain: a coroutine function each, which returns the text."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from helpers import TIMEOUT
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI
from models import graph_of


@asynccontextmanager
async def model(url: str, **options: Any) -> Any:
    """A model that has connections of its own: those that langchain-openai keeps belong to one event loop."""
    quick: Any = {"timeout": TIMEOUT, "verify": False}  # it loads no certificates, which takes long
    async with httpx.AsyncClient(**quick) as own:
        with httpx.Client(**quick) as client:
            given = {"model": "gpt-4o-mini", **options}
            yield ChatOpenAI(
                base_url=url, api_key="none", max_retries=0, http_async_client=own, http_client=client, **given
            )


def _text(parts: Any) -> str:
    return "".join(str(part.text) for part in parts)


async def invoke(chat: Any, prompt: str) -> str:
    return str(chat.invoke(prompt).text)


async def stream(chat: Any, prompt: str) -> str:
    return _text(list(chat.stream(prompt)))


async def ainvoke(chat: Any, prompt: str) -> str:
    return str((await chat.ainvoke(prompt)).text)


async def astream(chat: Any, prompt: str) -> str:
    return _text([part async for part in chat.astream(prompt)])


async def batch(chat: Any, prompt: str) -> str:
    return str(chat.batch([[HumanMessage(prompt)]])[0].text)


async def astream_events(chat: Any, prompt: str) -> str:
    events = [event async for event in (RunnableLambda(str) | chat).astream_events(prompt)]
    return _text(one["data"]["chunk"] for one in events if one["event"] == "on_chat_model_stream")


async def graph(chat: Any, prompt: str) -> str:
    def node(state: Any) -> Any:
        return {"said": chat.invoke(state["asked"]).text}

    return str(graph_of(node).invoke({"asked": prompt})["said"])


async def agraph_messages(chat: Any, prompt: str) -> str:
    async def node(state: Any) -> Any:
        return {"said": (await chat.ainvoke(state["asked"])).text}

    stream = graph_of(node).astream({"asked": prompt}, stream_mode="messages")
    return _text([part async for part, _ in stream])


Style = Callable[[Any, str], Awaitable[str]]
STYLES: dict[str, Style] = {
    "invoke": invoke,
    "stream": stream,
    "ainvoke": ainvoke,
    "astream": astream,
    "batch": batch,
    "astream_events": astream_events,
    "graph": graph,
    "graph of messages": agraph_messages,
}
STREAMED = {"stream", "astream", "astream_events", "graph of messages"}
"""Those in which the model streams its answer."""


def run(style: Style, url: str, prompt: str, **options: Any) -> str:
    """Call a model in a style, on an event loop of its own."""

    async def main() -> str:
        async with model(url, **options) as chat:
            return await style(chat, prompt)

    return asyncio.run(main())
