"""Text from runs and records, made safe and short enough for a terminal."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

ELLIPSIS: Final = "…"
TIMES: Final = "\N{MULTIPLICATION SIGN}"

# C0 and C1 controls but newline and tab, line and paragraph separators, bidi embeddings, overrides and isolates
# (Unicode TR 36, 2.1.2), and lone surrogates. Joiners stay: scripts and emoji need them.
_UNSAFE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escape_control(text: str) -> str:
    r"""``text`` with what a terminal would interpret written as ``\x1b``, ``\u202e`` and so on.

    Newlines and tabs stay, and a carriage return before a newline is left out.
    """
    return _UNSAFE.sub(_escape, text.replace("\r\n", "\n"))


def one_line(text: str, max_length: int = 300) -> str:
    """``text`` on one line of at most ``max_length`` characters, with control characters escaped."""
    flat = escape_control(" ".join(text.split()))
    return flat if len(flat) <= max_length else f"{flat[: max_length - 1]}{ELLIPSIS}"


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


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def _character_columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
