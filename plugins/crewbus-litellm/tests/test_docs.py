"""The README: its examples print the output below them, and its links resolve."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import crewbus_litellm
from crewbus.testing import examples

PLUGIN = Path(__file__).parents[1]
README = (PLUGIN / "README.md").read_text("utf-8")
EXAMPLES = examples(PLUGIN / "README.md")


@pytest.fixture
def installed(monkeypatch):
    """The entry point, where the distribution is not installed."""
    from importlib import metadata

    found = metadata.entry_points
    ours = metadata.EntryPoint("litellm", "crewbus_litellm:LitellmPlugin", "crewbus")

    def entry_points(**which):
        known = found(**which)
        if which != {"group": "crewbus"} or any(entry.name == "litellm" for entry in known):
            return known
        return metadata.EntryPoints([*known, ours])

    monkeypatch.setattr(metadata, "entry_points", entry_points)


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
@pytest.mark.usefixtures("installed")
def test_examples_print_the_output_below_them(example):
    example.check()


def test_every_public_name_has_an_example():
    assert EXAMPLES
    assert all(example.output for example in EXAMPLES)
    for name in ("install", "uninstall"):
        assert f"crewbus_litellm.{name}(" in README
        assert name in crewbus_litellm.__all__


def test_links_resolve():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (PLUGIN / target).exists(), target
    for target in re.findall(r"`(crewbus_litellm/\w+\.py|setup\.cfg)`", README):
        assert (PLUGIN / target).exists(), target
