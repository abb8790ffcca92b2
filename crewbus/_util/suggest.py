"""Suggestions for misspelt names."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the known name that is closest to ``name``; empty if none is close."""
    import difflib  # only errors need it

    near = difflib.get_close_matches(name, [one for one in known if one != name], 1)
    return f": did you mean {near[0]}?" if near else ""
