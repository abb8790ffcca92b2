"""Cursors: where a consumer stands in a record."""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple, Self

from crewbus.exceptions import InputError

START: Final = "start"
"""The cursor before the first frame."""
_TEXT: Final = re.compile(r"(\d{1,18})\.(\d{1,9})\.([0-9a-f]{12})(?:\.(\d{1,18}))?", re.ASCII)


@lru_cache(maxsize=128, typed=True)  # a consumer may ask for the cursor after each frame
def record_name(run_id: str, started: float) -> str:
    """What tells the record of a run from any other, of another run or an earlier one of the same id.

    ``started``: the time of the first event of its root's record.
    """
    return blake2b(f"{started!r} {run_id}".encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


class Cursor(NamedTuple):
    """Where a consumer stands in a record."""

    seq: int
    """The number of the last frame that the consumer was given."""
    epoch: int
    """The epoch of that frame."""
    record: str = ""
    """The `record_name` of the record that it is a cursor of."""
    floor: int | None = None
    """The lowest number from which a retraction that the consumer was given applies; None: it was given none.

    A retraction can be lost with the process that emitted it, while the record still holds what it retracted.
    """

    def __str__(self) -> str:
        if self.seq < 0:
            return START
        floor = "" if self.floor is None else f".{self.floor}"
        return f"{self.seq}.{self.epoch}.{self.record}{floor}"

    @classmethod
    def parse(cls, text: object) -> Self:
        """The cursor that ``text`` stands for. Raises `InputError` if it stands for none."""
        if text == START:
            return cls(-1, 1)
        found = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise InputError(f"{text!r} is not a cursor: pass the `cursor` of a stream, or {START!r}")
        seq, epoch, record, floor = found.groups()
        return cls(int(seq), int(epoch), record, None if floor is None else int(floor))
