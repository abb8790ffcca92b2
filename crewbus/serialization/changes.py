"""Changes: what turns one JSON value into another, so that a state that grew is recorded by what was added."""

from __future__ import annotations

from typing import Any, Final

from crewbus.exceptions import DecodeError

__all__ = ["apply_change", "change_between"]

Change = list[Any]
"""How a value changes: ``["=", value]`` replaces it; ``["+", text]`` appends to a text; ``["~", inner, more]`` changes
what is in an object or array, by key or index, and appends ``more`` to it."""

_DAMAGED: Final = (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError)


def change_between(before: Any, after: Any) -> Change | None:
    """What turns ``before`` into ``after``; None if they are equal in value and type."""
    if type(before) is not type(after):
        return ["=", after]
    if type(after) is dict:
        return _change_of_object(before, after)
    if type(after) is list:
        return _change_of_array(before, after)
    if type(after) is str and len(after) > len(before) > 0 and after.startswith(before):
        return ["+", after[len(before) :]]
    if type(after) is float:  # so that NaN equals itself, and -0.0 differs from 0.0
        return None if repr(before) == repr(after) else ["=", after]
    return None if before == after else ["=", after]


def _change_of_object(before: dict[str, Any], after: dict[str, Any]) -> Change | None:
    keys = list(after)
    if keys[: len(before)] != list(before):  # the order of keys counts too
        return ["=", after]
    inner = {key: change for key in before if (change := change_between(before[key], after[key])) is not None}
    more = {key: after[key] for key in keys[len(before) :]}
    return ["~", inner, more] if inner or more else None


def _change_of_array(before: list[Any], after: list[Any]) -> Change | None:
    if len(after) < len(before):
        return ["=", after]
    pairs = enumerate(zip(before, after, strict=False))
    inner = {str(at): change for at, pair in pairs if (change := change_between(*pair)) is not None}
    more = after[len(before) :]
    return ["~", inner, more] if inner or more else None


def apply_change(before: Any, change: Any) -> Any:
    """The value that ``change`` turns ``before`` into, which stays as it is. Raises `DecodeError`."""
    try:
        return _applied(before, change)
    except _DAMAGED as error:
        raise DecodeError(f"a recorded change does not fit what it changes: {type(error).__name__}: {error}") from None


def _applied(before: Any, change: Change) -> Any:
    kind, value, *rest = change
    if kind == "=":
        return value
    if kind == "+" and isinstance(before, str):
        return before + value
    if kind != "~" or not isinstance(before, dict | list):
        raise ValueError(f"{kind!r} of {type(before).__name__}")
    (more,) = rest
    if isinstance(before, dict):
        return before | {key: _applied(before[key], inner) for key, inner in value.items()} | more
    made = [*before, *more]
    for at, inner in value.items():
        made[int(at)] = _applied(before[int(at)], inner)
    return made
