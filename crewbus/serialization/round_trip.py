"""Round trips: whether a value that is encoded as JSON decodes to an equal value."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import datetime as dt
import enum
import types
import typing
from collections.abc import Callable
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


Check = Callable[[Any], bool]
"""Whether a value certainly survives the round trip as its annotation says; False: it has to be tried."""


def _is_plain_datetime(value: Any) -> bool:
    return type(value) is dt.datetime and value.fold == 0 and (value.tzinfo is None or value.tzinfo is dt.UTC)


_SCALARS: Final[dict[Any, Check]] = {
    str: lambda value: type(value) is str,
    int: lambda value: type(value) is int and value.bit_length() <= LONGEST_INT,
    float: lambda value: type(value) is float,
    bool: lambda value: type(value) is bool,
    bytes: lambda value: type(value) is bytes,
    dt.date: lambda value: type(value) is dt.date,
    dt.datetime: _is_plain_datetime,
    type(None): lambda value: value is None,
    None: lambda value: value is None,
    Any: lambda value: unpreserved(value, "") is None,
}


def check_of(annotation: Any, around: frozenset[Any] = frozenset()) -> Check | None:
    """Make a check of values of that type; None if their round trip has to be tried each time.

    It looks at the values and not only at the annotation, since Python enforces none: a field of type ``int`` may hold
    a float, which JSON would give back as an int.
    """
    if isinstance(annotation, collections.abc.Hashable) and annotation in _SCALARS:
        return _SCALARS[annotation]
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        plain = all(type(member.value) in (int, str) for member in annotation)
        return (lambda value: type(value) is annotation) if plain else None
    if isinstance(annotation, type) and is_declared(annotation):
        return _check_of_class(annotation, around)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal and all(type(value) in (int, str) for value in arguments):
        return lambda value: any(type(value) is type(known) and value == known for known in arguments)
    if origin in (typing.Union, types.UnionType):
        return _check_of_union(arguments, around)
    return _check_of_container(origin, arguments, around)


def _check_of_class(cls: type, around: frozenset[Any]) -> Check | None:
    if cls in around or not is_rebuilt_as_it_is(cls):
        return None
    checks = [(name, check_of(annotation, around | {cls})) for name, annotation in fields_of(cls)]
    known = [(name, check) for name, check in checks if check is not None]
    if len(known) < len(checks):
        return None
    return lambda value: type(value) is cls and all(check(getattr(value, name)) for name, check in known)


def _check_of_union(arguments: tuple[Any, ...], around: frozenset[Any]) -> Check | None:
    inner = [argument for argument in arguments if argument is not type(None)]
    if set(inner) <= {int, float, str, bool}:
        kinds = {*inner, type(None)} if len(inner) < len(arguments) else {*inner}
        return lambda value: type(value) in kinds
    only = check_of(inner[0], around) if len(inner) == 1 else None
    if only is None:
        return None
    return lambda value: value is None or only(value)


def _check_of_container(origin: Any, arguments: tuple[Any, ...], around: frozenset[Any]) -> Check | None:
    if origin in (dict, collections.abc.Mapping) and arguments[0] in (str, int):
        key, inner = _SCALARS[arguments[0]], check_of(arguments[1], around)
        if inner is None:
            return None
        return lambda value: type(value) is dict and all(key(k) and inner(v) for k, v in value.items())
    if origin in (list, set, frozenset) or (origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis):
        each = check_of(arguments[0], around)
        return None if each is None else lambda value: type(value) is origin and all(map(each, value))
    return None


def is_rebuilt_as_it_is(cls: type) -> bool:
    """Whether a class sets its fields to what it is given, so that an instance can be made again from them."""
    if hasattr(cls, "__post_init__") or hasattr(cls, "__attrs_post_init__") or hasattr(cls, "__attrs_pre_init__"):
        return False
    if attrs.has(cls):
        return all(field.init and field.converter is None for field in attrs.fields(cls))
    return all(field.init for field in dataclasses.fields(cls))


def is_declared(cls: type) -> bool:
    """Whether a class is an attrs class or a dataclass."""
    return attrs.has(cls) or hasattr(cls, "__dataclass_fields__")


def is_same(one: Any, other: Any) -> bool:
    """Whether two values are equal and of the same types at every depth; NaN equals NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        same = len(one) == len(other) and all(
            is_same(a, b) and is_same(one[a], other[b]) for a, b in zip(one, other, strict=True)
        )
        return same and getattr(one, "default_factory", None) == getattr(other, "default_factory", None)
    if isinstance(one, list | tuple | collections.deque):
        same = len(one) == len(other) and all(map(is_same, one, other))
        return same and getattr(one, "maxlen", None) == getattr(other, "maxlen", None)
    if isinstance(one, set | frozenset):
        kinds = {value: type(value) for value in other}
        return one == other and all(kinds[value] is type(value) for value in one)
    if isinstance(one, dt.datetime | dt.time):  # equal ones may be of different zones, or folds
        return one == other and one.fold == other.fold and repr(one.tzinfo) == repr(other.tzinfo)
    if is_declared(type(one)):
        return all(is_same(getattr(one, name), getattr(other, name)) for name, _ in fields_of(type(one)))
    return bool(one == other or (one != one and other != other))


LONGEST_INT: Final = 14_000
"""The bits an integer may have: Python parses at most 4,300 digits (`sys.get_int_max_str_digits`)."""
DEEPEST: Final = 200
"""The levels a value may nest; JSON parsers fail at about a thousand."""


def unpreserved(value: Any, at: str, depth: int = 0) -> str | None:
    """Describe the first part of ``value``, named ``at``, that JSON would not preserve; None if there is none."""
    if depth > DEEPEST:
        return f"{at} nests deeper than {DEEPEST} levels, or contains itself"
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
    if type(value) is int and value.bit_length() > LONGEST_INT:
        return f"{at} is an integer of more than {LONGEST_INT} bits, which JSON parsers reject"
    if value is None or type(value) in (str, bool, int, float):
        return None
    return f"{at} is a {type(value).__qualname__}, which JSON does not preserve"
