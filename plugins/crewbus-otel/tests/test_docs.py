"""The README: its example is run and prints what stands below it; its links lead somewhere; its names are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from crewbus.testing import examples
from crewbus_otel import conventions

PLUGIN = Path(__file__).parents[1]
README = (PLUGIN / "README.md").read_text("utf-8")
HOWTO = PLUGIN.parents[1] / "docs" / "howto" / "trace-with-opentelemetry.md"
EXAMPLES = examples(PLUGIN / "README.md", HOWTO)


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_examples_print_the_output_below_them(example):
    example.check()


def test_there_is_an_example():
    assert EXAMPLES
    assert all(example.output for example in EXAMPLES)


def test_links_resolve():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (PLUGIN / target).exists(), target
    for target in re.findall(r"`(crewbus_otel/\w+\.py)`", README):
        assert (PLUGIN / target).exists(), target


def test_every_metric_of_ours_is_in_the_table():
    table = README[README.index("## Metrics") : README.index("## Settings")].replace("`.", "`crewbus.store.backlog.")
    ours = {
        value
        for name, value in vars(conventions).items()
        if name.startswith(("ACTIVE", "BACKLOG", "COMMIT", "DROPPED", "LOST", "QUEUE"))
    }
    assert ours <= set(re.findall(r"`([\w.]+)`", table))


def test_no_other_module_has_a_name_of_the_conventions():
    for path in (PLUGIN / "crewbus_otel").glob("*.py"):
        if path.name != "conventions.py":
            assert not re.search(r'"gen_ai\.', path.read_text("utf-8")), path.name
