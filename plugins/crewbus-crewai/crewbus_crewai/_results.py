"""Results of model and tool calls: as a record holds them, and as they were."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from crewai.utilities.agent_utils import extract_tool_call_info, is_tool_call_list
from pydantic import BaseModel

MARK: Final = "crewbus_crewai"
PLAIN: Final = "plain"
CALLS: Final = "calls"
MODEL: Final = "model"
LOST: Final = "lost"


class Result(NamedTuple):
    """A result in JSON, and of which kind it was."""

    kind: str
    """"plain": what JSON holds; "calls": tool calls; "model": an instance of the model that was asked for; "lost"."""
    shown: Any

    @classmethod
    def of(cls, value: Any, model: Any = None) -> Result:
        """``value`` in JSON; "lost" with its ``repr`` where it would not come back as it was."""
        if _is_plain(value):
            return cls(PLAIN, value)
        if isinstance(value, list) and is_tool_call_list(value):
            return cls(CALLS, [_tool_call(one) for one in value])
        if isinstance(value, BaseModel) and type(value) is model:
            return cls(MODEL, value.model_dump(mode="json", fallback=repr))
        return cls(LOST, repr(value))

    @classmethod
    def kept(cls, recorded: Any) -> Result:
        """What `recorded` gave."""
        marked = isinstance(recorded, dict) and recorded.keys() == {MARK, "value"}
        return cls(recorded[MARK], recorded["value"]) if marked else cls(PLAIN, recorded)

    @property
    def recorded(self) -> Any:
        """What a step returns for it: itself, if it is plain, so that edits of a fork are."""
        return self.shown if self.kind == PLAIN else {MARK: self.kind, "value": self.shown}

    def restored(self, model: Any = None) -> Any:
        """What it was made of; tool calls as the dictionaries that crewAI takes as well."""
        return model.model_validate(self.shown) if self.kind == MODEL else self.shown


def _is_plain(value: Any) -> bool:
    """Whether ``value`` comes back from JSON as it was."""
    try:
        return _all_plain(value) and bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError, RecursionError):
        return False


def _all_plain(value: Any) -> bool:
    inner: Iterable[Any] = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return type(value) in {type(None), str, bool, int, float, list, dict} and all(_all_plain(one) for one in inner)


def _tool_call(call: Any) -> dict[str, Any]:
    found = extract_tool_call_info(call)
    if found is None:
        return {"id": None, "type": "function", "function": {"name": "", "arguments": repr(call)}}
    call_id, name, arguments = found
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, default=repr)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": text}}
