"""Arrays in the server's binary form. psycopg's own take three times as long, which is most of what writing costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import ClassVar, Final

from psycopg import adapters
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEADER: Final = Struct("!iiiii")
_LENGTH: Final = Struct("!i")
_NULL: Final = _LENGTH.pack(-1)


class Array(bytes):
    """An array of one dimension."""

    element: ClassVar[int]
    """The oid of the type of its elements."""
    fixed: ClassVar[Struct | None]
    """How an element follows its length; None: the elements are bytes."""

    @classmethod
    def of(cls, values: Sequence[object]) -> Array:
        """The array of these values, or None for NULL."""
        elements = [*cls._elements(values)]
        header = _HEADER.pack(1, int(_NULL in elements), cls.element, len(values), 1)
        return cls(b"".join([header, *elements]))

    @classmethod
    def _elements(cls, values: Iterable[object]) -> Iterable[bytes]:
        if cls.fixed is None:
            length = _LENGTH.pack
            return [_NULL if value is None else length(len(value)) + value for value in values]  # type: ignore[arg-type,operator]
        size, pack = cls.fixed.size - _LENGTH.size, cls.fixed.pack
        return [_NULL if value is None else pack(size, value) for value in values]


class _ArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Array) -> bytes:
        return bytes(obj)


def _kind(element: int, array: int, code: str | None) -> type[Array]:
    fixed = None if code is None else Struct(f"!i{code}")
    made = type("Array", (Array,), {"element": element, "fixed": fixed})
    adapters.register_dumper(made, type("Dumper", (_ArrayDumper,), {"oid": array}))
    return made


KINDS: Final = {
    "bigint": _kind(20, 1016, "q"),
    "bool": _kind(16, 1000, "?"),
    "bytea": _kind(17, 1001, None),
    "float8": _kind(701, 1022, "d"),
    "smallint": _kind(21, 1005, "h"),
}
"""The arrays of each type of column."""
