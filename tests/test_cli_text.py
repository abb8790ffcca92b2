"""The command prints that text was retracted only if it had shown some of it."""

from __future__ import annotations

import io

import pytest

from crewbus import Chunk, Envelope, Retracted
from crewbus.cli.report import TextPrinter
from crewbus.cli.terminal import OutputStream


def printed(*frames):
    out = io.StringIO()
    printer = TextPrinter(OutputStream(out))
    for seq, (parent, event) in enumerate(frames):
        printer.print(Envelope(event, "r", seq, parent, 0.0))
    return out.getvalue()


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([("a", Chunk("x")), ("a", Retracted(0))], "x\n[retracted]\n"),
        ([("a", Chunk("x")), ("a", Retracted(1))], "x"),
        ([("a", Chunk("x")), ("b", Retracted(0, "", ("b",)))], "x"),
        ([("a", Chunk("x")), ("b", Chunk("y")), ("b", Retracted(0, "", ("b",)))], "xy\n[retracted]\n"),
        ([("a", Chunk("x")), ("a", Retracted(0)), ("a", Retracted(0))], "x\n[retracted]\n"),
        ([("a", Chunk("x", "reasoning")), ("a", Retracted(0))], ""),
        ([("a", Chunk("")), ("a", Chunk("x")), ("a", Retracted(2))], "x"),
    ],
)
def test_retracted_is_printed_only_for_text_that_was_shown(frames, expected):
    assert printed(*frames) == expected
