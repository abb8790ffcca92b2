"""What one scope of a run streamed: the pieces that count, and those that were taken back."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import attrs


class Passage(NamedTuple):
    """Adjacent pieces that are alike."""

    kind: str
    """"text", "reasoning" or "tool_call"."""
    text: str
    is_retracted: bool
    left_out: int = 0
    """How many more characters it has, which are not in ``text``."""


@attrs.define
class _Piece:
    seq: int
    kind: str
    text: str
    is_retracted: bool = False


class StreamedText:
    """The chunks of one scope, in the order of their numbers."""

    def __init__(self) -> None:
        self._pieces: list[_Piece] = []
        self.characters = 0
        """How many characters are not retracted."""
        self.retracted = 0
        """How many chunks were taken back."""

    def add(self, seq: int, text: str, kind: str) -> None:
        """Add a chunk, numbered above those before it."""
        self._pieces.append(_Piece(seq, kind, text))
        self.characters += len(text)

    def retract(self, since: int) -> None:
        """Take the chunks numbered ``since`` and above back."""
        for piece in reversed(self._pieces):
            if piece.seq < since:
                break
            if not piece.is_retracted:
                piece.is_retracted = True
                self.characters -= len(piece.text)
                self.retracted += 1

    @property
    def newest(self) -> int:
        """The number of its last chunk; -1 if it has none."""
        return self._pieces[-1].seq if self._pieces else -1

    @property
    def chunks(self) -> int:
        """How many chunks there are, retracted ones too."""
        return len(self._pieces)

    def since(self, place: int) -> list[Passage]:
        """What was added after the first ``place`` chunks."""
        return [
            Passage(kind, "".join(piece.text for piece in pieces), is_retracted)
            for kind, is_retracted, pieces in self._alike(place)
        ]

    def whole(self) -> str:
        """All text of kind "text" that counts."""
        return "".join(piece.text for piece in self._pieces if not piece.is_retracted and piece.kind == "text")

    def passages(self, most: int) -> list[Passage]:
        """The newest passages, oldest first, with at most ``most`` characters of each kind of passage."""
        found: list[Passage] = []
        for kind, is_retracted, pieces in reversed([*self._alike()]):
            text = _end(pieces, most)
            most -= len(text)
            found.append(Passage(kind, text, is_retracted, sum(len(piece.text) for piece in pieces) - len(text)))
        return found[::-1]

    def _alike(self, place: int = 0) -> Iterator[tuple[str, bool, list[_Piece]]]:
        group: list[_Piece] = []
        for piece in islice(self._pieces, place, None):
            if group and (piece.kind, piece.is_retracted) != (group[0].kind, group[0].is_retracted):
                yield group[0].kind, group[0].is_retracted, group
                group = []
            group.append(piece)
        if group:
            yield group[0].kind, group[0].is_retracted, group


def _end(pieces: list[_Piece], most: int) -> str:
    """The last ``most`` characters of their text."""
    found: list[str] = []
    for piece in reversed(pieces):
        if most <= 0:
            break
        found.append(piece.text[-most:])
        most -= len(found[-1])
    return "".join(reversed(found))
