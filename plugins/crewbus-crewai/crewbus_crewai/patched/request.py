"""The arguments of a model call: messages, tools, and the type of the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from crewai.llms.base_llm import BaseLLM
from pydantic import BaseModel

OF_THE_PROCESS: Final = frozenset({"tool_call_id", "raw_tool_call_parts"})
"""Parts of a message that differ from process to process, and are not part of the question."""


def asked(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """The messages and the tools, which identify a call.

    Without the ids of tool calls: if a model gives none, crewAI uses the address of an object.
    """
    messages = args[0] if args else kwargs.get("messages")
    without_ids = [_without_ids(one) for one in messages] if isinstance(messages, list) else messages
    return without_ids, args[1] if len(args) > 1 else kwargs.get("tools")


def _without_ids(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    kept = {name: value for name, value in message.items() if name not in OF_THE_PROCESS}
    calls = kept.get("tool_calls")
    return kept | {"tool_calls": [_without_id(call) for call in calls]} if isinstance(calls, list) else kept


def _without_id(call: Any) -> Any:
    return {name: value for name, value in call.items() if name != "id"} if isinstance(call, dict) else call


def model_of(llm: BaseLLM, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> type[BaseModel] | None:
    """The pydantic model that a call of ``llm`` returns, from its arguments or the LLM; None if it returns text."""
    argument = args[6] if len(args) > 6 else kwargs.get("response_model")
    model = argument or getattr(llm, "response_format", None)
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None
