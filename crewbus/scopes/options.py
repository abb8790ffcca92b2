"""What a run is made with: its name, id and tags, and how it is recorded; and what a call is made with."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, get_args

from crewbus._util import is_text, name_of
from crewbus.exceptions import CallbackError, CallError, InputError, RunError

Durability = Literal["async", "sync"]
"""When an emission of a recorded run returns: with the event on its way to the store, or on disk."""


class RecordingRequest:
    """How a run is recorded; None: as its bus is set."""

    __slots__ = ("durability", "record")

    def __init__(self, record: bool | None = None, durability: Durability | None = None) -> None:
        self.record = record
        self.durability = durability


AS_THE_BUS: Final = RecordingRequest()


def new_id() -> str:
    """A fresh run id: 28 hex digits, ordered by the millisecond in which it was made."""
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(8).hex()}"


def checked_durability(durability: Durability | None) -> Durability | None:
    """``durability``. Raises `InputError` if it is neither None nor a `Durability`."""
    if durability not in (None, *get_args(Durability)):
        raise InputError(f"durability={durability!r}: choose {' or '.join(map(repr, get_args(Durability)))}")
    return durability


def recording_request(record: bool | None, durability: Durability | None) -> RecordingRequest:
    """How a run is recorded. Raises `InputError` for what is neither None nor one of the choices."""
    if record is not None and not isinstance(record, bool):
        raise InputError(f"record= is True, False or None; got {record!r}")
    checked_durability(durability)
    # One object serves all runs that choose nothing.
    return AS_THE_BUS if record is None and durability is None else RecordingRequest(record, durability)


def check_call_arguments(name: Any, callbacks: Any, kind: Any, attributes: Any) -> None:
    """Raise `CallError`, `InputError` or `CallbackError` for what `Bus.call` can't take."""
    if not is_text(name):
        raise CallError(f"a call has a name, such as its model's; got {name!r}")
    if kind is not None and not is_text(kind):
        raise InputError(f"the kind of a call is a text, such as 'model' or 'tool'; got {kind!r}")
    if attributes is not None:
        check_attributes(attributes)
    if callable(callbacks):
        raise CallbackError(f"callbacks= takes several: write callbacks=[{name_of(callbacks)}]")
    if callbacks is not None and not isinstance(callbacks, Iterable):
        raise CallbackError(f"callbacks= takes several functions; got {callbacks!r}")


def check_attributes(attributes: Any) -> None:
    """Raise `InputError` unless ``attributes`` map names to values."""
    if not isinstance(attributes, Mapping) or not all(map(is_text, attributes)):
        raise InputError(f"attributes map names to JSON values; got {attributes!r}")


def check_run_arguments(name: Any, run_id: Any, tags: Mapping[Any, Any] | None, key: Any = None) -> None:
    """Raise `RunError` for a name, an id, tags or a key that are not as `Bus.run` says."""
    if run_id is not None and not is_text(run_id):
        raise RunError(f"a run id is a string that is not empty; got {run_id!r}")
    if name is not None and not isinstance(name, str):
        raise RunError(f"a run's name is a string; got {name!r}")
    if key is not None and not is_text(key):
        raise RunError(f"a run's key is a string that is not empty; got {key!r}")
    if tags is not None and not isinstance(tags, Mapping):
        raise RunError(f"tags map strings to strings; got {tags!r}")
    for key, value in (tags or {}).items():
        if not (is_text(key) and isinstance(value, str)):
            raise RunError(f"tags map strings to strings; got {key!r}: {value!r}")
