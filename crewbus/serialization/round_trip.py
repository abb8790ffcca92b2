"""Fidelity: whether what is written as JSON comes back as it was, by its type or by the value itself."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime as dt
import enum
import types
import typing
from typing import Any, Final

import attrs

from crewbus.exceptions import UnserializableError


def fields_of(cls: type) -> list[tuple[str, Any]]:
    """Name and resolved type of each field of an attrs class or dataclass; raises `UnserializableError` for others."""
    try:
        hints = typing.get_type_hints(cls)
    except Exception as error:
        raise UnserializableError(
            f"{cls.__module__}.{cls.__qualname__}: its annotations can't be resolved: {error}"
        ) from error
    if attrs.has(cls):
        return [(field.name, hints.get(field.name, Any)) for field in attrs.fields(cls)]
    names = getattr(cls, "__dataclass_fields__", None)
    if names is None:
        raise UnserializableError(
            f"{cls.__module__}.{cls.__qualname__} is neither an attrs class nor a dataclass: "
            "register it with structure= and unstructure="
        )
    return [(name, hints.get(name, Any)) for name in names]


_SCALARS: Final = frozenset({int, float, str, bool, bytes, dt.datetime, dt.date, type(None)})


def is_exact(annotation: Any, seen: set[Any], top: bool = False) -> bool:
    """Whether whatever is of that type comes back as it was, so that no value needs to be looked at."""
    if annotation in _SCALARS:
        return True
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return all(type(member.value) in (int, str) for member in annotation)
    if isinstance(annotation, type) and is_declared(annotation):
        if annotation.__subclasses__() and not top:
            return False  # a value may be of one of those, with fields of its own
        if annotation in seen and not top:
            return True
        seen.add(annotation)
        return not _unwritten(annotation) and all(is_exact(inner, seen) for _, inner in fields_of(annotation))
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        inner = [argument for argument in arguments if argument is not type(None)]
        return (len(inner) == 1 and is_exact(inner[0], seen)) or set(inner) <= {int, float, str, bool}
    if origin is typing.Literal:
        return all(type(value) in (int, str) for value in arguments)
    if origin in (dict, collections.abc.Mapping):
        return arguments[0] in (str, int) and is_exact(arguments[1], seen)
    if origin in (list, tuple, set, frozenset):
        return all(is_exact(inner, seen) for inner in arguments if inner is not Ellipsis)
    return False


def is_declared(cls: type) -> bool:
    """Whether its fields are declared: an attrs class or a dataclass."""
    return attrs.has(cls) or hasattr(cls, "__dataclass_fields__")


def _unwritten(cls: type) -> bool:
    """Whether a field is not given to ``__init__``, and so is neither written nor read."""
    fields = attrs.fields(cls) if attrs.has(cls) else dataclasses.fields(cls)
    return not all(field.init for field in fields)


def is_same(one: Any, other: Any) -> bool:
    """Equal and of the same type, all the way down; NaN is what NaN is."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            is_same(a, b) and is_same(one[a], other[b]) for a, b in zip(one, other, strict=True)
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    if is_declared(type(one)):
        return all(is_same(getattr(one, name), getattr(other, name)) for name, _ in fields_of(type(one)))
    return bool(one == other or (one != one and other != other))


LONGEST_INT: Final = 14_000
"""How many bits an integer may have: Python reads no more than 4,300 digits (`sys.get_int_max_str_digits`)."""
_DEEPEST: Final = 200
"""How deep a value may nest before it is taken to contain itself; JSON parsers give up at about a thousand."""


def flaw(value: Any, at: str, depth: int = 0) -> str | None:
    """What of ``value``, which stands at ``at``, JSON would not give back as it was; None where there is nothing."""
    if depth > _DEEPEST:
        return f"{at} nests deeper than {_DEEPEST} levels, or contains itself"
    if type(value) is dict:
        for key, inner in value.items():
            if type(key) is not str:
                return f"{at} has the key {key!r}, and JSON knows only strings as keys"
            if found := flaw(key, f"a key of {at}") or flaw(inner, f"{at}[{key!r}]", depth + 1):
                return found
        return None
    if type(value) is list:
        return next(filter(None, (flaw(inner, f"{at}[{i}]", depth + 1) for i, inner in enumerate(value))), None)
    if type(value) is str:
        return None if value.isascii() or _is_writable(value) else f"{at} holds a lone surrogate, which is no text"
    if type(value) is int and value.bit_length() > LONGEST_INT:
        return f"{at} is an integer of more than {LONGEST_INT} bits, which JSON readers refuse"
    if value is None or type(value) in (bool, int, float):
        return None
    return f"{at} is a {type(value).__qualname__}, which JSON does not give back"


def _is_writable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
