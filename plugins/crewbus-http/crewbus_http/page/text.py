"""Texts as the page shows them: what a browser would interpret, or would not show, is spelled out."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from typing import Final

_BIDI: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""The characters that change the direction of the text after them."""
_HIDDEN: Final = frozenset(("Cc", "Cs", "Co", "Cn", "Zl", "Zp"))
_KEPT: Final = frozenset("\n\t")


def visible(text: str) -> str:
    """``text`` with control characters and those that reorder it as ``⟨U+202E⟩``, except newlines and tabs."""
    if text.isprintable() and text.isascii():
        return text
    return "".join(f"⟨U+{ord(one):04X}⟩" if _is_hidden(one) else one for one in text)


def _is_hidden(one: str) -> bool:
    if one.isprintable():
        return False
    return one in _BIDI or (one not in _KEPT and unicodedata.category(one) in _HIDDEN)


def one_line(text: str, most: int = 300) -> str:
    """``text`` on one line of at most ``most`` characters."""
    flat = visible(" ".join(text[: most * 2].split()))
    return flat if len(flat) <= most and len(text) <= most * 2 else f"{flat[: most - 1]}…"


def duration(seconds: float) -> str:
    """A duration in the unit that suits it."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} d"


def moment(at: float | None) -> str:
    """A time as ISO 8601 in UTC, to the second; ``?`` if a record has a time that there is not."""
    try:
        return "" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return "?"


def money(amount: float | None) -> str:
    """An amount of US dollars."""
    if amount is None:
        return ""
    return f"${amount:.2f}" if amount >= 1 else f"${amount:.4f}"


def count(number: int, noun: str) -> str:
    """A number with its noun: ``1 event``, ``2 events``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
