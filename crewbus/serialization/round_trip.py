"""Round trips: whether a value that is encoded as JSON decodes to an equal value."""

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
    """The name and resolved type of each field of a declared class; raises `UnserializableError` for others."""
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
    """Whether every value of that type survives the round trip, so that no value has to be checked."""
    if annotation in _SCALARS:
        return True
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return all(type(member.value) in (int, str) for member in annotation)
    if isinstance(annotation, type) and is_declared(annotation):
        if annotation.__subclasses__() and not top:
            return False  # a value may be of a subclass with more fields
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
    """Whether a class is an attrs class or a dataclass."""
    return attrs.has(cls) or hasattr(cls, "__dataclass_fields__")


def _unwritten(cls: type) -> bool:
    """Whether a field is not a parameter of ``__init__``, and so is neither encoded nor decoded."""
    fields = attrs.fields(cls) if attrs.has(cls) else dataclasses.fields(cls)
    return not all(field.init for field in fields)


def is_same(one: Any, other: Any) -> bool:
    """Whether two values are equal and of the same types at every depth; NaN equals NaN."""
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
"""The bits an integer may have: Python parses at most 4,300 digits (`sys.get_int_max_str_digits`)."""
_DEEPEST: Final = 200
"""The levels a value may nest; JSON parsers fail at about a thousand."""


def unpreserved(value: Any, at: str, depth: int = 0) -> str | None:
    """Describe the first part of ``value``, named ``at``, that JSON would not preserve; None if there is none."""
    if depth > _DEEPEST:
        return f"{at} nests deeper than {_DEEPEST} levels, or contains itself"
    if type(value) is dict:
        for key, inner in value.items():
            if type(key) is not str:
                return f"{at} has the key {key!r}, and JSON keys are strings"
            if found := unpreserved(key, f"a key of {at}") or unpreserved(inner, f"{at}[{key!r}]", depth + 1):
                return found
        return None
    if type(value) is list:
        inner_faults = (unpreserved(inner, f"{at}[{i}]", depth + 1) for i, inner in enumerate(value))
        return next(filter(None, inner_faults), None)
    if type(value) is str:
        return None if value.isascii() or _is_writable(value) else f"{at} holds a lone surrogate, which is not text"
    if type(value) is int and value.bit_length() > LONGEST_INT:
        return f"{at} is an integer of more than {LONGEST_INT} bits, which JSON parsers reject"
    if value is None or type(value) in (bool, int, float):
        return None
    return f"{at} is a {type(value).__qualname__}, which JSON does not preserve"


def _is_writable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
