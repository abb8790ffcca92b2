"""Transcripts: what the parts of a stream say, and what answer they add up to; one class for each API of litellm."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol

from crewbus_litellm.answer import Answer, answer_of, answer_streamed, pieces_of

Pieces = Iterable[tuple[str, str]]
"""Chunks, as pairs of kind ("text", "reasoning", "tool_call") and text."""
CostOf = Callable[..., Any] | None
"""litellm's function that computes a cost, called as ``cost_of(result=response)``."""


class Transcript(Protocol):
    """The parts of one stream."""

    complete: bool
    """Whether the provider said that the answer is complete; at most the usage follows."""

    def add(self, part: Any) -> Pieces:
        """Take the next part, and return the chunks in it."""

    def answer(self, whole: Any = None, cost_of: CostOf = None, /) -> Answer:
        """The answer so far; ``whole`` is the response that litellm assembled, if it did."""


class Completion:
    """Parts of ``completion`` and ``text_completion``."""

    def __init__(self) -> None:
        self.complete = False
        self._parts: list[Any] = []

    def add(self, part: Any) -> Pieces:
        """Take a part with choices."""
        self._parts.append(part)
        choices = getattr(part, "choices", None) or ()
        self.complete = self.complete or any(getattr(choice, "finish_reason", None) for choice in choices)
        return pieces_of(part)

    def answer(self, whole: Any = None, cost_of: CostOf = None, /) -> Answer:
        """The answer in the parts, or in ``whole``."""
        parts, self._parts = self._parts, []  # whoever keeps the stream need not keep them
        return answer_streamed(parts, whole, cost_of)


_RESPONSES: Final = {
    "response.output_text.delta": "text",
    "response.reasoning_text.delta": "reasoning",
    "response.reasoning_summary_text.delta": "reasoning",
    "response.function_call_arguments.delta": "tool_call",
}
"""The kinds of chunks, by the types of the events of ``responses``."""
_RESPONSES_END: Final = frozenset({"response.completed", "response.incomplete"})


class Responses:
    """Events of ``responses``."""

    def __init__(self) -> None:
        self.complete = False
        self._text = ""
        self._response: Any = None

    def add(self, part: Any) -> Pieces:
        """Take an event."""
        name = str(getattr(part.type, "value", part.type))
        if name in _RESPONSES_END:
            self.complete, self._response = True, part.response
        kind, delta = _RESPONSES.get(name), getattr(part, "delta", None)
        if kind is None or not isinstance(delta, str) or not delta:
            return ()
        self._text += delta if kind == "text" else ""
        return [(kind, delta)]

    def answer(self, _whole: Any = None, cost_of: CostOf = None, /) -> Answer:
        """The answer in the last event, which has it all."""
        if self._response is None:
            return Answer(self._text)
        answer = answer_of(self._response)
        if answer.cost is None and cost_of is not None and answer.usage is not None:
            return answer._replace(cost=cost_of(result=self._response))
        return answer


_MESSAGES: Final = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
"""Where the deltas of ``anthropic.messages`` have their text, by their types."""
_KINDS: Final = {"text_delta": "text", "thinking_delta": "reasoning", "input_json_delta": "tool_call"}


class Messages:
    """Events of ``anthropic.messages``: as dictionaries, or as the bytes of server-sent events, cut anywhere."""

    def __init__(self) -> None:
        self.complete = False
        self._rest = b""
        self._blocks: dict[int, dict[str, Any]] = {}
        self._usage: dict[str, Any] = {}

    def add(self, part: Any) -> Pieces:
        """Take an event or bytes."""
        return [piece for event in self._events(part) for piece in self._take(event)]

    def _events(self, part: Any) -> Iterator[Any]:
        if isinstance(part, Mapping):
            yield part
            return
        *lines, self._rest = (self._rest + (part.encode() if isinstance(part, str) else bytes(part))).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                with suppress(ValueError):  # a comment of a proxy's, or the mark of the end
                    yield json.loads(line[5:])

    def _take(self, event: Any) -> Iterator[tuple[str, str]]:
        kind = event.get("type") if isinstance(event, Mapping) else None
        if kind == "message_start":
            self._usage |= event["message"].get("usage") or {}
        elif kind == "content_block_start":
            self._blocks[event["index"]] = {**event["content_block"], "streamed": ""}
        elif kind == "message_delta":
            self._usage |= {name: count for name, count in (event.get("usage") or {}).items() if count is not None}
            self.complete = self.complete or bool(event["delta"].get("stop_reason"))
        elif kind == "content_block_delta" and event["delta"]["type"] in _MESSAGES:
            delta = event["delta"]
            text = delta[_MESSAGES[delta["type"]]]
            self._blocks.setdefault(event["index"], {"type": "text", "streamed": ""})["streamed"] += text
            if text:
                yield _KINDS[delta["type"]], text

    def answer(self, _whole: Any = None, _cost_of: CostOf = None, /) -> Answer:
        """The answer in the events."""
        blocks = [_complete(block) for _, block in sorted(self._blocks.items())]
        return answer_of({"content": blocks, "usage": self._usage})


def _complete(block: Mapping[str, Any]) -> dict[str, Any]:
    """A block of content, with what was streamed for it."""
    if block.get("type") == "tool_use":
        return {**block, "input": block["streamed"]}
    return {**block, "text": block.get("text", "") + block["streamed"]}
