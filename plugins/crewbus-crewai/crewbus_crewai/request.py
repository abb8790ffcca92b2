"""What a model is asked: its messages and tools, and the type of its answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from crewai.llms.base_llm import BaseLLM
from pydantic import BaseModel

OF_THE_PROCESS: Final = frozenset({"tool_call_id", "raw_tool_call_parts"})
"""What of a message is another in each process, and says nothing that is asked."""


def asked(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """The messages and the tools, by which calls are told apart.

    Without the ids of tool calls: for those that a model gives no id, crewAI takes the address of an object.
    """
    messages = args[0] if args else kwargs.get("messages")
    said = [_without_ids(one) for one in messages] if isinstance(messages, list) else messages
    return said, args[1] if len(args) > 1 else kwargs.get("tools")


def _without_ids(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    said = {name: value for name, value in message.items() if name not in OF_THE_PROCESS}
    calls = said.get("tool_calls")
    return said | {"tool_calls": [_without_id(call) for call in calls]} if isinstance(calls, list) else said


def _without_id(call: Any) -> Any:
    return {name: value for name, value in call.items() if name != "id"} if isinstance(call, dict) else call


def model_of(llm: BaseLLM, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> type[BaseModel] | None:
    """The type of what a call of ``llm`` is to return, given with it or to the model; None where that is text."""
    given = args[6] if len(args) > 6 else kwargs.get("response_model")
    wanted = given or getattr(llm, "response_format", None)
    return wanted if isinstance(wanted, type) and issubclass(wanted, BaseModel) else None
