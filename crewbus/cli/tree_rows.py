"""The rows of a run's tree: which are shown, and equal ones folded into one.

A tree is a list of rows in order, each with its depth. Nothing here recurses: a record may be nested to any depth.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import groupby
from typing import Final

import attrs

from crewbus.records import Entry

Tree = list[tuple[int, Entry]]
FoldedTree = list[tuple[int, tuple[Entry, ...]]]
"""In place of an entry, those that a row stands for."""

_MIN_FOLDED: Final = 3  # two are as short as one that says so


def cut(tree: Tree, depth: int) -> Tree:
    """The rows at most ``depth`` levels below the first."""
    return [row for row in tree if row[0] <= depth]


def matching(tree: Tree, is_match: Callable[[Entry], bool]) -> Tree:
    """The rows that match, with those around them and all below them."""
    around: Tree = []
    kept: Tree = []
    shown_below: float = float("inf")  # all below a match at this depth
    for depth, entry in tree:
        shown_below = shown_below if depth > shown_below else float("inf")
        while around and around[-1][0] >= depth:
            around.pop()
        if depth > shown_below or is_match(entry):
            shown_below = min(shown_below, depth)
            kept += [*around, (depth, entry)]
            around.clear()
        else:
            around.append((depth, entry))
    return kept


def fold(tree: Tree) -> FoldedTree:
    """The tree with three or more equal rows that follow each other as one, and so what is below them.

    They are equal in all that is shown but their times and texts.
    """
    numbers: dict[Hashable, int] = {}
    blocks: dict[int, list[_Block]] = {}
    for depth, entry in reversed(tree):
        below = [*_folded(reversed(blocks.pop(depth + 1, [])), numbers)]
        likeness = numbers.setdefault((_shown(entry), *(block.likeness for block in below)), len(numbers))
        rows = [(depth, (entry,)), *(row for block in below for row in block.rows)]
        blocks.setdefault(depth, []).append(_Block(likeness, rows))
    return [row for block in blocks.get(0, []) for row in block.rows]


@attrs.frozen
class _Block:
    """A row, and the rows below it."""

    likeness: int
    """The same number for all blocks that are equal."""
    rows: FoldedTree


def _folded(blocks: Iterable[_Block], numbers: dict[Hashable, int]) -> Iterator[_Block]:
    for likeness, group in groupby(blocks, lambda block: block.likeness):
        equal = list(group)
        if len(equal) < _MIN_FOLDED:
            yield from equal
        else:
            yield _Block(numbers.setdefault((len(equal), likeness), len(numbers)), _merged(equal))


def _merged(blocks: list[_Block]) -> FoldedTree:
    """Equal blocks as one."""
    return [
        (rows[0][0], tuple(entry for _, entries in rows for entry in entries))
        for rows in zip(*(block.rows for block in blocks), strict=True)
    ]


def _shown(entry: Entry) -> Hashable:
    return entry.node.kind, entry.name, entry.key, entry.state, entry.void, entry.error, entry.attempt, entry.edited
