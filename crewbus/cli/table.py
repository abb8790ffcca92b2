"""Tables that fit the terminal."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

from crewbus.cli.terminal import OutputStream
from crewbus.cli.text import columns, shorten, wrap

CellStyle = Callable[[str, str], Sequence[str]]

_GAP: Final = 2
_MIN_CUT: Final = 8
"""The columns that a cell keeps at least, with its ellipsis."""
_MIN_WRAPPED: Final = 24


def format_table(
    out: OutputStream,
    rows: Sequence[Sequence[str]],
    style: CellStyle,
    *,
    right: bool = False,
    whole: Collection[str] = (),
) -> str:
    """``rows`` as a table, the first row being the headings.

    If a terminal is too narrow, the last column is wrapped, and of the others the widest are cut, with an ellipsis;
    those with headings in ``whole`` are not. ``style(heading, cell)`` returns the styles of a cell; ``right`` aligns
    all cells to the right.
    """
    widths = [max(map(columns, column)) for column in zip(*rows, strict=True)]
    if out.is_terminal:
        widths = _fitted(widths, rows[0], whole, out.width)
    return "".join(_line(out, rows[0], row, widths, style, right=right) for row in rows)


def _fitted(widths: list[int], headings: Sequence[str], whole: Collection[str], width: int) -> list[int]:
    """The widths, less what is too much."""
    *fitted, last = widths
    free = width - _GAP * len(fitted)
    while sum(fitted) + min(last, _MIN_WRAPPED) > free:
        cuttable = [
            at
            for at, each in enumerate(fitted)
            if each > max(_MIN_CUT, columns(headings[at])) and headings[at] not in whole
        ]
        if not cuttable:
            break
        fitted[max(cuttable, key=fitted.__getitem__)] -= 1
    return [*fitted, min(last, max(_MIN_CUT, free - sum(fitted)))]


def _line(
    out: OutputStream, headings: Sequence[str], row: Sequence[str], widths: list[int], style: CellStyle, *, right: bool
) -> str:
    """A row, of which the last cell may take several lines."""
    cells: list[str] = []
    for heading, cell, width in zip(headings, row, widths, strict=True):
        is_last = len(cells) == len(widths) - 1
        styles = ("dim",) if row is headings else style(heading, cell)
        lines = wrap(cell, width) if is_last and columns(cell) > width else [shorten(cell, width)]
        padding = " " * (width - columns(lines[-1]))
        indent = "\n" + " " * (sum(widths[:-1]) + _GAP * len(cells))
        text = indent.join(out.styled(line, *styles) for line in lines)
        cells.append(padding + text if right else text + padding)
    return (" " * _GAP).join(cells).rstrip() + "\n"
