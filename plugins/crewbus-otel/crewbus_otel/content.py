"""Inputs and outputs of calls as attributes: messages, arguments, results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from crewbus_otel.conventions import INPUTS, OUTPUTS


def input_attributes(kind: str | None, value: Any) -> dict[str, str]:
    """The input of a call of this kind; none if it has none, or no convention names it."""
    return _attributes(INPUTS, kind, value, "user")


def output_attributes(kind: str | None, value: Any) -> dict[str, str]:
    """The output of a call of this kind, as `input_attributes`."""
    return _attributes(OUTPUTS, kind, value, "assistant")


def _attributes(names: Mapping[str, str], kind: str | None, value: Any, role: str) -> dict[str, str]:
    name = names.get(kind or "")
    if name is None or value is None:
        return {}
    if name.endswith(".messages"):
        value = _messages(value, role)
    return {name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)}


def _messages(value: Any, role: str) -> list[Any]:
    given = value if isinstance(value, list | tuple) else [value]
    return [_message(one, role) for one in given]


def _message(value: Any, role: str) -> Any:
    """A message in the form of the conventions; one in the form of chat APIs, with a ``content``, gets its parts."""
    if isinstance(value, Mapping):
        if "parts" in value:
            return value
        if isinstance(value.get("content"), str):
            return {"role": value.get("role", role), "parts": [{"type": "text", "content": value["content"]}]}
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return {"role": role, "parts": [{"type": "text", "content": text}]}
