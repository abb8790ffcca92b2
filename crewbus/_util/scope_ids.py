"""Ids of scopes: what is in an attempt or step has an id that begins with its own, however much happens in it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Final

UNSCOPED: Final = "unscoped:"
"""How the ids of what starts outside any run begin."""


def scope_id(run_id: str | None, seq: int, parent: str | None, *, is_level: bool) -> str:
    """The id of what the event ``seq`` starts in ``parent``; ``is_level``: the ids of what is in it begin with it."""
    around = _level_around(parent)
    if not around or (run_id is None and not around.startswith(UNSCOPED)):
        around = UNSCOPED if run_id is None else f"{run_id}:"
    return f"{around}{seq}/" if is_level else f"{around}{seq}"


def _level_around(parent: str | None) -> str:
    """The id of the innermost attempt or step in which something that starts in ``parent`` is; "" if there is none."""
    end = parent.rfind("/") + 1 if parent is not None else 0
    return parent[:end] if parent is not None and end > parent.rfind(":") else ""  # a run's id may have any character


def levels(of: str) -> Iterator[str]:
    """Yield the id of a scope, of an attempt or step without its slash too, and those of the attempts and steps around.

    Without the slash, it names what belongs to the attempt directly, and not what else is in it.
    """
    yield of
    if of.endswith("/"):
        yield of[:-1]
    end, head = of.rfind("/", 0, -1), of.rfind(":")
    while end > head:
        yield of[: end + 1]
        end = of.rfind("/", 0, end)


def is_within(of: str | None, scopes: Container[str]) -> bool:
    """Whether a scope, or an attempt or step around it, is among ``scopes``."""
    return of is not None and (of in scopes or ("/" in of and any(level in scopes for level in levels(of))))


def outermost(scopes: Iterable[str]) -> Iterator[str]:
    """Leave out the scopes that are in an attempt or step that came before them."""
    seen: set[str] = set()
    for one in scopes:
        if not is_within(one, seen):
            seen.add(one)
            yield one


def number_in(of: str) -> int | None:
    """The number of the event that started a scope; None if its id is none that crewbus made."""
    digits = of.rstrip("/")
    digits = digits[max(digits.rfind("/"), digits.rfind(":")) + 1 :]
    return int(digits) if digits.isdecimal() and len(digits) < 20 else None
