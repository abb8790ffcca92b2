"""Fingerprints: arguments in a canonical form that is the same in every process. They distinguish calls of one step.

The form is a JSON value. None, and exact instances of bool, int, float and str, are themselves; all else is a list that
begins with its kind, so that no value has the form of a value of another type.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import json
import pathlib
import re
import sys
import types
import uuid
import zoneinfo
from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs

from crewbus._util import module_name
from crewbus.events import entity_types, type_of_value
from crewbus.serialization.converter_hooks import is_model
from crewbus.serialization.exception_values import parts_of
from crewbus.serialization.round_trip import DEEPEST, LONGEST_INT, is_declared

Around = tuple[Any, ...]
"""The values around one, outermost first."""
Form = Callable[[Any, Around], Any]
"""Makes the form of a value."""


class OpaqueError(TypeError):
    """A value has no canonical form. The message says why."""


def canonical(value: Any, around: Around = ()) -> Any:
    """The canonical form of ``value``; raises `OpaqueError` if it, or a value in it, has none.

    Forms are equal if and only if the values are equal in value and type, at every depth.
    """
    kind = type(value)
    if value is None or kind is str or kind is bool or kind is float:
        return value
    if kind is int:
        return value if value.bit_length() <= LONGEST_INT else ["int", hex(value)]
    if len(around) > DEEPEST:
        raise OpaqueError(f"it nests deeper than {DEEPEST} levels")
    if any(outer is value for outer in around):
        raise OpaqueError("it contains itself")
    form = _EXACT.get(kind)
    return form(value, (*around, value)) if form is not None else _form_of_instance(value, (*around, value))


# Built-in types


def _items(cls: Any) -> Form:
    return lambda value, around: [cls.__name__, *(canonical(inner, around) for inner in cls.__iter__(value))]


def _unordered(cls: Any) -> Form:
    return lambda value, around: [cls.__name__, *_sorted(canonical(inner, around) for inner in cls.__iter__(value))]


def _pairs(items: Iterable[tuple[Any, Any]], around: Around) -> list[Any]:
    return [[canonical(key, around), canonical(inner, around)] for key, inner in items]


def _sorted(forms: Iterable[Any]) -> list[Any]:
    return sorted(forms, key=lambda form: json.dumps(form, ensure_ascii=False))


def _parts(kind: str, parts: Callable[[Any], Any]) -> Form:
    return lambda value, around: [kind, *(canonical(part, around) for part in parts(value))]


def _text(kind: str) -> Form:
    return lambda value, _: [kind, str(value)]


def _function(value: Any, _: Around = ()) -> Any:
    """The module and qualified name of what is defined in a module, under that name."""
    owner = getattr(value, "__objclass__", None)
    module, name = getattr(value if owner is None else owner, "__module__", None), value.__qualname__
    found = sys.modules.get(module) if module is not None else None
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None and module == "builtins":  # the type of None, for example
        found = getattr(types, name, None)
    if found is not value and getattr(found, "__func__", None) is not value:  # that of a classmethod
        raise OpaqueError(f"{name} is not defined at the level of a module, under its own name")
    return ["class" if isinstance(value, type) else "function", module_name(str(module)), name]


def _method(value: Any, around: Around) -> Any:
    return ["method", _function(value.__func__), canonical(value.__self__, around)]


def _builtin(value: Any, around: Around) -> Any:
    if isinstance(value.__self__, types.ModuleType):
        return _function(value)
    return ["method", value.__qualname__, canonical(value.__self__, around)]


_EXACT: Final[dict[type, Form]] = {
    list: _items(list),
    tuple: _items(tuple),
    dict: lambda value, around: ["dict", *_sorted(_pairs(dict.items(value), around))],
    set: _unordered(set),
    frozenset: _unordered(frozenset),
    bytes: lambda value, _: ["bytes", value.hex()],
    bytearray: lambda value, _: ["bytearray", value.hex()],
    complex: _parts("complex", lambda value: (value.real, value.imag)),
    range: _parts("range", lambda value: (value.start, value.stop, value.step)),
    slice: _parts("slice", lambda value: (value.start, value.stop, value.step)),
    types.EllipsisType: lambda *_: ["Ellipsis"],
    collections.OrderedDict: lambda value, around: [
        "OrderedDict", *_pairs(collections.OrderedDict.items(value), around),
    ],
    collections.deque: _parts("deque", lambda value: (value.maxlen, *value)),
    collections.defaultdict: lambda value, around: [
        "defaultdict", canonical(value.default_factory, around), *_sorted(_pairs(dict.items(value), around)),
    ],
    types.MappingProxyType: _parts("mappingproxy", lambda value: (dict(value),)),
    types.SimpleNamespace: _parts("namespace", lambda value: (vars(value),)),
    types.ModuleType: lambda value, _: ["module", module_name(value.__name__)],
    dt.date: _text("date"),
    dt.time: _parts("time", lambda value: (value.replace(tzinfo=None, fold=0).isoformat(), value.fold, value.tzinfo)),
    dt.datetime: _parts(
        "datetime", lambda value: (value.replace(tzinfo=None, fold=0).isoformat(), value.fold, value.tzinfo)
    ),
    dt.timedelta: _parts("timedelta", lambda value: (value.days, value.seconds, value.microseconds)),
    dt.timezone: _parts("timezone", lambda value: (value.utcoffset(None), value.tzname(None))),
    zoneinfo.ZoneInfo: lambda value, _: ["ZoneInfo", _key_of_zone(value)],
    decimal.Decimal: _text("Decimal"),
    fractions.Fraction: _text("Fraction"),
    uuid.UUID: _text("UUID"),
    re.Pattern: _parts("pattern", lambda value: (value.pattern, value.flags)),
    functools.partial: _parts("partial", lambda value: (value.func, value.args, value.keywords)),
    types.FunctionType: _function,
    types.BuiltinFunctionType: _builtin,
    types.MethodType: _method,
    types.MethodDescriptorType: _function,
    types.WrapperDescriptorType: _function,
    types.GenericAlias: _parts("alias", lambda value: (value.__origin__, value.__args__)),
    types.UnionType: _parts("union", lambda value: value.__args__),
    **{
        path: _text(path.__name__)
        for path in (pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.PosixPath, pathlib.WindowsPath)
    },
}  # fmt: skip


def _key_of_zone(zone: zoneinfo.ZoneInfo) -> str:
    if zone.key is None:
        raise OpaqueError("its time zone has no key")
    return zone.key


# Instances of other classes

_SCALARS: Final[dict[type, Callable[[Any], Any]]] = {int: int.__int__, float: float.__float__, str: str.__str__}
_BASES: Final = (
    int, float, str, bytes, bytearray, complex, tuple, list, collections.OrderedDict, collections.defaultdict, dict,
    collections.deque, set, frozenset, dt.datetime, dt.date, dt.time, dt.timedelta, decimal.Decimal,
    fractions.Fraction, uuid.UUID, pathlib.PurePosixPath, pathlib.PureWindowsPath,
)  # fmt: skip
"""Types that classes inherit a value from, derived ones first."""


def _form_of_instance(value: Any, around: Around) -> Any:
    cls = type(value)
    if isinstance(value, type):
        return _function(value)
    if isinstance(value, enum.Enum):
        return ["enum", *_label(cls), _name_of(value) or canonical(value.value, around)]
    registered = type_of_value(cls)
    if registered is not None and registered.unstructure is not None:
        return ["registered", *_label(cls), canonical(registered.unstructure(value), around)]
    if isinstance(value, BaseException):
        return ["exception", *_label(cls), *(canonical(part, around) for part in parts_of(value))]
    if is_declared(cls):
        base = _base_of(cls)
        return ["fields", *_label(cls), base and _as(base, value, around), *_fields(value, around)]
    if is_model(cls):
        return ["model", *_label(cls), *(canonical(part, around) for part in _parts_of_model(value))]
    base = _base_of(cls)
    if base is None:
        raise OpaqueError(f"a {cls.__qualname__} has no fingerprint")
    return ["subclass", *_label(cls), _as(base, value, around), canonical(_attributes(value, base), around)]


def _name_of(member: enum.Enum) -> str | None:
    name: Any = member.name  # None for flags that have none
    return name  # type: ignore[no-any-return]


def _label(cls: type) -> list[str]:
    """The name of a class: the registered one, with the registry, or that of its module and its own."""
    registered = type_of_value(cls)
    if registered is None:
        return [module_name(cls.__module__), cls.__qualname__]
    return ["entity" if entity_types.find_class(cls) is registered else "event", registered.name]


def _base_of(cls: type) -> type | None:
    return next((base for base in _BASES if issubclass(cls, base)), None)


def _as(base: type, value: Any, around: Around) -> Any:
    """The form of a value that inherits from a built-in type, without what its class adds."""
    scalar = _SCALARS.get(base)
    return canonical(scalar(value), around) if scalar is not None else _EXACT[base](value, around)


def _attributes(value: Any, base: type) -> dict[str, Any]:
    """What the class of a value adds to a built-in type: its attributes, in its dict and slots."""
    found = dict(getattr(value, "__dict__", {}))
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ()) if cls not in base.__mro__ else ()
        for name in (slots,) if isinstance(slots, str) else slots:
            is_private = name.startswith("__") and not name.endswith("__")
            slot = f"_{cls.__name__.lstrip('_')}{name}" if is_private else name
            if slot not in ("__dict__", "__weakref__") and hasattr(value, slot):
                found[slot] = getattr(value, slot)
    return found


def _fields(value: Any, around: Around) -> list[Any]:
    """The fields of an instance that count when it is compared with others."""
    cls: Any = type(value)
    if hasattr(cls, "__attrs_attrs__"):
        has_eq = cls.__eq__ is not object.__eq__
        names = [field.name for field in attrs.fields(cls) if field.eq or not has_eq]
    else:
        has_eq = cls.__dataclass_params__.eq
        names = [field.name for field in dataclasses.fields(cls) if field.compare or not has_eq]
    return [[name, canonical(getattr(value, name), around)] for name in names if hasattr(value, name)]


def _parts_of_model(model: Any) -> tuple[Any, ...]:
    """What pydantic compares: the fields, the extra ones, and the private attributes."""
    fields = {name: getattr(model, name) for name in type(model).model_fields if hasattr(model, name)}
    return fields, model.model_extra, getattr(model, "__pydantic_private__", None)
