"""Arguments: checked where they are given, so that no consumer meets a wrong one later."""

from __future__ import annotations

from typing import Any

from crewbus.exceptions import InputError


def checked_run_id(value: Any) -> str:
    """``value``. Raises `InputError` unless it is a text: a run, for example, whose id is meant."""
    if not isinstance(value, str) or not value:
        raise InputError(f"a run is named by its id, such as run.id; got {value!r}")
    return value


def is_count(value: Any, least: int = 1) -> bool:
    """Whether ``value`` is a whole number, at least ``least``."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
