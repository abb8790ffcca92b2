"""The README: its example is run and prints what stands below it; its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

from crewbus.testing import examples
from crewbus_metrics import Events, Metrics, Snapshot, Timing

PLUGIN = Path(__file__).parents[1]
README = (PLUGIN / "README.md").read_text("utf-8")
HOWTO = PLUGIN.parents[1] / "docs" / "howto" / "watch-with-prometheus.md"
EXAMPLES = examples(PLUGIN / "README.md", HOWTO)


def comparable(text: str) -> str:
    """``text`` without what differs each time: times and rates."""
    return re.sub(r"\d+\.\d{3}\b", "0.000", text)


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_examples_print_the_output_below_them(example):
    example.check(comparable)


def test_there_is_an_example():
    assert EXAMPLES
    assert all(example.output for example in EXAMPLES)


def test_links_resolve():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (PLUGIN / target).exists(), target
    for target in re.findall(r"`(crewbus_metrics/\w+\.py|\w+\.py|setup\.cfg)`", README):
        assert (PLUGIN / target).exists(), target


def test_every_figure_is_named():
    named = set(re.findall(r"`(\w+)`", README))
    for cls in (Snapshot, Events, Timing):
        assert {field.name for field in attrs.fields(cls)} <= named


def test_every_hook_is_in_the_table():
    hooks = {name for name in vars(Metrics) if name.startswith("crewbus_")}
    table = README[README.index("## For plugin authors") :]
    assert hooks == set(re.findall(r"^\| `(crewbus_\w+)` \|", table, re.MULTILINE))
