"""How a run is recorded, as far as its maker chose."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, get_args

from crewbus.exceptions import InputError

Durability = Literal["async", "sync"]
"""When an emission of a recorded run returns: with the event on its way to the store, or on disk."""


class RecordingRequest(NamedTuple):
    """How a run is recorded; None: as its bus is set."""

    record: bool | None = None
    durability: Durability | None = None


def checked_record(record: bool | None) -> bool | None:
    """``record``. Raises `InputError` unless it is None, True or False."""
    if record is not None and not isinstance(record, bool):
        raise InputError(f"record= is True, False or None; got {record!r}")
    return record


AS_THE_BUS: Final = RecordingRequest()


def checked_durability(durability: Durability | None) -> Durability | None:
    """``durability``. Raises `InputError` if it is neither None nor a `Durability`."""
    if durability not in (None, *get_args(Durability)):
        raise InputError(f"durability={durability!r}: choose {' or '.join(map(repr, get_args(Durability)))}")
    return durability
