"""Which rows of a timeline a page shows: equal ones that follow each other are folded into one line."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import groupby
from typing import Final

import attrs

from crewbus_http.page.timeline import Row, Spent

ALIKE: Final = 4
"""From how many on equal rows without anything in them are folded."""
SHOWN: Final = 100
"""How many rows of one scope are shown at once."""


@attrs.frozen
class Fold:
    """Rows that are not shown: equal ones, or the rest of a long scope."""

    rows: list[Row]
    is_rest: bool = False
    """Whether they are what did not fit, instead of equal ones."""

    @property
    def seq(self) -> int:
        """The number by which it is unfolded: that of its first row."""
        return self.rows[0].seq

    @property
    def label(self) -> str:
        """What is folded."""
        first = self.rows[0]
        return f"{len(self.rows):,} more" if self.is_rest else f"{first.label}, {len(self.rows):,} times"

    @property
    def kind(self) -> str:
        """That of its rows."""
        return self.rows[0].kind

    @property
    def state(self) -> str:
        """That of its rows; empty if they differ."""
        return "" if self.is_rest else self.rows[0].state

    @property
    def start(self) -> float:
        """When the first one started."""
        return self.rows[0].start

    @property
    def end(self) -> float:
        """When the last one ended."""
        return max(row.end for row in self.rows)

    @property
    def spent(self) -> Spent:
        """By all of them."""
        total = Spent()
        for row in self.rows:
            total.input_tokens += row.spent.input_tokens
            total.output_tokens += row.spent.output_tokens
            total.add(None, row.spent.cost)
        return total


Line = Row | Fold


def lines(top: Row, unfolded: Collection[int] = ()) -> Iterator[tuple[int, Line]]:
    """What is shown of ``top``, each line with its depth; ``unfolded``: the numbers of folds that are open."""
    stack: list[tuple[int, Line]] = [(0, top)]
    while stack:
        depth, line = stack.pop()
        yield depth, line
        if isinstance(line, Row):
            stack += [(depth + 1, inner) for inner in reversed(_within(line.children, unfolded))]


def _within(rows: list[Row], unfolded: Collection[int]) -> list[Line]:
    """The lines of rows in one scope."""
    found: list[Line] = []
    for key, group in groupby(rows, _alike):
        equal = [*group]
        if key is None or len(equal) < ALIKE:
            found += equal
        else:
            found += _pages(equal, unfolded)
    return _cut(found, unfolded)


def _pages(equal: list[Row], unfolded: Collection[int]) -> list[Line]:
    """Equal rows, folded, or unfolded page by page."""
    found: list[Line] = []
    while equal and equal[0].seq in unfolded:
        found += equal[:SHOWN]
        equal = equal[SHOWN:]
    return [*found, Fold(equal)] if equal else found


def _cut(found: list[Line], unfolded: Collection[int]) -> list[Line]:
    """At most a page of lines, then what is left as one, unless that is unfolded too."""
    shown = found[:SHOWN]
    rest = found[SHOWN:]
    while rest and rest[0].seq in unfolded:
        shown += rest[:SHOWN]
        rest = rest[SHOWN:]
    rows = [row for line in rest for row in (line.rows if isinstance(line, Fold) else [line])]
    return [*shown, Fold(rows, is_rest=True)] if rows else shown


def _alike(row: Row) -> tuple[str, str, str] | None:
    """What equal rows have in common; None: this row is shown by itself."""
    says_something = row.children or row.error or row.is_edited or row.is_open or row.text.chunks
    return None if says_something else (row.kind, row.name, row.state)
