"""The ways of asking a model other than ``completion``: how each is called, and what its server answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple

import litellm
from helpers import TIMEOUT
from scripted import USAGE, Answer, body, says, sent_events, streams

WORDS = ["The ", "moon."]
TOOL = {"name": "find", "arguments": '{"q": 1}'}
_COUNTS = {"input_tokens": 7, "output_tokens": 5}
_MESSAGES = [{"role": "user", "content": "What moves the tides?"}]


def _text(text: str) -> dict[str, Any]:
    choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": None}
    return {"id": "x", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}


def _texts() -> Answer:
    kind, encoded = "text/event-stream", sent_events(*({"type": "x", **_text(word)} for word in WORDS))[2]
    return 200, kind, encoded.replace(b"event: x\n", b"") + b"data: [DONE]\n\n", False


def _response(*output: dict[str, Any]) -> dict[str, Any]:
    usage = {**_COUNTS, "total_tokens": 12, "input_tokens_details": {"cached_tokens": 3}}
    details = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "status": "completed"}
    return {
        "id": "r",
        "object": "response",
        "created_at": 1,
        "model": "gpt-4o",
        "output": output,
        "usage": usage,
        **details,
    }


def _message_item(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [part]}


CALL_ITEM = {"type": "function_call", "id": "i", "call_id": "c1", "status": "completed", **TOOL}


def delta(kind: str, delta: str) -> dict[str, Any]:
    place = {"item_id": "i", "output_index": 0, "content_index": 0, "summary_index": 0, "sequence_number": 1}
    return {"type": f"response.{kind}.delta", "delta": delta, **place}


def responses_events(*deltas: dict[str, Any], output: list[dict[str, Any]] | None = None) -> Answer:
    """A stream of the responses API."""
    response = _response(*(output or [_message_item("".join(WORDS))]))
    created = {"type": "response.created", "sequence_number": 0, "response": {**_response(), "status": "in_progress"}}
    return sent_events(created, *deltas, {"type": "response.completed", "sequence_number": 9, "response": response})


def messages_events(
    *deltas: tuple[int, dict[str, Any]], blocks: list[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """The events of a stream of the messages API: blocks, and deltas with the index of their block."""
    start = {"id": "m", "type": "message", "role": "assistant", "model": "claude", "content": [], "stop_reason": None}
    usage = {"input_tokens": 7, "output_tokens": 1}
    return [
        {"type": "message_start", "message": {**start, "stop_sequence": None, "usage": usage}},
        *(
            {"type": "content_block_start", "index": index, "content_block": block}
            for index, block in enumerate(blocks or [{"type": "text", "text": ""}])
        ),
        *({"type": "content_block_delta", "index": index, "delta": delta} for index, delta in deltas),
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 5},
        },
        {"type": "message_stop"},
    ]


class Api(NamedTuple):
    """One of the other APIs."""

    sync: Callable[..., Any]
    asynchronous: Callable[..., Any]
    asked: dict[str, Any]
    whole: Answer
    streamed: Answer


APIS = {
    "text_completion": Api(
        litellm.text_completion,
        litellm.atext_completion,
        {"model": "openai/m", "prompt": "?", "max_retries": 0},
        body({**_text("".join(WORDS)), "usage": USAGE}),
        _texts(),
    ),
    "responses": Api(
        litellm.responses,
        litellm.aresponses,
        {"model": "openai/gpt-4o", "input": "?"},
        body(_response(_message_item("".join(WORDS)))),
        responses_events(*(delta("output_text", word) for word in WORDS)),
    ),
    "messages": Api(
        litellm.anthropic.messages.create,
        litellm.anthropic.messages.acreate,
        {"model": "hosted_vllm/m", "messages": _MESSAGES, "max_tokens": 9},
        says("".join(WORDS)),
        streams(*({"content": word} for word in WORDS), usage=True),
    ),
}
"""Those that answer with text, which ``embedding`` does not.

litellm asks most models for ``messages`` by ``completion``: those of Anthropic only asynchronously.
"""

EMBEDDING = body(
    {"object": "list", "model": "m", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}], "usage": USAGE}
)


def options(api: Api, url: str, **more: Any) -> dict[str, Any]:
    """The arguments of a call."""
    return {**api.asked, "api_base": url, "api_key": "none", "timeout": TIMEOUT, **more}


def consumed(result: Any) -> Any:
    """The parts of a stream, or the response itself."""
    return list(result) if isinstance(result, Iterator) or hasattr(result, "__next__") else result


async def consumed_async(result: Any) -> Any:
    """As `consumed`."""
    streamed = isinstance(result, AsyncIterator) or hasattr(result, "__anext__")
    return [part async for part in result] if streamed else result


def call(api: Api, asynchronous: bool, **given: Any) -> Any:
    """Call it, and consume the answer."""
    if not asynchronous:
        return consumed(api.sync(**given))

    async def main() -> Any:
        return await consumed_async(await api.asynchronous(**given))

    return asyncio.run(main())
