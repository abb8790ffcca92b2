"""Text from runs and records, made short enough for a terminal."""

from __future__ import annotations

import unicodedata
from typing import Final

from crewbus._util import ELLIPSIS

TIMES: Final = "\N{MULTIPLICATION SIGN}"


def columns(text: str) -> int:
    """How many columns a terminal needs for ``text``: none for marks and joiners, two for wide characters."""
    return len(text) if text.isascii() else sum(map(_character_columns, text))


def shorten(text: str, width: int) -> str:
    """``text``, or as much of its beginning as fits in ``width`` columns together with an ellipsis."""
    if columns(text) <= width:
        return text
    left = width - 1
    for at, character in enumerate(text):
        left -= _character_columns(character)
        if left < 0:
            return text[:at] + ELLIPSIS if width > 0 else ""
    return text


def wrap(text: str, width: int) -> list[str]:
    """``text`` as lines of at most ``width`` columns, broken at spaces where there are any."""
    lines = [""]
    for word in text.split():
        if lines[-1] and columns(lines[-1]) + 1 + columns(word) <= width:
            lines[-1] += f" {word}"
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if columns(lines[-1]) + _character_columns(character) > width and lines[-1]:
                lines.append("")
            lines[-1] += character
    return lines


def _character_columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
