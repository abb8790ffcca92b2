"""Exceptions as JSON, and back: those of Python and crewbus, and registered ones. Nothing is imported by a name."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable, Iterable
from typing import Any, Final

from crewbus import exceptions
from crewbus.events import EventType, exception_types, qualified
from crewbus.exceptions import DecodeError, UnserializableError, text_of
from crewbus.serialization.codec import Written
from crewbus.serialization.round_trip import unpreserved

Raises = tuple[type[Exception], ...]
"""The exceptions that a step names in its ``raises=``."""

LARGEST: Final = 65_536
"""How many characters of JSON an exception may take."""


def _exceptions_in(module: Any) -> dict[str, type[Exception]]:
    found = (value for value in vars(module).values() if isinstance(value, type))
    return {qualified(cls): cls for cls in found if issubclass(cls, Exception)}


_BUILTIN: Final = _exceptions_in(builtins)
_KNOWN: Final = _BUILTIN | _exceptions_in(exceptions)


def write_exception(error: Exception, raises: Raises = ()) -> Written | None:
    """Encode ``error``; None if it would not come back as itself: same type, ``args``, attributes and text."""
    try:
        written = _write(error, raises)
        text = json.dumps(written.data)
        again = read_exception(written._replace(data=json.loads(text)), raises)
        if again is None or type(again) is not type(error) or text_of(again) != text_of(error):
            return None
        is_same = json.dumps(_write(again, raises).data) == text
        return written if is_same and len(text) <= LARGEST else None
    except Exception:  # the methods of an exception may raise anything
        return None


def read_exception(written: Written, raises: Raises = ()) -> Exception | None:
    """Decode what `write_exception` returned; None if its type is not known here.

    Raises `DecodeError` if the data is not valid for the type, or of a newer version of it.
    """
    data, name, version = written
    registered = exception_types.find(name) if name is not None else None
    if registered is not None and registered.version < version:
        raise DecodeError(f"{name} version {version} is registered as version {registered.version} here")
    cls: Any = registered.cls if registered is not None else _class_named(name, raises)
    if cls is None:
        return None
    try:
        error = _structure(cls, registered, version, data, raises)
    except Exception as fault:  # hostile data, or a function that was given to register_exception
        raise DecodeError(f"{name} version {version}: {type(fault).__name__}: {text_of(fault)}") from fault
    if type(error) is not cls:
        raise DecodeError(f"{name} version {version}: its structure= returned {error!r}, which is no {cls.__name__}")
    return error  # type: ignore[no-any-return]


def _class_named(name: str | None, raises: Raises) -> type[Exception] | None:
    named = {qualified(cls): cls for cls in raises}
    return named.get(name) or _KNOWN.get(name) if name is not None else None


def _write(error: Exception, raises: Raises) -> Written:
    cls = type(error)
    registered = exception_types.find_class(cls)
    if registered is not None and registered.unstructure is not None:
        data = registered.unstructure(error)
        if fault := unpreserved(data, registered.name):
            raise UnserializableError(fault)
        return Written(data, registered.name, registered.version)
    name = qualified(cls) if registered is None else registered.name
    if registered is None and _class_named(name, raises) is not cls:
        raise UnserializableError(f"{name} is not registered")
    args, attributes = parts_of(error)
    data = {"args": [_packed(arg, raises) for arg in args]}
    if attributes:
        data["attributes"] = _packed(attributes, raises)
    return Written(data, name, registered.version if registered is not None else 0)


def _structure(cls: type[Exception], registered: EventType | None, version: int, data: Any, raises: Raises) -> Any:
    if registered is not None:
        data = registered.upgraded(data, version)
        if registered.structure is not None:
            return registered.structure(data)
    args, attributes = _unpacked(data["args"], raises), _unpacked(data.get("attributes", {"dict": []}), raises)
    base: Any = _base_of(cls)
    error = base.__new__(cls, *args)
    base.__init__(error, *args)  # not that of the class, whose parameters may be others
    for name, value in attributes.items():
        object.__setattr__(error, name, value)
    return error


def parts_of(error: BaseException) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What makes an exception: the arguments of the built-in type that it is of, and its attributes."""
    base: Any = _base_of(type(error))
    _, args, *state = base.__reduce__(error)
    attributes = dict(state[0] or {}) if state else {}
    own: Any = object.__getstate__(error)
    if isinstance(own, tuple):  # a class with slots
        attributes.update(own[1])
    attributes.pop(exceptions.FAILED_STEPS, None)  # a note of our own
    return args, attributes


def _base_of(cls: type) -> type:
    return next((base for base in cls.__mro__ if base in _BUILTIN.values()), BaseException)


# Values in exceptions: JSON as it is, and what JSON lacks as an object with its kind

_KINDS: Final[dict[str, Callable[[Iterable[Any]], Any]]] = {"tuple": tuple, "set": set, "frozenset": frozenset}


def _packed(value: Any, raises: Raises) -> Any:
    kind = type(value)
    if kind is list:
        return [_packed(inner, raises) for inner in value]
    if kind in _KINDS.values():
        packed = [_packed(inner, raises) for inner in value]
        return {kind.__name__: packed if kind is tuple else sorted(packed, key=json.dumps)}
    if kind is dict:
        return {"dict": [[_packed(key, raises), _packed(inner, raises)] for key, inner in value.items()]}
    if kind is bytes:
        return {"bytes": value.hex()}
    if isinstance(value, Exception):
        written = _write(value, raises)
        return {"exception": [written.type, written.version, written.data]}
    if fault := unpreserved(value, "it"):
        raise UnserializableError(fault)
    return value


def _unpacked(data: Any, raises: Raises) -> Any:
    if isinstance(data, list):
        return [_unpacked(inner, raises) for inner in data]
    if not isinstance(data, dict):
        return data
    ((kind, content),) = data.items()
    if kind == "dict":
        return {_unpacked(key, raises): _unpacked(inner, raises) for key, inner in content}
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "exception":
        name, version, inner = content
        return read_exception(Written(inner, name, version), raises)
    return _KINDS[kind](_unpacked(inner, raises) for inner in content)
