"""The README: its examples print the output below them, and its links resolve."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import crewbus_langchain
from crewbus.testing import examples

PLUGIN = Path(__file__).parents[1]
README = (PLUGIN / "README.md").read_text("utf-8")
EXAMPLES = examples(PLUGIN / "README.md")


@pytest.fixture
def installed(monkeypatch):
    """The entry point, where the distribution is not installed."""
    from importlib import metadata

    found = metadata.entry_points
    ours = metadata.EntryPoint("langchain", "crewbus_langchain:LangchainPlugin", "crewbus")

    def entry_points(**which):
        known = found(**which)
        if which != {"group": "crewbus"} or any(entry.name == "langchain" for entry in known):
            return known
        return metadata.EntryPoints([*known, ours])

    monkeypatch.setattr(metadata, "entry_points", entry_points)


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
@pytest.mark.usefixtures("installed")
def test_examples_print_the_output_below_them(example):
    example.check()


def test_every_public_name_is_on_the_page():
    assert EXAMPLES
    assert all(example.output for example in EXAMPLES)
    for name in set(crewbus_langchain.__all__) - {"LangchainPlugin"}:
        assert f"{name}(" in README


def test_links_resolve():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (PLUGIN / target).exists(), target
    for target in re.findall(r"`(crewbus_langchain/\w+\.py)`", README):
        assert (PLUGIN / target).exists(), target
