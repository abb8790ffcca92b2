"""Writing events as JSON and reading them back, with cattrs. Types come from the registry, never from the data."""

from __future__ import annotations

import json
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import attrs

from crewbus.events import EventType, UnknownEvent, event_type_of, find_event_type
from crewbus.exceptions import DecodeError, UnserializableError, text_of

if TYPE_CHECKING:
    import cattrs

Encode = Callable[[Any], bytes]

_dump: Final = json.JSONEncoder(separators=(",", ":")).encode


class Codec:
    """Encodes and decodes events; one per bus, since plugins may configure its converter."""

    def __init__(self, configure: Callable[[cattrs.Converter], object] | None = None) -> None:
        from cattrs.preconf.json import make_converter  # loaded at first use: most buses never record

        self._converter = make_converter()
        if configure is not None:
            configure(self._converter)
        self._encoders: dict[type, tuple[EventType, Encode]] = {}

    def encode(self, event: Any) -> tuple[str, int, bytes]:
        """Event type name, version and JSON of ``event``.

        Raises `UnregisteredEventError`, and `UnserializableError` naming the type and field that would
        not come back as it was.
        """
        if type(event) is UnknownEvent:
            return event.name, event.version, event.data.encode()
        known = self._encoders.get(type(event))
        if known is None:
            registered = event_type_of(type(event))
            known = self._encoders[type(event)] = registered, self._encoder(registered)
        registered, encode = known
        try:
            return registered.name, registered.version, encode(event)
        except (TypeError, ValueError, RecursionError) as error:
            raise UnserializableError(f"{registered.name}: {self._blame(registered, event)}: {error}") from error

    def decode(self, name: str, version: int, data: bytes) -> Any:
        """The event that `encode` was given; `UnknownEvent` for a type that is not registered, or is newer here.

        Raises `DecodeError` where the bytes are not that type's.
        """
        registered = find_event_type(name)
        try:
            if registered is None or registered.version < version:
                return UnknownEvent(name, version, data.decode())
            return self._structure(registered, json.loads(data))
        except Exception as error:  # hostile bytes meet whatever a structure hook raises
            raise DecodeError(f"{name} version {version}: {_first_line(error)}") from error

    def _structure(self, registered: EventType, raw: Any) -> Any:
        if registered.structure is not None:
            return registered.structure(raw)
        return self._converter.structure(raw, registered.cls)

    def _encoder(self, registered: EventType) -> Encode:
        if registered.unstructure is not None:
            unstructure = registered.unstructure
            return lambda event: _dump(unstructure(event)).encode()
        cls = registered.cls
        for field, annotation in _fields(cls):
            self._refuse_unreadable(registered, field, annotation)
        unstructure = self._converter.get_unstructure_hook(cls)
        if not _loose(cls, set()):
            return lambda event: _dump(unstructure(event)).encode()

        def checked(event: Any) -> bytes:
            data = _dump(unstructure(event)).encode()
            again: Any = self._converter.structure(json.loads(data), cls)
            for field, _ in _fields(cls):
                if getattr(again, field) != getattr(event, field):
                    raise UnserializableError(
                        f"{registered.name}: field {field!r} would come back as {getattr(again, field)!r}, "
                        f"not {getattr(event, field)!r}: give it a precise type, or use what JSON can hold"
                    )
            return data

        return checked

    def _refuse_unreadable(self, registered: EventType, field: str, annotation: Any) -> None:
        try:
            if annotation is not Any:
                self._converter.get_structure_hook(annotation)
        except Exception as error:  # cattrs, or a plugin's hook factory
            raise UnserializableError(
                f"{registered.name}: field {field!r} of type {annotation!r} can't be read back from a record "
                f"({_first_line(error)}): change its type, or register structure= and unstructure= for the event"
            ) from error

    def _blame(self, registered: EventType, event: Any) -> str:
        if registered.unstructure is None:
            for field, annotation in _fields(registered.cls):
                try:
                    _dump(self._converter.unstructure(getattr(event, field), unstructure_as=annotation))
                except Exception:  # the field that fails is the one to name
                    return f"field {field!r} can't be written as JSON"
        return "can't be written as JSON"


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {text_of(error)}".splitlines()[0]


def _fields(cls: type) -> list[tuple[str, Any]]:
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


def _loose(annotation: Any, seen: set[Any]) -> bool:
    """Whether the type leaves open what a value may be, so that only the value can tell if it survives."""
    if annotation in (Any, object, dict, list, tuple, set, frozenset):
        return True
    if isinstance(annotation, type) and (attrs.has(annotation) or hasattr(annotation, "__dataclass_fields__")):
        if annotation in seen:
            return False
        seen.add(annotation)
        return any(_loose(inner, seen) for _, inner in _fields(annotation))
    return any(_loose(inner, seen) for inner in typing.get_args(annotation) if inner is not Ellipsis)
