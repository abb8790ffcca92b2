"""Results of model and tool calls: converted to JSON for a record, and back."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from typing import Any, Final, NamedTuple

from crewai.utilities.agent_utils import extract_tool_call_info, is_tool_call_list
from pydantic import BaseModel

from crewbus_crewai.plain import described, is_plain

MARK: Final = "crewbus_crewai"
PLAIN: Final = "plain"
CALLS: Final = "calls"
PARTS: Final = "parts"
MODEL: Final = "model"
MODELS: Final = "models"
LOST: Final = "lost"

OF_PARTS: Final = "google.genai.types"
"""The module of Gemini's tool calls, which contain signatures that Gemini requires in the next request."""


class Result(NamedTuple):
    """A result in JSON, with its kind."""

    kind: str
    """"plain" JSON, tool "calls", "parts" (Gemini's tool calls), the requested "model", "models", or "lost"."""
    shown: Any

    @classmethod
    def of(cls, value: Any, model: Any = None) -> Result:
        """``value`` in JSON; "lost", with its ``repr``, if JSON would not preserve it."""
        if is_plain(value):
            return cls(PLAIN, value)
        with contextlib.suppress(Exception):  # an object that cannot be converted must not fail the call
            kind, shown = _shown(value, model)
            if is_plain(shown):
                return cls(kind, shown)
        return cls(LOST, described(value))

    @classmethod
    def kept(cls, recorded: Any) -> Result:
        """The result that `recorded` converted."""
        return cls(recorded[MARK], recorded["value"]) if _is_marked(recorded) else cls(PLAIN, recorded)

    @property
    def recorded(self) -> Any:
        """The value that a step returns: the plain value itself if possible, so that a fork's edits may be plain."""
        if self.kind == PLAIN and not _is_marked(self.shown):
            return self.shown
        return {MARK: self.kind, "value": self.shown}

    def restored(self, model: Any = None) -> Any:
        """The original value; tool calls as dictionaries, which crewAI accepts as well, except Gemini's."""
        if self.kind == MODEL:
            return _read(model, self.shown)
        if self.kind == MODELS:
            return [_read(model, one) for one in self.shown]
        if self.kind == PARTS:
            part = importlib.import_module(OF_PARTS).Part
            return [_read(part, one) for one in self.shown]
        return self.shown


def _is_marked(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {MARK, "value"}


def _shown(value: Any, model: Any) -> tuple[str, Any]:
    """The kind of a value that is not plain, and the value in JSON."""
    if isinstance(value, list) and _are_parts(value):
        return PARTS, [one.model_dump(mode="json", exclude_none=True) for one in value]
    if isinstance(value, list) and is_tool_call_list(value):
        return CALLS, [_tool_call(one) for one in value]
    if isinstance(value, list) and model is not None and all(type(one) is model for one in value):
        return MODELS, [json.loads(one.model_dump_json(by_alias=True, round_trip=True)) for one in value]
    if isinstance(value, BaseModel) and type(value) is model:
        shown = json.loads(value.model_dump_json(by_alias=True, round_trip=True))
        if _read(model, shown) == value:
            return MODEL, shown
    return LOST, described(value)


def _read(model: type[BaseModel], shown: Any) -> BaseModel:
    return model.model_validate_json(json.dumps(shown))  # unlike `model_validate`, it also reads strict models


def _are_parts(calls: list[Any]) -> bool:
    types = sys.modules.get(OF_PARTS)
    return types is not None and bool(calls) and all(isinstance(one, types.Part) for one in calls)


def _tool_call(call: Any) -> dict[str, Any]:
    found = extract_tool_call_info(call)
    if found is None:
        return {"id": None, "type": "function", "function": {"name": "", "arguments": repr(call)}}
    call_id, name, arguments = found
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, default=repr)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": text}}
