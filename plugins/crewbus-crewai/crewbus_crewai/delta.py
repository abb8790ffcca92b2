"""Differences between JSON values: what a checkpoint adds to the one before it."""

from __future__ import annotations

import json
from typing import Any


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal in JSON, where 1, 1.0 and true differ."""
    return bool(one == other) and json.dumps(one) == json.dumps(other)


def difference(old: Any, new: Any) -> dict[str, Any]:
    """The change from ``old`` to ``new``, in JSON.

    One of ``put``, a new value; ``add``, the items appended to a list; ``set``, the changes of a dictionary's values by
    key; ``each``, the changes of a list's items by index.
    """
    if isinstance(new, list) and isinstance(old, list):
        if same(new[: len(old)], old):
            return {"add": new[len(old) :]}
        if len(new) == len(old):
            return {"each": {str(i): difference(old[i], new[i]) for i in range(len(new)) if not same(old[i], new[i])}}
    if isinstance(new, dict) and isinstance(old, dict) and old.keys() <= new.keys():
        changed = [key for key in new if key not in old or not same(old[key], new[key])]
        return {"set": {key: difference(old.get(key), new[key]) for key in changed}}
    return {"put": new}


def applied(old: Any, change: dict[str, Any]) -> Any:
    """``old`` with a `difference` applied, as a new value."""
    ((kind, what),) = change.items()
    if kind == "add":
        return [*old, *what]
    if kind == "each":
        return [applied(value, what[str(i)]) if str(i) in what else value for i, value in enumerate(old)]
    if kind == "set":
        return old | {key: applied(old.get(key), inner) for key, inner in what.items()}
    return what
