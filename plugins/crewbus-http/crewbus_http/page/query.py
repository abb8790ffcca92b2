"""The list of runs that a URL asks for, and back."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlencode

import attrs

from crewbus import InputError
from crewbus.stores import LogFilter

STATES: Final = ("queued", "running", "suspended", "interrupted", "finished", "failed", "cancelled")
"""All states of runs, in the order in which the page offers them."""
PAGE: Final = 50
"""How many runs a page of the list has."""
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@attrs.frozen
class RunQuery:
    """Which runs a list shows."""

    states: tuple[str, ...] = ()
    name: str = ""
    tags: Mapping[str, str] = attrs.field(factory=dict)
    since: str = ""
    """An age, such as ``2d``."""
    after: str = ""
    """The cursor: the id of the run before the page."""

    @classmethod
    def parse(cls, pairs: Iterable[tuple[str, str]]) -> RunQuery:
        """Read the parameters of a URL; raises `InputError` for one that can't be meant."""
        given: dict[str, list[str]] = {}
        for key, value in pairs:
            if value.strip():
                given.setdefault(key, []).append(value.strip())
        states = tuple(given.get("state", ()))
        for state in states:
            if state not in STATES:
                raise InputError(f"state={state!r} is none of {', '.join(STATES)}")
        since = given.get("since", [""])[-1]
        if since:
            age(since)
        tags = dict(_tag(part) for text in given.get("tag", ()) for part in text.split())
        return cls(states, given.get("name", [""])[-1], tags, since, given.get("after", [""])[-1])

    def url(self, **changes: Any) -> str:
        """The parameters of the URL that asks for it, with some of them changed; from the first page unless given."""
        other = attrs.evolve(self, **{"after": "", **changes})
        pairs = [("state", state) for state in other.states]
        pairs += [("name", other.name)] if other.name else []
        pairs += [("tag", f"{key}={value}") for key, value in other.tags.items()]
        pairs += [(key, value) for key, value in (("since", other.since), ("after", other.after)) if value]
        return f"?{urlencode(pairs)}" if pairs else ""

    def filter(self) -> LogFilter:
        """What a store looks for."""
        since = time.time() - age(self.since) if self.since else None
        return LogFilter(frozenset(self.states) or None, self.name or None, self.tags, since)

    @property
    def tag_text(self) -> str:
        """The tags as a person writes them."""
        return " ".join(f"{key}={value}" for key, value in self.tags.items())

    def __bool__(self) -> bool:
        return bool(self.states or self.name or self.tags or self.since)


def age(text: str) -> float:
    """The seconds in ``30d``, ``12h``, ``45m``, ``10s`` or ``2w``; raises `InputError`."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)([smhdw])", text, re.ASCII)
    if match is None:
        raise InputError(f"an age is a number followed by s, m, h, d or w, such as 30d; got {text[:50]!r}")
    return float(match[1]) * _UNITS[match[2]]


def _tag(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"a tag is KEY=VALUE; got {text[:50]!r}")
    return key, value
