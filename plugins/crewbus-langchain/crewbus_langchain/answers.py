"""Answers: what a model returned, and each piece that it streamed, as plain values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import LLMResult

from crewbus_langchain.plain import as_plain, tool_calls

_COMMON: Final = {
    "cached_input_tokens": "input_token_details.cache_read",
    "reasoning_tokens": "output_token_details.reasoning",
}
"""crewbus's names of counts, and langchain's, where they differ."""
_OLDER: Final = {"input_tokens": "prompt_tokens", "output_tokens": "completion_tokens"}
"""crewbus's names of counts, and those of models that report no usage with their messages."""

Piece = tuple[str, str]
"""The kind of a chunk ("text", "reasoning", "tool_call") and its text."""


class Answer(NamedTuple):
    """What ends a call."""

    output: Any = None
    """The text; with tool calls ``{"content": …, "tool_calls": […]}``; a list if there are several."""
    usage: dict[str, int] | None = None
    """Counts under langchain's names, nested ones flattened, and under crewbus's."""
    attributes: Mapping[str, Any] = {}
    """What the provider said of its answer."""


def answer_of(result: LLMResult) -> Answer:
    """The answer in a result of one prompt."""
    generations = result.generations[0] if result.generations else []
    messages = [said for one in generations if (said := getattr(one, "message", None)) is not None]
    outputs = [_output(said) for said in messages] or [as_plain(one.text) for one in generations]
    usage = next((dict(_counts(said.usage_metadata)) for said in messages if _has_usage(said)), None)
    return Answer(
        outputs[0] if len(outputs) == 1 else outputs or None,
        _named(usage, _COMMON) if usage else _reported(result.llm_output),
        _attributes(messages[0]) if messages else {},
    )


def _output(said: BaseMessage) -> Any:
    content = as_plain(_shown(said))
    if isinstance(said, AIMessage) and said.tool_calls:
        return {"content": content or None, "tool_calls": as_plain(tool_calls(said))}
    return content


def _shown(said: BaseMessage) -> Any:
    """The text of a message; its blocks if there is anything else in them than text, reasoning and tool calls."""
    if isinstance(said.content, str):
        return said.content
    kinds = {one.get("type") for one in said.content_blocks}
    return str(said.text) if kinds <= {"text", "reasoning", "tool_call", "tool_call_chunk"} else said.content


def _has_usage(said: Any) -> bool:
    return bool(getattr(said, "usage_metadata", None))


def _counts(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _counts(value, f"{prefix}{name}.")
        elif isinstance(value, int) and not isinstance(value, bool):
            yield prefix + name, value


def _named(counts: dict[str, int], names: Mapping[str, str]) -> dict[str, int]:
    return counts | {ours: counts[theirs] for ours, theirs in names.items() if theirs in counts}


def _reported(output: Any) -> dict[str, int] | None:
    """The usage of models that report it beside their answers."""
    reported = output.get("token_usage") or output.get("usage") if isinstance(output, Mapping) else None
    counts = dict(_counts(reported)) if isinstance(reported, Mapping) else {}
    return _named(counts, _OLDER) if any(counts.values()) else None


def _attributes(said: BaseMessage) -> dict[str, Any]:
    known = said.response_metadata
    reason = known.get("finish_reason") or known.get("stop_reason")
    found = {
        "response_model": known.get("model_name") or known.get("model"),
        "finish_reasons": [reason] if isinstance(reason, str) else None,
        "response_id": known.get("id"),
    }
    return {name: as_plain(value) for name, value in found.items() if value}


# Streamed pieces


def pieces_of(token: Any, chunk: Any) -> Iterator[Piece]:
    """The pieces in what a model streamed: ``token`` is its text, ``chunk`` what it came in."""
    said = getattr(chunk, "message", None)
    if not isinstance(said, BaseMessage):
        yield from _piece("text", token)
        return
    if isinstance(said.content, str):
        yield from _piece("reasoning", said.additional_kwargs.get("reasoning_content"))
        yield from _piece("text", said.content)
    else:
        for block in said.content_blocks:
            yield from _piece("reasoning", block.get("reasoning"))
            yield from _piece("text", block.get("text") if block.get("type") == "text" else None)
    for call in getattr(said, "tool_call_chunks", None) or ():
        yield from _piece("tool_call", call.get("args"))


def pieces_of_event(event: Mapping[str, Any]) -> Iterator[Piece]:
    """The pieces in an event of langchain's protocol for streams."""
    if event.get("event") != "content-block-delta":
        return
    delta = event["delta"]
    match delta.get("type"):
        case "text-delta":
            yield from _piece("text", delta["text"])
        case "reasoning-delta":
            yield from _piece("reasoning", delta["reasoning"])
        case "tool-call-delta":
            yield from _piece("tool_call", delta["args"])
        case "block-delta":
            yield from _piece("tool_call", delta["fields"].get("args"))


def _piece(kind: str, text: Any) -> Iterator[Piece]:
    if isinstance(text, str) and text:
        yield kind, as_plain(text)
