"""Plain values: langchain's objects, and any others, as JSON values that a record preserves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.prompt_values import PromptValue
from pydantic import BaseModel

DEEPEST: Final = 50
"""How deep a value may nest; what is deeper becomes its ``repr``."""
LONGEST_INT: Final = 14_000
"""How many bits an integer may have."""

_ROLES: Final = {"human": "user", "ai": "assistant", "AIMessageChunk": "assistant", "chat": "chat"}
"""The roles of messages, by langchain's types of them, where they differ."""


def as_plain(value: Any, around: tuple[int, ...] = ()) -> Any:
    """``value`` as a JSON value: what JSON can't represent, a cycle included, becomes its ``repr``.

    ``around`` are the ids of the values that it is in.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):  # langchain's texts are of a subclass
        return _text(value)
    if isinstance(value, int) and value.bit_length() <= LONGEST_INT:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if id(value) in around or len(around) >= DEEPEST:
        return described(value)
    return _structure(value, (*around, id(value)))


def _structure(value: Any, inside: tuple[int, ...]) -> Any:
    if isinstance(value, BaseMessage):
        return as_plain(message(value), inside)
    if isinstance(value, PromptValue):
        return as_plain(value.to_messages(), inside)
    if isinstance(value, Document):
        return as_plain({"content": value.page_content, "metadata": value.metadata}, inside)
    if isinstance(value, BaseModel):
        return {name: as_plain(getattr(value, name), inside) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {_key(key): as_plain(one, inside) for key, one in list(value.items())}
    if isinstance(value, list | tuple | AbstractSet):
        return [as_plain(one, inside) for one in list(value)]
    return described(value)


def _key(key: Any) -> str:
    return _text(key) if isinstance(key, str) else described(key)


def _text(value: str) -> str:
    """``value`` without lone surrogates, as truncated answers have them."""
    return str.encode(value, errors="backslashreplace").decode()


def described(value: Any) -> str:
    """The ``repr`` of a value, as text that can be written."""
    try:
        return _text(repr(value))
    except Exception:  # Python also refuses the decimal digits of huge integers
        return hex(value) if isinstance(value, int) else f"<{type(value).__qualname__}>"


def message(said: BaseMessage) -> dict[str, Any]:
    """A message as it is usual among providers: its role, its content, and the tools that it calls or answers."""
    found: dict[str, Any] = {"role": _ROLES.get(said.type, said.type), "content": said.content}
    if isinstance(said, AIMessage) and said.tool_calls:
        found["tool_calls"] = tool_calls(said)
    if isinstance(said, ToolMessage):
        found["tool_call_id"] = said.tool_call_id
    return found


def tool_calls(said: AIMessage) -> list[dict[str, Any]]:
    """The tools that a model calls, with their arguments."""
    return [{"id": call["id"], "name": call["name"], "arguments": call["args"]} for call in said.tool_calls]
