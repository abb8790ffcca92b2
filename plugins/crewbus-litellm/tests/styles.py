"""The four styles of calling litellm: a function each, which returns the text."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import litellm
from helpers import TIMEOUT

import crewbus


def asked(url: str, prompt: str = "RUN=a CHUNKS=3", **options: Any) -> dict[str, Any]:
    """The arguments for a litellm call."""
    messages = [{"role": "user", "content": prompt}]
    return {
        "model": "openai/gpt-4o-mini",
        "messages": messages,
        "api_base": url,
        "api_key": "none",
        "max_retries": 0,
        "timeout": TIMEOUT,
        **options,
    }


def text_of(part: Any) -> str:
    return "".join(choice.delta.content or "" for choice in part.choices)


def sync(**options: Any) -> str:
    return str(litellm.completion(**options).choices[0].message.content)


def sync_stream(**options: Any) -> str:
    return "".join(text_of(part) for part in litellm.completion(stream=True, **options))


async def call_async(**options: Any) -> str:
    return str((await litellm.acompletion(**options)).choices[0].message.content)


async def call_async_stream(**options: Any) -> str:
    return "".join([text_of(part) async for part in await litellm.acompletion(stream=True, **options)])


def run_async(function: Callable[..., Any], **options: Any) -> Any:
    """Run it on a loop of its own."""

    async def main() -> Any:
        return await function(**options)

    return asyncio.run(main())


def asynchronous(**options: Any) -> str:
    return str(run_async(call_async, **options))


def async_stream(**options: Any) -> str:
    return str(run_async(call_async_stream, **options))


STYLES: dict[str, Callable[..., str]] = {
    "sync": sync,
    "sync stream": sync_stream,
    "async": asynchronous,
    "async stream": async_stream,
}


class Listener:
    """A callback that keeps the envelopes."""

    def __init__(self) -> None:
        self.envelopes: list[crewbus.Envelope] = []

    def __call__(self, envelope: crewbus.Envelope) -> None:
        self.envelopes.append(envelope)

    @property
    def events(self) -> list[Any]:
        return [envelope.event for envelope in self.envelopes]

    @property
    def names(self) -> list[str]:
        return [type(event).__name__ for event in self.events]

    @property
    def text(self) -> str:
        return self.spelled("text")

    def spelled(self, kind: str) -> str:
        chunks = (event for event in self.events if isinstance(event, crewbus.Chunk))
        return "".join(chunk.text for chunk in chunks if chunk.kind == kind)

    @property
    def end(self) -> Any:
        """The terminal event of the one call that there was."""
        (end,) = (event for event in self.events if isinstance(event, crewbus.CallEnded))
        return end
