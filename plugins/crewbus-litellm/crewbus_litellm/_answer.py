"""Answers: what litellm's responses and the parts of its streams say, in plain values that can be recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Message = dict[str, Any]


class Answer(NamedTuple):
    """What a call gave, and what it took."""

    output: str | Message | list[str | Message | None] | None = None
    """The text; where the model calls tools a message, ``{"content": …, "tool_calls": […]}``; with ``n=`` a list."""
    usage: dict[str, int] | None = None
    """Counts by litellm's names; those of nested details as ``prompt_tokens_details.cached_tokens``."""
    cost: float | None = None
    """In US dollars, as litellm has it."""


def answer_of(response: Any) -> Answer:
    """The answer in a response of litellm's; an empty one where it is of no known kind."""
    hidden = getattr(response, "_hidden_params", None)
    cost = hidden.get("response_cost") if isinstance(hidden, Mapping) else None
    return Answer(_output(response), _usage(getattr(response, "usage", None)), cost)


def answer_streamed(parts: Sequence[Any], whole: Any = None, cost_of: Callable[..., Any] | None = None) -> Answer:
    """The answer that a stream gave in ``parts``.

    ``whole``: the same as litellm put it together, if it did; it knows the usage even where the provider does not say
    it. ``cost_of(result=response)``: how litellm counts the cost.
    """
    output = _output(whole) if whole is not None else _assembled(parts)
    told = whole if whole is not None else _with_usage(parts)
    usage = _usage(getattr(told, "usage", None))
    return Answer(output, usage, cost_of(result=told) if cost_of is not None and usage is not None else None)


def is_last(part: Any) -> bool:
    """Whether a part says why the model stopped: what follows is the usage at most."""
    return any(getattr(choice, "finish_reason", None) for choice in getattr(part, "choices", None) or ())


def pieces_of(part: Any) -> Iterator[tuple[str, str]]:
    """What a part of a stream brings, as pairs of kind and text: "text", "reasoning", "tool_call"."""
    for delta in _deltas(part):
        yield from _piece("reasoning", getattr(delta, "reasoning_content", None))
        yield from _piece("text", getattr(delta, "content", None))
        for call in getattr(delta, "tool_calls", None) or ():
            yield from _piece("tool_call", call.function.arguments)
        yield from _piece("tool_call", getattr(getattr(delta, "function_call", None), "arguments", None))


def _piece(kind: str, text: Any) -> Iterator[tuple[str, str]]:
    if isinstance(text, str) and text:
        yield kind, text


def _deltas(part: Any) -> Iterator[Any]:
    """What a part adds to the first choice; where a request asks for several, their texts would run into each other."""
    for choice in getattr(part, "choices", None) or ():
        delta = getattr(choice, "delta", None)
        if delta is not None and not getattr(choice, "index", 0):
            yield delta


# Whole responses


def _output(response: Any) -> str | Message | list[str | Message | None] | None:
    choices = getattr(response, "choices", None) or ()
    outputs = [_said(choice.message) for choice in choices if getattr(choice, "message", None) is not None]
    return outputs[0] if len(outputs) == 1 else outputs or None


def _said(message: Any) -> str | Message | None:
    content: str | None = getattr(message, "content", None)
    calls = [_add_to_call(_no_call(), call) for call in getattr(message, "tool_calls", None) or ()]
    return {"content": content, "tool_calls": calls} if calls else content


def _usage(usage: Any) -> dict[str, int] | None:
    counts = dict(_counts(usage.model_dump())) if hasattr(usage, "model_dump") else {}
    return counts if any(counts.values()) else None  # litellm writes zeros where the provider said nothing


def _counts(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _counts(value, f"{prefix}{name}.")
        elif isinstance(value, int) and not isinstance(value, bool):
            yield prefix + name, value


# What has to be put together


def _assembled(parts: Sequence[Any]) -> str | Message:
    text = "".join(text for part in parts for kind, text in pieces_of(part) if kind == "text")
    calls: dict[int, Message] = {}
    for delta in (delta for part in parts for delta in _deltas(part)):
        for call in getattr(delta, "tool_calls", None) or ():
            _add_to_call(calls.setdefault(call.index, _no_call()), call)
    return {"content": text or None, "tool_calls": list(calls.values())} if calls else text


def _no_call() -> Message:
    return {"id": None, "type": None, "function": {"name": None, "arguments": ""}}


def _add_to_call(call: Message, piece: Any) -> Message:
    call["id"] = call["id"] or piece.id
    call["type"] = call["type"] or piece.type
    function = call["function"]
    function["name"] = function["name"] or piece.function.name
    function["arguments"] += piece.function.arguments or ""
    return call


def _with_usage(parts: Sequence[Any]) -> Any:
    """A response that has the usage which the last of the parts to tell it has; None where none does."""
    from litellm import ModelResponse

    for part in reversed(parts):
        hidden = getattr(part, "_hidden_params", None)
        usage = getattr(part, "usage", None) or (hidden.get("usage") if isinstance(hidden, Mapping) else None)
        if usage is not None:
            return ModelResponse(model=part.model, usage=usage)
    return None
