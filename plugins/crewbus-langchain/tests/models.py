"""Models that answer in this process, and graphs of a few nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

USAGE = {
    "input_tokens": 7,
    "output_tokens": 5,
    "total_tokens": 12,
    "input_token_details": {"cache_read": 3},
    "output_token_details": {"reasoning": 2},
}


class Scripted(BaseChatModel):
    """Answers with the parts it was given, whole or streamed; a part that is an exception is raised."""

    parts: Sequence[Any] = ("The ", "moon.")
    between: Callable[[], object] = bool
    """Called before each part that is streamed."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        whole: Any = None
        for chunk in self._stream(messages):
            whole = chunk if whole is None else whole + chunk
        said = AIMessage(
            content=whole.message.content,
            tool_calls=whole.message.tool_calls,
            usage_metadata=USAGE,
            response_metadata={"model_name": "scripted-1", "finish_reason": "stop", "id": "answer-1"},
        )
        return ChatResult(generations=[ChatGeneration(message=said)])

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> Iterator[Any]:
        for part in self.parts:
            self.between()
            if isinstance(part, BaseException):
                raise part
            said = part if isinstance(part, AIMessageChunk) else AIMessageChunk(content=part)
            yield ChatGenerationChunk(message=said)
        last = AIMessageChunk(content="", usage_metadata=USAGE, response_metadata={"finish_reason": "stop"})
        yield ChatGenerationChunk(message=last)

    async def _astream(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> AsyncIterator[Any]:
        for chunk in self._stream(messages):
            yield chunk


class State(TypedDict, total=False):
    asked: str
    said: str
    left: str
    right: str


def graph_of(*nodes: Any, **compiled: Any) -> Any:
    """A graph of these nodes, one after the other."""
    builder = StateGraph(State)
    before = START
    for node in nodes:
        builder.add_node(node.__name__, node)
        builder.add_edge(before, node.__name__)
        before = node.__name__
    builder.add_edge(before, END)
    return builder.compile(**compiled)
