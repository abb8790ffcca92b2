"""Text from runs and records, made safe and short enough to be shown."""

from __future__ import annotations

import re
from typing import Final

ELLIPSIS: Final = "…"

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


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
