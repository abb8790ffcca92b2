"""Answers: litellm's responses and stream parts as plain values that can be recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

Message = dict[str, Any]

_COMMON: Final = {
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "prompt_tokens_details.cached_tokens": "cached_input_tokens",
    "input_tokens_details.cached_tokens": "cached_input_tokens",
    "cache_read_input_tokens": "cached_input_tokens",
    "completion_tokens_details.reasoning_tokens": "reasoning_tokens",
    "output_tokens_details.reasoning_tokens": "reasoning_tokens",
}
"""litellm's names of counts, in its APIs, and crewbus's."""


class Answer(NamedTuple):
    """The output of a call, its token usage and its cost."""

    output: str | Message | list[str | Message | None] | None = None
    """The text; a message ``{"content": …, "tool_calls": […]}`` if the model calls tools; a list with ``n=``."""
    usage: dict[str, int] | None = None
    """Counts under litellm's names; nested ones are flattened, as in ``prompt_tokens_details.cached_tokens``.

    Those that crewbus has a name for are under that name too, such as ``input_tokens``.
    """
    cost: float | None = None
    """In US dollars, as litellm computes it."""


def answer_of(response: Any) -> Answer:
    """The answer in a litellm response; empty for an unknown kind. It leaves out the vectors of embeddings."""
    hidden = _field(response, "_hidden_params")
    cost = hidden.get("response_cost") if isinstance(hidden, Mapping) else None
    return Answer(_output(response), _usage(_field(response, "usage")), cost)


def _field(thing: Any, name: str) -> Any:
    """A field of a response or a part of it, which is an object or a dictionary; None if it has none."""
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


def answer_streamed(parts: Sequence[Any], whole: Any = None, cost_of: Callable[..., Any] | None = None) -> Answer:
    """The answer that a stream produced in ``parts``.

    ``whole`` is the response that litellm assembled from them, if it did: it has the usage even if the provider reports
    none. ``cost_of(result=response)`` is litellm's function that computes the cost.
    """
    output = _output(whole) if whole is not None else _assembled(parts)
    response = whole if whole is not None else _with_usage(parts)
    usage = _usage(getattr(response, "usage", None))
    return Answer(output, usage, cost_of(result=response) if cost_of is not None and usage is not None else None)


def pieces_of(part: Any) -> Iterator[tuple[str, str]]:
    """The chunks in a stream part, as pairs of kind ("text", "reasoning", "tool_call") and text."""
    for delta in _deltas(part):
        yield from _piece("reasoning", getattr(delta, "reasoning_content", None))
        yield from _piece("text", getattr(delta, "content", None) or getattr(delta, "text", None))
        for call in getattr(delta, "tool_calls", None) or ():
            yield from _piece("tool_call", call.function.arguments)
        yield from _piece("tool_call", getattr(getattr(delta, "function_call", None), "arguments", None))


def _piece(kind: str, text: Any) -> Iterator[tuple[str, str]]:
    if isinstance(text, str) and text:
        yield kind, text


def _deltas(part: Any) -> Iterator[Any]:
    """The deltas of the first choice; with ``n=``, the texts of several choices would run together.

    A choice of ``text_completion`` has its text itself.
    """
    for choice in getattr(part, "choices", None) or ():
        delta = getattr(choice, "delta", None if getattr(choice, "text", None) is None else choice)
        if delta is not None and not getattr(choice, "index", 0):
            yield delta


# Complete responses


def _output(response: Any) -> str | Message | list[str | Message | None] | None:
    """What a response says: in its choices, the items of ``responses``, or the blocks of ``anthropic.messages``."""
    said = _field(response, "output") or _field(response, "content")
    if isinstance(said, list):
        return _said(said)
    outputs = [_chosen(choice) for choice in getattr(response, "choices", None) or ()]
    return outputs[0] if len(outputs) == 1 else outputs or None


def _chosen(choice: Any) -> str | Message | None:
    message = getattr(choice, "message", None)
    return _message(message) if message is not None else getattr(choice, "text", None)


def _said(items: Sequence[Any]) -> str | Message:
    """The text and the tool calls in items: messages with parts, parts, or calls."""
    parts = [part for item in items for part in (_field(item, "content") or [item])]
    text = "".join(_field(part, "text") or "" for part in parts if _field(part, "type") in {"text", "output_text"})
    calls = [_called(part) for part in parts if _field(part, "type") in {"tool_use", "function_call"}]
    return {"content": text or None, "tool_calls": calls} if calls else text


def _called(item: Any) -> Message:
    arguments = _field(item, "arguments") if _field(item, "type") == "function_call" else _field(item, "input")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    function = {"name": _field(item, "name"), "arguments": text}
    return {"id": _field(item, "call_id") or _field(item, "id"), "type": "function", "function": function}


def _message(message: Any) -> str | Message | None:
    content: str | None = getattr(message, "content", None)
    calls = [_add_to_call(_empty_call(), call) for call in getattr(message, "tool_calls", None) or ()]
    return {"content": content, "tool_calls": calls} if calls else content


def _usage(usage: Any) -> dict[str, int] | None:
    counts = dict(_counts(usage.model_dump() if hasattr(usage, "model_dump") else usage or {}))
    counts |= {ours: counts[theirs] for theirs, ours in _COMMON.items() if theirs in counts}
    return counts if any(counts.values()) else None  # litellm writes zeros if the provider reported none


def _counts(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _counts(value, f"{prefix}{name}.")
        elif isinstance(value, int) and not isinstance(value, bool):
            yield prefix + name, value


# Assembling stream parts


def _assembled(parts: Sequence[Any]) -> str | Message:
    text = "".join(text for part in parts for kind, text in pieces_of(part) if kind == "text")
    calls: dict[int, Message] = {}
    for delta in (delta for part in parts for delta in _deltas(part)):
        for call in getattr(delta, "tool_calls", None) or ():
            _add_to_call(calls.setdefault(call.index, _empty_call()), call)
    return {"content": text or None, "tool_calls": list(calls.values())} if calls else text


def _empty_call() -> Message:
    return {"id": None, "type": None, "function": {"name": None, "arguments": ""}}


def _add_to_call(call: Message, piece: Any) -> Message:
    call["id"] = call["id"] or piece.id
    call["type"] = call["type"] or piece.type
    function = call["function"]
    function["name"] = function["name"] or piece.function.name
    function["arguments"] += piece.function.arguments or ""
    return call


def _with_usage(parts: Sequence[Any]) -> Any:
    """A response with the last usage that the parts report; None if they report none."""
    from litellm import ModelResponse

    for part in reversed(parts):
        hidden = getattr(part, "_hidden_params", None)
        usage = getattr(part, "usage", None) or (hidden.get("usage") if isinstance(hidden, Mapping) else None)
        if usage is not None:
            return ModelResponse(model=part.model, usage=usage)
    return None
