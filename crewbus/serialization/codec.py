"""Writing events as JSON and reading them back, with cattrs. Types come from the registry, never from the data."""

from __future__ import annotations

import json
import json.encoder
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from crewbus.events import UnknownEvent, event_type_of, find_event_type
from crewbus.events.entities import entities, find_type, type_of_value
from crewbus.events.registry import EventType
from crewbus.exceptions import DecodeError, UnserializableError, text_of
from crewbus.serialization.round_trip import fields_of, flaw, is_exact, is_same

if TYPE_CHECKING:
    import cattrs

Encode = Callable[[Any], bytes]


def _dumper() -> Callable[[Any], str]:
    """Compact JSON of what it is given, as `json.dumps` has it.

    `json.JSONEncoder` makes its C encoder anew at each call, which for a small event is half of the time. One without
    markers may serve all threads; what contains itself ends in a RecursionError then.
    """
    encoder = json.JSONEncoder(separators=(",", ":"))
    make: Any = getattr(json.encoder, "c_make_encoder", None)  # CPython's
    if make is None:
        return encoder.encode
    pieces = make(None, encoder.default, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, True)
    return lambda value: "".join(pieces(value, 0))


_dump: Final = _dumper()
_reader: Any = json.JSONDecoder()  # typeshed does not know its `scan_once`
_scan: Final = _reader.scan_once


def _load(data: bytes) -> Any:
    """What JSON in UTF-8 holds, as `json.loads` has it, which takes twice as long for a small event.

    That guesses at the encoding and looks for white space, which is not where events are written as `_dump` does it.
    """
    text = data.decode()
    with suppress(StopIteration):
        value, end = _scan(text, 0)
        if end == len(text):
            return value
    return json.loads(text)


BY_ANNOTATION: Final = "->"
"""In the place of a type's name: a value that is read by the return annotation of its step's function."""


class Written(NamedTuple):
    """A value as JSON can hold it, and by what it is read."""

    data: Any
    type: str | None
    """The name of a registered type, `BY_ANNOTATION`, or None: it is plain JSON."""
    version: int


class Codec:
    """Encodes and decodes events and values; one per bus, since plugins may configure its converter."""

    def __init__(self, configure: Callable[[cattrs.Converter], object] | None = None) -> None:
        from cattrs.preconf.json import make_converter  # loaded at first use: most buses never record

        self._converter = make_converter()
        if configure is not None:
            configure(self._converter)
        self._encoders: dict[EventType, Encode] = {}

    def encode(self, event: Any) -> tuple[str, int, bytes]:
        """Event type name, version and JSON of ``event``.

        Raises `UnregisteredEventError`, and `UnserializableError` naming the type and field that would
        not come back as it was.
        """
        if type(event) is UnknownEvent:
            return event.name, event.version, self._untouched(event)
        registered = event_type_of(type(event))
        return registered.name, registered.version, self._encode(registered, event)

    def _encode(self, registered: EventType, value: Any) -> bytes:
        encode = self._encoders.get(registered)
        if encode is None:
            encode = self._encoders[registered] = self._encoder(registered)
        try:
            return encode(value)
        except UnserializableError:
            raise
        except Exception as error:
            raise UnserializableError(f"{registered.name}: {self._blame(registered, value)}: {error}") from error

    @staticmethod
    def _untouched(event: UnknownEvent) -> bytes:
        try:
            return event.data.encode()
        except UnicodeEncodeError as error:
            raise UnserializableError(f"{event.name}: field 'data' can't be written: {error}") from error

    def decode(self, name: str, version: int, data: bytes) -> Any:
        """The event that `encode` was given; `UnknownEvent` for a type that is not registered, or is newer here.

        Raises `DecodeError` where the bytes are not that type's.
        """
        registered = find_event_type(name)
        try:
            if registered is None or registered.version < version:
                return UnknownEvent(name, version, data.decode())
            return self._structure(registered, version, _load(data))
        except Exception as error:  # hostile bytes meet whatever a structure hook raises
            raise DecodeError(f"{name} version {version}: {_first_line(error)}") from error

    # Values: the results of steps, the states of entities

    def write(self, value: Any, annotation: Any, what: str) -> Written:
        """``value`` as JSON can hold it; raises `UnserializableError`, naming ``what`` and the place in it, otherwise.

        It is read by its type where that is registered, as plain JSON where that gives back the same, or else by
        ``annotation`` (``Any``: there is none).
        """
        registered = type_of_value(type(value))
        if registered is not None:
            return Written(json.loads(self._encode(registered, value)), registered.name, registered.version)
        fault = flaw(value, "result")
        if fault is None:
            return Written(value, None, 0)
        if annotation is not Any:
            try:
                data = json.loads(self._write(value, annotation))
                if is_same(self._converter.structure(data, annotation), value):
                    return Written(data, BY_ANNOTATION, 0)
            except Exception as error:  # cattrs meets whatever was annotated
                fault += f"; by the annotation {annotation!r} it can't be read back either ({_first_line(error)})"
        raise UnserializableError(
            f"{what}: {fault}: return what JSON can hold, annotate what is returned, or register its type with "
            "crewbus.register_entity()"
        )

    def write_entity(self, entity: Any) -> Written:
        """The state of ``entity``; raises `UnregisteredEventError` and `UnserializableError`."""
        registered = entities.of(type(entity))
        return Written(json.loads(self._encode(registered, entity)), registered.name, registered.version)

    def read(self, written: Written, annotation: Any) -> Any:
        """The value that was written; raises `DecodeError`, also for a type that is not registered or newer here."""
        data, name, version = written
        try:
            if name is None:
                return data
            if name == BY_ANNOTATION:
                return self._converter.structure(data, annotation)
            registered = find_type(name)
            if registered is None or registered.version < version:
                known = "not registered" if registered is None else f"registered as version {registered.version}"
                raise DecodeError(f"{name} version {version} is {known} here")
            return self._structure(registered, version, data)
        except DecodeError:
            raise
        except Exception as error:
            raise DecodeError(f"{name} version {version}: {_first_line(error)}") from error

    def _structure(self, registered: EventType, version: int, raw: Any) -> Any:
        if version < registered.version:
            for older in sorted(registered.upgrades):
                if older >= version:
                    raw = registered.upgrades[older](raw)
        if registered.structure is not None:
            return registered.structure(raw)
        return self._converter.structure(raw, registered.cls)

    def _encoder(self, registered: EventType) -> Encode:
        if registered.unstructure is not None:
            unstructure = registered.unstructure
            return lambda event: _dump(unstructure(event)).encode()
        cls = registered.cls
        fields = fields_of(cls)
        for field, annotation in fields:
            self._refuse_unreadable(registered, field, annotation)
        unstructure = self._converter.get_unstructure_hook(cls)
        if is_exact(cls, set(), top=True):
            return lambda event: _dump(unstructure(event)).encode()

        def checked(event: Any) -> bytes:
            data = _dump(unstructure(event)).encode()
            again = self._read_back(registered, data, event)
            for field, _ in fields:
                if not is_same(getattr(again, field), getattr(event, field)):
                    raise UnserializableError(
                        f"{registered.name}: field {field!r} would come back as {getattr(again, field)!r}, "
                        f"not {getattr(event, field)!r}: give it a precise type, or use what JSON can hold"
                    )
            return data

        return checked

    def _read_back(self, registered: EventType, data: bytes, event: Any) -> Any:
        try:
            return self._converter.structure(json.loads(data), registered.cls)
        except Exception as error:
            culprit = self._culprit(registered, event, self._round_trip)
            what, reason = (f": field {culprit[0]!r}", culprit[1]) if culprit else ("", error)
            raise UnserializableError(f"{registered.name}{what} can't be read back: {_first_line(reason)}") from error

    def _write(self, value: Any, annotation: Any) -> str:
        return _dump(self._converter.unstructure(value, unstructure_as=annotation))

    def _round_trip(self, value: Any, annotation: Any) -> Any:
        return self._converter.structure(json.loads(self._write(value, annotation)), annotation)

    @staticmethod
    def _culprit(
        registered: EventType, event: Any, attempt: Callable[[Any, Any], object]
    ) -> tuple[str, Exception] | None:
        """The first field with which ``attempt(value, annotation)`` fails, and how; None if there is none."""
        for field, annotation in fields_of(registered.cls):
            try:
                attempt(getattr(event, field), annotation)
            except Exception as error:
                return field, error
        return None

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
        culprit = self._culprit(registered, event, self._write) if registered.unstructure is None else None
        return f"field {culprit[0]!r} can't be written as JSON" if culprit else "can't be written as JSON"


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {text_of(error)}".splitlines()[0]
