"""Answers: litellm's responses and stream parts as plain values that can be recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

Message = dict[str, Any]

_COMMON: Final = {
    "input_tokens": "prompt_tokens",
    "output_tokens": "completion_tokens",
    "cached_input_tokens": "prompt_tokens_details.cached_tokens",
    "reasoning_tokens": "completion_tokens_details.reasoning_tokens",
}
"""crewbus's names of counts, and litellm's."""


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
    """The answer in a litellm response; empty for an unknown kind of response."""
    hidden = getattr(response, "_hidden_params", None)
    cost = hidden.get("response_cost") if isinstance(hidden, Mapping) else None
    return Answer(_output(response), _usage(getattr(response, "usage", None)), cost)


def answer_streamed(parts: Sequence[Any], whole: Any = None, cost_of: Callable[..., Any] | None = None) -> Answer:
    """The answer that a stream produced in ``parts``.

    ``whole`` is the response that litellm assembled from them, if it did: it has the usage even if the provider reports
    none. ``cost_of(result=response)`` is litellm's function that computes the cost.
    """
    output = _output(whole) if whole is not None else _assembled(parts)
    response = whole if whole is not None else _with_usage(parts)
    usage = _usage(getattr(response, "usage", None))
    return Answer(output, usage, cost_of(result=response) if cost_of is not None and usage is not None else None)


def is_last(part: Any) -> bool:
    """Whether a part has the finish reason; at most the usage follows it."""
    return any(getattr(choice, "finish_reason", None) for choice in getattr(part, "choices", None) or ())


def pieces_of(part: Any) -> Iterator[tuple[str, str]]:
    """The chunks in a stream part, as pairs of kind ("text", "reasoning", "tool_call") and text."""
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
    """The deltas of the first choice; with ``n=``, the texts of several choices would run together."""
    for choice in getattr(part, "choices", None) or ():
        delta = getattr(choice, "delta", None)
        if delta is not None and not getattr(choice, "index", 0):
            yield delta


# Complete responses


def _output(response: Any) -> str | Message | list[str | Message | None] | None:
    choices = getattr(response, "choices", None) or ()
    outputs = [_message(choice.message) for choice in choices if getattr(choice, "message", None) is not None]
    return outputs[0] if len(outputs) == 1 else outputs or None


def _message(message: Any) -> str | Message | None:
    content: str | None = getattr(message, "content", None)
    calls = [_add_to_call(_empty_call(), call) for call in getattr(message, "tool_calls", None) or ()]
    return {"content": content, "tool_calls": calls} if calls else content


def _usage(usage: Any) -> dict[str, int] | None:
    counts = dict(_counts(usage.model_dump())) if hasattr(usage, "model_dump") else {}
    counts |= {ours: counts[theirs] for ours, theirs in _COMMON.items() if theirs in counts}
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
