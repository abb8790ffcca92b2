"""Cursors: where a consumer stands in a record."""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Self

from crewbus.exceptions import InputError

START: Final = "start"
"""The cursor before the first frame."""
_TEXT: Final = re.compile(r"(\d{1,18})\.(\d{1,9})(?:\.(\d{1,18}))?", re.ASCII)


class Cursor(NamedTuple):
    """Where a consumer stands in a record."""

    seq: int
    """The number of the last frame that the consumer was given."""
    epoch: int
    """The epoch of that frame."""

    floor: int | None = None
    """The lowest number from which a retraction that the consumer was given applies; None: it was given none.

    A retraction can be lost with the process that emitted it, while the record still holds what it retracted.
    """

    def __str__(self) -> str:
        if self.seq < 0:
            return START
        return ".".join(str(part) for part in self if part is not None)

    @classmethod
    def parse(cls, text: object) -> Self:
        """The cursor that ``text`` stands for. Raises `InputError` if it stands for none."""
        if text == START:
            return cls(-1, 1)
        found = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise InputError(f"{text!r} is not a cursor: pass the `cursor` of a stream, or {START!r}")
        return cls(*(int(part) for part in found.groups() if part is not None))
