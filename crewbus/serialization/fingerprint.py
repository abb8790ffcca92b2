"""Fingerprints: arguments in a canonical form that is the same in every process. They distinguish calls of one step."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import pathlib
import uuid
from typing import Any, Final

from crewbus.events import qualified, type_of_value
from crewbus.serialization.round_trip import LONGEST_INT, fields_of

_TEXTUAL: Final = (dt.date, dt.time, dt.timedelta, decimal.Decimal, uuid.UUID, pathlib.PurePath, complex)


class OpaqueError(TypeError):
    """A value has no canonical form."""


def canonical(value: Any) -> Any:
    """The canonical form of ``value``, a JSON value; raises `OpaqueError` if it, or a value in it, has none."""
    if type(value) is int and value.bit_length() > LONGEST_INT:
        return ["int", hex(value)]
    if value is None or (isinstance(value, bool | int | float | str) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, list | tuple):
        return [canonical(inner) for inner in value]
    if isinstance(value, dict):
        return _sorted([canonical(key), canonical(inner)] for key, inner in value.items())
    if isinstance(value, set | frozenset):
        return _sorted(canonical(inner) for inner in value)
    return [_label(type(value)), _inside(value)]


def _label(cls: type) -> str:
    # Without the module: a file that is run has another module name than when it is imported.
    registered = type_of_value(cls)
    return registered.name if registered is not None else cls.__qualname__


def _sorted(items: Any) -> list[Any]:
    return sorted(items, key=lambda item: json.dumps(item, sort_keys=True))


def _inside(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, bytes | bytearray):
        return bytes(value).hex()
    if isinstance(value, _TEXTUAL):
        return str(value)
    if hasattr(type(value), "__attrs_attrs__") or hasattr(type(value), "__dataclass_fields__"):
        return {name: canonical(getattr(value, name, None)) for name, _ in fields_of(type(value))}
    registered = type_of_value(type(value))
    if registered is not None and registered.unstructure is not None:
        return canonical(registered.unstructure(value))
    raise OpaqueError(qualified(type(value)))
