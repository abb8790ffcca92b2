"""Encode events and values as JSON and decode them, with cattrs. Types come from the registry, never from the data."""

from __future__ import annotations

import json
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from crewbus._util import loads
from crewbus.events import (
    EventType,
    UnknownEvent,
    entity_types,
    event_type_of,
    find_event_type,
    find_type,
    qualified,
    type_of_value,
)
from crewbus.exceptions import DecodeError, UnserializableError, text_of
from crewbus.serialization.compact_json import json_writer, texts_writer
from crewbus.serialization.converter_hooks import add_hooks
from crewbus.serialization.round_trip import check_of, fields_of, is_rebuilt_as_it_is, is_same, unpreserved

if TYPE_CHECKING:
    import cattrs

Encode = Callable[[Any], bytes]


_dump: Final = json_writer()
_reader: Any = json.JSONDecoder()  # typeshed does not know its `scan_once`
_scan: Final = _reader.scan_once


def _load(data: bytes) -> Any:
    """Decode JSON in UTF-8 like `json.loads`, in half the time for a small event.

    `json.loads` detects the encoding and skips white space, of which `_dump` writes none.
    """
    text = data.decode()
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        value, end = None, -1
    return value if end == len(text) else json.loads(text)


BY_ANNOTATION: Final = "->"
"""How the type of a value begins that is decoded by the return annotation of its step function; that follows."""


class Written(NamedTuple):
    """An encoded value, and what decodes it."""

    data: Any
    """A JSON value."""
    type: str | None
    """The name of a registered type; `BY_ANNOTATION` and the annotation; or None for a value that is plain JSON."""
    version: int
    """The version of the registered type, or 0."""

    @property
    def annotation(self) -> str | None:
        """The annotation that decodes it, as text; None: its type is registered, or it is plain JSON."""
        is_annotated = self.type is not None and self.type.startswith(BY_ANNOTATION)
        return self.type.removeprefix(BY_ANNOTATION) if self.type is not None and is_annotated else None


class Codec:
    """Encodes and decodes events and values. Each bus has its own, since plugins may configure the converter."""

    def __init__(self, configure: Callable[[cattrs.Converter], object] | None = None) -> None:
        with loads.loading():
            from cattrs.preconf.json import make_converter  # loaded at first use: most buses never record

        self._converter = make_converter()
        add_hooks(self._converter)
        self._text_hook: Any = self._converter.get_unstructure_hook(str)
        if configure is not None:
            configure(self._converter)
        self._encoders: dict[EventType, Encode] = {}

    def encode(self, event: Any) -> tuple[str, int, bytes]:
        """Encode ``event``: the name and version of its type, and its JSON in UTF-8.

        Raises `UnregisteredEventError`, and `UnserializableError` with the type and the field that would not decode
        to an equal value.
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
        """Decode what `encode` returned; an `UnknownEvent` if the type is not registered, or only in an older version.

        Raises `DecodeError` if the bytes are not a valid event of the type.
        """
        registered = find_event_type(name)
        try:
            if registered is None or registered.version < version:
                return UnknownEvent(name, version, data.decode())
            return self._structure(registered, version, _load(data))
        except Exception as error:  # structure hooks may raise anything on hostile bytes
            raise DecodeError(f"{name} version {version}: {_first_line(error)}") from error

    # Values: step results and the states of entities

    def write(self, value: Any, annotation: Any, what: str) -> Written:
        """Encode a value: by its registered type, else as plain JSON, else by ``annotation`` (``Any``: none).

        Raises `UnserializableError`, with ``what`` and the place in the value, if it would not decode to an equal
        value.
        """
        registered = type_of_value(type(value))
        if registered is not None:
            return Written(json.loads(self._encode(registered, value)), registered.name, registered.version)
        fault = unpreserved(value, "result")
        if fault is None:
            return Written(value, None, 0)
        if annotation is not Any:
            try:
                data = json.loads(self._write(value, annotation))
                if is_same(self._converter.structure(data, annotation), value):
                    return Written(data, BY_ANNOTATION + _spelled(annotation), 0)
            except Exception as error:  # cattrs may raise anything for an annotation
                fault += f"; nor can it be decoded by the annotation {annotation!r} ({_first_line(error)})"
        raise UnserializableError(
            f"{what}: {fault}: return a JSON value, annotate the return type, or register the type with "
            "crewbus.register_entity()"
        )

    def write_entity(self, entity: Any) -> Written:
        """Encode the state of ``entity``; raises `UnregisteredEventError` and `UnserializableError`."""
        registered = entity_types.of(type(entity))
        return Written(json.loads(self._encode(registered, entity)), registered.name, registered.version)

    def read(self, written: Written, annotation: Any) -> Any:
        """Decode what `write` returned; raises `DecodeError`, also for an unregistered type or a newer version."""
        data, name, version = written
        try:
            if name is None:
                return data
            if name.startswith(BY_ANNOTATION):
                return self._read_by_annotation(data, name, annotation)
            registered = find_type(name)
            if registered is None or registered.version < version:
                known = "not registered" if registered is None else f"registered as version {registered.version}"
                raise DecodeError(f"{name} version {version} is {known} here")
            return self._structure(registered, version, data)
        except DecodeError:
            raise
        except Exception as error:
            raise DecodeError(f"{name} version {version}: {_first_line(error)}") from error

    def _read_by_annotation(self, data: Any, name: str, annotation: Any) -> Any:
        spelled = name.removeprefix(BY_ANNOTATION)
        if spelled and spelled != _spelled(annotation):
            raise DecodeError(
                f"a result of type {spelled} was recorded, and is to be read as {_spelled(annotation)} now: annotate "
                "the function as it was"
            )
        return self._converter.structure(data, annotation)

    def edit(self, value: Any, before: Written, what: str) -> Written:
        """Encode a value that takes the place of ``before``, as a value of the same type; JSON is decoded into it.

        Raises `UnserializableError` if it is no value of that type.
        """
        if before.type is None:
            return self.write(value, Any, what)
        if before.type.startswith(BY_ANNOTATION):
            if unpreserved(value, what) is None:  # JSON, which is decoded when the run is resumed
                return Written(value, before.type, before.version)
            written = self.write(value, type(value), what)
            if written.type != before.type:
                raise UnserializableError(f"{what}: a {type(value).__qualname__} is not {before.type[2:]}, as recorded")
            return written
        registered = find_type(before.type)
        if registered is not None and type(value) is not registered.cls:
            try:
                value = self._structure(registered, registered.version, value)
            except Exception as error:
                raise UnserializableError(
                    f"{what}: it is no {before.type}, as recorded: {_first_line(error)}"
                ) from error
        return self.write(value, Any, what)

    def _structure(self, registered: EventType, version: int, raw: Any) -> Any:
        if version < registered.version:
            raw = registered.upgraded(raw, version)
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
        checks = [(field, check_of(annotation)) for field, annotation in fields]
        certain = [(field, check) for field, check in checks if check is not None]
        may_be_certain = len(certain) == len(checks) and is_rebuilt_as_it_is(cls)

        def encode(event: Any) -> bytes:
            data = _dump(unstructure(event)).encode()
            if not (may_be_certain and all(check(getattr(event, field)) for field, check in certain)):
                self._require_same(registered, data, event)
            return data

        if may_be_certain and self._are_plain_texts(unstructure, fields):
            return _encoder_of_texts([field for field, _ in fields], encode)
        return encode

    def _are_plain_texts(self, unstructure: Any, fields: list[tuple[str, Any]]) -> bool:
        """Whether all fields are texts, and no plugin has them written in a way of its own."""
        return (
            len(fields) > 0
            and all(annotation is str for _, annotation in fields)
            and getattr(unstructure, "overrides", None) == {}
            and not getattr(self._converter, "omit_if_default", False)
            and self._converter.get_unstructure_hook(str) is self._text_hook
        )

    def _require_same(self, registered: EventType, data: bytes, event: Any) -> None:
        """Raise `UnserializableError`, naming the field, if ``data`` would not be decoded as ``event``."""
        again = self._read_back(registered, data, event)
        for field, _ in fields_of(registered.cls):
            if not is_same(getattr(again, field), getattr(event, field)):
                raise UnserializableError(
                    f"{registered.name}: field {field!r} would be read back as {getattr(again, field)!r}, "
                    f"not {getattr(event, field)!r}: give the field a precise type, or use JSON values"
                )

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
        """The first field for which ``attempt(value, annotation)`` raises, and its exception; or None."""
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


def _encoder_of_texts(names: list[str], otherwise: Encode) -> Encode:
    """An encoder of events with texts alone, in a quarter of the time: `Chunk` is one, and there is one for each token.

    ``otherwise`` encodes what holds something else in a field.
    """
    dump = texts_writer(names)

    def encode(event: Any) -> bytes:
        text = dump(event)
        return otherwise(event) if text is None else text.encode()

    return encode


def _spelled(annotation: Any) -> str:
    """The text that identifies an annotation in a record."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return qualified(annotation)
    return repr(annotation)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {text_of(error)}".splitlines()[0]
